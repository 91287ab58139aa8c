"""Where a build runs: this process, this machine, a Dask scheduler, a batch system, Kubernetes.

It may import zarr_store and what stands before it.
"""
