"""Assign tracks to the train, valid and test splits of a dataset."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from melzarr.pipeline.errors import CatalogError

SPLITS = ("train", "valid", "test")
UNUSED = "unused"


@dataclass(frozen=True, kw_only=True, slots=True)
class HashSplit:
    """A split by the hash of a group's name.

    The split of a group depends only on its own hash. A group is never separated, even if it has several labels, and
    adding tracks moves no other track. Every label is divided in the same shares, up to random variation: among n
    groups a share p is met within about sqrt(p (1 - p) / n).

    Parameters
    ----------
    valid, test : float in [0, 1)
        Shares of the valid and the test split; the rest is the train split.
    seed : int
        Seed of the hash; another seed gives another assignment.

    Raises
    ------
    CatalogError
        If a share is outside [0, 1) or nothing is left to train on.
    """

    valid: float = 0.15
    test: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        """Validate the shares."""
        if not (0 <= self.valid < 1 and 0 <= self.test < 1 and self.valid + self.test < 1):
            raise CatalogError(
                f"valid={self.valid} and test={self.test} leave nothing to train on; use shares from 0 "
                f"that add up to less than 1"
            )

    def part(self, group: str) -> str:
        """Return the split of a group: "train", "valid" or "test".

        Parameters
        ----------
        group : str
            Name of the group; for a track without a group, its id.
        """
        digest = hashlib.sha256(f"{self.seed}\0{group}".encode()).digest()
        draw = int.from_bytes(digest[:8]) / 2**64
        if draw < self.test:
            return "test"
        return "valid" if draw < self.test + self.valid else "train"
