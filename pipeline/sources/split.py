"""Train, valid and test: which part of a dataset a track belongs to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from melzarr.pipeline.errors import CatalogError

SPLITS = ("train", "valid", "test")
UNUSED = "unused"


@dataclass(frozen=True, kw_only=True, slots=True)
class HashSplit:
    """A split by the hash of a group's name.

    Each group falls into a part by its own hash alone: a group is never separated, also where it has several labels,
    and adding tracks moves no other track. Every label is so divided in the same shares, but for the chance of the
    draw: among n groups a share p is met within about sqrt(p (1 - p) / n).

    Parameters
    ----------
    valid, test : float in [0, 1)
        Shares of the valid and the test part; the rest is the train part.
    seed : int
        Another seed gives another split.

    Raises
    ------
    CatalogError
        Where the shares leave nothing to train on.
    """

    valid: float = 0.15
    test: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse shares that cannot be."""
        if not (0 <= self.valid < 1 and 0 <= self.test < 1 and self.valid + self.test < 1):
            raise CatalogError(
                f"valid={self.valid} and test={self.test} leave nothing to train on; use shares from 0 "
                f"that add up to less than 1"
            )

    def part(self, group: str) -> str:
        """Part of one group: "train", "valid" or "test".

        Parameters
        ----------
        group : str
            Name of the group; a track by itself is a group named by its id.
        """
        digest = hashlib.sha256(f"{self.seed}\0{group}".encode()).digest()
        draw = int.from_bytes(digest[:8]) / 2**64
        if draw < self.test:
            return "test"
        return "valid" if draw < self.test + self.valid else "train"
