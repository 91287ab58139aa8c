"""Set up a worker on this machine before it accepts work."""

import signal

import distributed

import melzarr.pipeline.builder.worker  # noqa: F401  (imported at the start, so that the first shard need not wait)
from melzarr.pipeline.features.kernel_cache import compiled_kernel


def dask_setup(worker: distributed.Worker) -> None:  # noqa: ARG001  (Dask's signature)
    """Ignore Ctrl-C, which a terminal sends to all processes and the client handles, and prepare the kernel."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    compiled_kernel()
