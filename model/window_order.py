"""The order of the windows in an epoch: a function of the seed and the epoch alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from melzarr.model.selection import Selection
from melzarr.model.streams import OF_TRACKS, OF_WINDOWS, stream

# Size of a pool, whose windows are mixed, in whole tracks. If an epoch draws some windows of each track, a pool has
# more tracks, and as many windows. It is constant, because the order of an epoch must not depend on the memory of a
# machine. 64 tracks of the default spec take 98 MB, and their 38336 windows fill 299 batches of 128.
POOL = 64


@dataclass(frozen=True)
class Order:
    """Order of the windows in an epoch, as a function of only the seed and the number of the epoch.

    Parameters
    ----------
    selection : Selection
        The windows.
    seed : int
        Seed of the order.
    windows_per_track : int > 0, optional
        Number of windows per track; by default all.
    balanced : bool
        Whether each class has the same number of tracks in an epoch, and each track the same number of windows. Tracks
        of small classes then come more than once in an epoch, and some tracks of large classes do not.
    rank, n_ranks : int
        Which of how many parts of the epoch this is. Each track is in one part.
    """

    selection: Selection
    seed: int
    windows_per_track: int | None = None
    balanced: bool = False
    rank: int = 0
    n_ranks: int = 1

    def n_windows(self, epoch: int) -> int:
        """Return the number of windows in an epoch. It varies only if there are several ranks."""
        return int(self._counts[self._tracks(epoch)].sum())

    @cached_property
    def _counts(self) -> npt.NDArray[np.intp]:
        """Number of windows that each track has in an epoch."""
        counts: npt.NDArray[np.intp] = self.selection.windows.sum(axis=1)
        most = int(np.min(counts) if self.balanced else np.max(counts))
        return counts.clip(max=min(most, self.windows_per_track or most))

    @property
    def most(self) -> int:
        """The most windows that a track has in an epoch."""
        return int(np.max(self._counts, initial=0))

    def _tracks(self, epoch: int) -> npt.NDArray[np.intp]:
        """Return the positions in the selection of the tracks of an epoch, in the order of the epoch."""
        rng = stream(OF_TRACKS, self.seed, epoch)
        labels = self.selection.labels
        if not self.balanced:
            return rng.permutation(labels.size)[self.rank :: self.n_ranks]
        classes = np.unique(labels)
        n_each = -(-labels.size // classes.size)
        drawn = []
        for members in (np.flatnonzero(labels == label) for label in classes):
            rounds = [rng.permutation(members) for _ in range(-(-n_each // members.size))]
            drawn.append(np.concatenate(rounds)[:n_each])
        return rng.permutation(np.concatenate(drawn))[self.rank :: self.n_ranks]

    def pools(self, epoch: int) -> list[npt.NDArray[np.intp]]:
        """Return the positions of each pool's tracks in the selection."""
        places = self._tracks(epoch)
        n_tracks = POOL * self.selection.windows.shape[1] // max(1, self.most)
        return [places[start : start + n_tracks] for start in range(0, places.size, n_tracks)]

    def find(self, epoch: int, window: int) -> tuple[int, int]:
        """Return the pool that has a window of an epoch, by its number in the epoch, and its number in that pool."""
        ends = np.cumsum([self._counts[pool].sum() for pool in self.pools(epoch)])
        number = int(np.searchsorted(ends, window, side="right"))
        return number, window - (int(ends[number - 1]) if number else 0)

    def windows(self, epoch: int, number: int, pool: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Return the windows of a pool in random order, shape (n, 2): position of the track in the pool, and window."""
        rng = stream(OF_WINDOWS, self.seed, epoch, number, *([self.rank, self.n_ranks] if self.n_ranks > 1 else []))
        pairs = np.argwhere(self.selection.windows[pool])
        if self.windows_per_track or self.balanced:
            pairs = pairs[_draw(pairs[:, 0], self.most, rng)]
        return rng.permutation(pairs)


def _draw(groups: npt.NDArray[np.intp], n: int, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """Draw at most n members of each group: order each group at random and take the first n."""
    order = np.lexsort((rng.random(groups.size), groups))
    ranks = np.arange(groups.size) - np.searchsorted(groups, groups)  # the groups are sorted
    return order[ranks < n]
