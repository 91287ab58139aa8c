"""Workspaces in which stores are built, and the step that publishes the result as the store.

It may import zarr_store and the layers below it.
"""
