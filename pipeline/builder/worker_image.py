"""What is in memory when a worker starts: the forkserver imports this, and each worker is a copy of it."""

try:
    import melzarr.pipeline.builder.worker_setup  # noqa: F401
    from melzarr.pipeline.features.kernel_cache import compiled_kernel
    from melzarr.pipeline.versions import versions

    compiled_kernel()
    versions()  # imports the codecs
except Exception as error:
    # The server ignores an ImportError. The client or a worker reports what is missing.
    raise ImportError(str(error)) from error
