"""Random number generators: one stream per purpose, so that no two draw the same numbers."""

from __future__ import annotations

from typing import Final

import numpy as np

# Purposes of the streams. None is 0, because numpy ignores trailing zeros of a seed.
OF_TRACKS: Final = 1
OF_WINDOWS: Final = 2
OF_PARTS: Final = 3
OF_INTERVALS: Final = 4
OF_BASELINES: Final = 5


def stream(purpose: int, *seeds: int) -> np.random.Generator:
    """Return the random number generator of a purpose.

    Parameters
    ----------
    purpose : int
        One of the constants above.
    *seeds : int
        Seed, and numbers that distinguish the streams of this purpose, such as the epoch.
    """
    return np.random.default_rng((*seeds, purpose))
