"""Clusters that run a build: this process, this machine, a Dask scheduler, a batch system, Kubernetes.

It may import zarr_store and the layers below it.
"""
