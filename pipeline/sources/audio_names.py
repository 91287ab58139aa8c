"""Names of audio files: their extensions, and the ids that follow from them."""

from __future__ import annotations

from melzarr.pipeline.sources.tracks import Track

# Formats of audio, and of films with sound. What cannot be decoded becomes a failed track with a remedy in its message.
EXTENSIONS = frozenset(
    {
        ".wav", ".wave", ".w64", ".rf64", ".bwf", ".aif", ".aiff", ".aifc", ".au", ".snd", ".sph", ".caf", ".flac",
        ".ogg", ".oga", ".ogv", ".opus", ".spx", ".mp3", ".mp2", ".mp1", ".mpga", ".mp4", ".m4a", ".m4b", ".m4r",
        ".aac", ".3gp", ".3g2", ".mov", ".wma", ".avi", ".ape", ".wv", ".tta", ".mpc", ".mp+", ".mka", ".mkv", ".webm",
        ".ts", ".m2ts", ".ac3", ".amr", ".dsf",
    }
)  # fmt: skip


def new_track(source: str, label: str, name: str = "", group: str = "", part: str = "") -> Track:
    """Make a track; its id defaults to its path without a known extension, its group to its id."""
    if not name:
        name = without_extension(source) or source
    return Track(name, label, source, group or name, part)


def without_extension(source: str) -> str | None:
    """Return a path without its extension, if that is known; not by pathlib, which keeps every name in memory."""
    stem, _, extension = source.rpartition(".")
    return stem if stem and not stem.endswith("/") and f".{extension.lower()}" in EXTENSIONS else None
