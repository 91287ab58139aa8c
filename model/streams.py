"""Random numbers: a stream of its own for each purpose, so that no two draw the same."""

from __future__ import annotations

from typing import Final

import numpy as np

# What they are for; never 0, for zeros at the end of a seed count for nothing.
OF_TRACKS: Final = 1
OF_WINDOWS: Final = 2
OF_PARTS: Final = 3
OF_INTERVALS: Final = 4


def stream(purpose: int, *seeds: int) -> np.random.Generator:
    """Give the random numbers of a purpose.

    Parameters
    ----------
    purpose : int
        One of the above.
    *seeds : int
        Seed, and what else tells one stream of this purpose from another, such as the epoch.
    """
    return np.random.default_rng((*seeds, purpose))
