"""What a worker on this machine does before it takes work."""

import signal

import distributed

import melzarr.pipeline.builder.worker  # noqa: F401  (loaded while the worker starts, so that the first shard need not wait for it)
from melzarr.pipeline.features.kernel_cache import compiled_kernel


def dask_setup(worker: distributed.Worker) -> None:  # noqa: ARG001  (Dask's signature)
    """Leave Ctrl-C, which a terminal sends to all processes, to the client, and have the kernel ready."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    compiled_kernel()
