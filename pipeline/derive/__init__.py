"""Stores made from stores: appended, merged, selected.

It may import builder and what stands before it.
"""
