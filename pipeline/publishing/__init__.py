"""Work in progress beside a store, and how it becomes the store in one step.

It may import zarr_store and what stands before it.
"""
