"""The report about a store: an HTML page with charts.

It may import `inspection` and the layers below it.
"""
