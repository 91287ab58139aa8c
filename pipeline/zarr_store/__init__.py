"""The Zarr format of a store: its layout, its shards, and the reader.

It may import features and the layers below it.
"""
