"""Names of audio files: their extensions, and the ids that follow from them."""

from __future__ import annotations

from melzarr.pipeline.sources.tracks import Track

# Formats that libsndfile reads, and other common ones, which become failed tracks with a remedy in their message.
READABLE = frozenset(
    {".wav", ".wave", ".au", ".snd", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".caf"}
)


UNREADABLE = frozenset({".m4a", ".mp4", ".aac", ".wma", ".ape", ".wv", ".mpc", ".mka", ".webm", ".ac3", ".dsf"})


EXTENSIONS = READABLE | UNREADABLE


def new_track(source: str, label: str, name: str = "", group: str = "", part: str = "") -> Track:
    """Make a track; its id defaults to its path without a known extension, its group to its id."""
    if not name:
        name = without_extension(source) or source
    return Track(name, label, source, group or name, part)


def without_extension(source: str) -> str | None:
    """Return a path without its extension, if that is known; not by pathlib, which keeps every name in memory."""
    stem, _, extension = source.rpartition(".")
    return stem if stem and not stem.endswith("/") and f".{extension.lower()}" in EXTENSIONS else None
