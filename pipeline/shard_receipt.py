"""Receipts: the summary of a written shard that a worker returns instead of the arrays."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field, fields
from typing import Any, Self

_DIGEST = re.compile("[0-9a-f]{64}")
STATUSES = ("ok", "short", "silent", "failed")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackReceipt:
    """The outcome of one track.

    Parameters
    ----------
    status : {"ok", "short", "silent", "failed"}
        "short" if the audio ends before the last window, "silent" if there is nothing to hear.
    error : str
        What is wrong with the track, as a sentence; empty if it is ok.
    n_windows : int
        Number of valid windows; the others are NaN.
    source_blake3 : str
        BLAKE3 of the source file; empty if it could not be read. If a store of an older schema has computed the track,
        "sha256:" and the SHA-256.
    source_rate : float, in Hz
        Sample rate of the source file; NaN if unknown.
    source_channels : float
        Number of channels of the source file; NaN if unknown.
    duration : float, in s
        Duration of the source file; NaN if unknown.
    peak : float
        Largest magnitude of the samples that were used, 1 is full scale; NaN if unknown.
    clipped : float
        Fraction of these samples at full scale or beyond; NaN if unknown.
    start, end : float, in s
        Where the windows begin in the source file, and where the track ends in it at the latest; an end of NaN is that
        of the file, a start of NaN is unknown.
    decoder : str
        Library that decoded the source file, "libsndfile" or "FFmpeg"; empty if none did.
    """

    status: str
    error: str = ""
    n_windows: int = 0
    source_blake3: str = ""
    source_rate: float = float("nan")
    source_channels: float = float("nan")
    duration: float = float("nan")
    peak: float = float("nan")
    clipped: float = float("nan")
    start: float = 0.0
    end: float = float("nan")
    decoder: str = ""


TYPES = {field.name: {"str": str, "int": int, "float": float}[str(field.type)] for field in fields(TrackReceipt)}


def counts(split: str, status: str) -> bool:
    """Return whether the store's statistics include a track; they cover only the tracks that a network learns from."""
    return split == "train" and status == "ok"


@dataclass(frozen=True, kw_only=True, slots=True)
class BandSums:
    """Sums over the frames of the train split's ok tracks, for the store's statistics.

    Parameters
    ----------
    count : int
        Number of frames.
    level, square : tuple of float, in dB and dB²
        Sums of the levels and of their squares in each band, length n_mels.
    """

    count: int
    level: tuple[float, ...]
    square: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """The outcome of one shard.

    Parameters
    ----------
    index : int
        Index of the shard.
    key : str
        Digest of everything that its bytes depend on except the audio: spec, versions, tracks and their splits.
    blake3 : str
        BLAKE3 of the shard's file; its SHA-256 in a store of an older schema.
    n_bytes : int
        Size of the shard's file.
    tracks : tuple of TrackReceipt
        Receipts of the tracks, in the order of the shard.
    sums : BandSums
        Sums over the shard's train tracks.
    seconds : dict of str to float, in s
        Time spent in each step, such as "fetch", "decode", "mel" and "write".
    reused : bool
        Whether an existing shard was checked and kept instead of being computed.
    sha256 : str
        SHA-256 of the shard's file, for a list of checksums; empty if there will be none.
    outdated : str
        Why the shard of an earlier run was not kept; empty if there was none or it was kept.

    Raises
    ------
    ValueError
        If `blake3` is not a digest.
    """

    index: int
    key: str
    blake3: str
    n_bytes: int
    tracks: tuple[TrackReceipt, ...]
    sums: BandSums
    seconds: dict[str, float] = field(default_factory=dict)
    reused: bool = False
    sha256: str = ""
    outdated: str = ""

    def __post_init__(self) -> None:
        """Validate the digest: it becomes a file name, and a receipt may come from a stranger."""
        if not _DIGEST.fullmatch(self.blake3):
            raise ValueError(f"{self.blake3!r:.80} is not a digest")

    @property
    def n_failed(self) -> int:
        """Number of tracks that failed."""
        return sum(track.status == "failed" for track in self.tracks)

    def to_json(self) -> bytes:
        """Return the receipt as JSON."""
        return json.dumps(self, default=_fields).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Parse a receipt from JSON.

        Raises
        ------
        ValueError
            If the data is not a receipt.
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
            raise ValueError(f"not a receipt: {error}") from error


def _fields(value: Any) -> dict[str, Any]:
    """Return a dataclass's fields by name; `dataclasses.asdict` also copies all numbers and takes ten times as long."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
