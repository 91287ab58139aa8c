"""Inspect a store or a source: describe, verify, scan, near duplicates, quality.

It may import derive and the layers below it.
"""
