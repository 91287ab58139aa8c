"""The page about a store, with its charts.

It may import inspection and what stands before it.
"""
