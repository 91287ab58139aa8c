"""Clusters that run a build: this process, this machine, a Dask scheduler, a batch system, Kubernetes.

It may import zarr_store and the layers below it.
"""

import melzarr.pipeline.dask_imports  # noqa: F401  (first, because its error names a configuration file that is no YAML)
