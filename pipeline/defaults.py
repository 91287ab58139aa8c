"""Defaults that the help of the command line also names; this module imports nothing, so that the help is quick."""

# 16 tracks of the default spec are 24 MB: few enough for a small worker and for fine-grained progress, and enough that
# a thousand tracks are 63 files instead of a thousand. The number is the same for every size of dataset and every
# number of workers, because the bytes of a store must not depend on where it was built.
TRACKS_PER_SHARD = 16

MAX_FAILED = 0.05  # share of tracks that may fail
ALWAYS_ALLOWED = 10  # failed tracks that the default allows: so few are no sign of a problem

MAX_JOBS = 10  # jobs of a batch system, or pods, at a time
