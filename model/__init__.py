"""Train, evaluate and use a Conv1D genre network on a Zarr store.

It may import melzarr.pipeline, which does not import it.
"""
