"""Receipts: what a worker says of a shard that it has written, in place of the arrays themselves."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from typing import Any, Self

_DIGEST = re.compile("[0-9a-f]{64}")
STATUSES = ("ok", "short", "silent", "failed")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackReceipt:
    """What became of one track.

    Parameters
    ----------
    status : {"ok", "short", "silent", "failed"}
        "short" where the audio ends before the last window, "silent" where there is nothing to hear.
    error : str
        What is wrong with the track, as a sentence; empty where it is ok.
    n_windows : int
        Valid windows; the others are NaN.
    source_sha256 : str
        Digest of its file; empty where that could not be read.
    source_rate : float, in Hz
        Sample rate of its file; NaN where unknown.
    source_channels : float
        Channels of its file; NaN where unknown.
    duration : float, in s
        Length of its file; NaN where unknown.
    peak : float
        Largest magnitude of the samples that were taken, 1 is full scale; NaN where unknown.
    clipped : float
        Share of them at full scale or beyond; NaN where unknown.
    """

    status: str
    error: str = ""
    n_windows: int = 0
    source_sha256: str = ""
    source_rate: float = float("nan")
    source_channels: float = float("nan")
    duration: float = float("nan")
    peak: float = float("nan")
    clipped: float = float("nan")


def counts(split: str, status: str) -> bool:
    """Whether a store's statistics are taken from a track of this split and status: from what a network learns from."""
    return split == "train" and status == "ok"


@dataclass(frozen=True, kw_only=True, slots=True)
class BandSums:
    """Sums over the frames of the train split's ok tracks, from which its statistics follow.

    Parameters
    ----------
    count : int
        Frames that were summed.
    level, square : tuple of float, in dB and dB²
        Sum of the levels, and of their squares, in each band; length n_mels.
    """

    count: int
    level: tuple[float, ...]
    square: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """What became of one shard.

    Parameters
    ----------
    index : int
        Number of the shard.
    key : str
        Digest of all that its bytes depend on but the audio: spec, versions, tracks and their splits.
    sha256 : str
        Digest of the shard's file.
    n_bytes : int
        Size of the shard's file.
    tracks : tuple of TrackReceipt
        In the order of the shard's tracks.
    sums : BandSums
        Of the shard's train tracks.
    seconds : dict of str to float, in s
        Time spent in "decode", "mel" and "write".
    reused : bool
        Whether the shard was found, checked and kept rather than computed.
    outdated : str
        Why the shard that an earlier run left was not kept; empty where there was none, or it was.

    Raises
    ------
    ValueError
        Where the digest is none.
    """

    index: int
    key: str
    sha256: str
    n_bytes: int
    tracks: tuple[TrackReceipt, ...]
    sums: BandSums
    seconds: dict[str, float] = field(default_factory=dict)
    reused: bool = False
    outdated: str = ""

    def __post_init__(self) -> None:
        """Refuse a digest that is none: files are named by it, and a receipt may be somebody else's."""
        if not _DIGEST.fullmatch(self.sha256):
            raise ValueError(f"{self.sha256!r:.80} is no SHA-256")

    @property
    def n_failed(self) -> int:
        """Tracks that failed."""
        return sum(track.status == "failed" for track in self.tracks)

    def to_json(self) -> bytes:
        """Return the receipt as JSON."""
        return json.dumps(self, default=_fields).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read a receipt back.

        Raises
        ------
        ValueError
            Where the data is no receipt.
        """
        try:
            fields: dict[str, Any] = json.loads(data)
            sums = fields["sums"]
            return cls(
                **{
                    **fields,
                    "tracks": tuple(TrackReceipt(**track) for track in fields["tracks"]),
                    "sums": BandSums(count=sums["count"], level=tuple(sums["level"]), square=tuple(sums["square"])),
                }
            )
        except (TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"no receipt: {error}") from error


def _fields(value: Any) -> dict[str, Any]:
    """Fields of a dataclass by name; `dataclasses.asdict` copies every number too, and takes ten times as long."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
