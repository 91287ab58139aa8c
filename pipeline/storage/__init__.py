"""Read and write files by name: on a disk, in a zip archive, in an object store.

It may import errors, spec, shard_receipt, versions, human_units and threads.
"""
