"""Names of audio files: their extensions, and what remains without them."""

from __future__ import annotations

# Formats of audio, and of films with sound. What cannot be decoded becomes a failed track with a remedy in its message.
EXTENSIONS = frozenset(
    {
        ".wav", ".wave", ".w64", ".rf64", ".bwf", ".aif", ".aiff", ".aifc", ".au", ".snd", ".sph", ".caf", ".flac",
        ".ogg", ".oga", ".ogv", ".opus", ".spx", ".mp3", ".mp2", ".mp1", ".mpga", ".mp4", ".m4a", ".m4b", ".m4r",
        ".aac", ".3gp", ".3g2", ".mov", ".wma", ".avi", ".ape", ".wv", ".tta", ".mpc", ".mp+", ".mka", ".mkv", ".webm",
        ".ts", ".m2ts", ".ac3", ".amr", ".dsf",
    }
)  # fmt: skip


def without_extension(source: str) -> str | None:
    """Return a path without its extension, if that is known; not by pathlib, which keeps every name in memory."""
    stem, _, extension = source.rpartition(".")
    return stem if stem and not stem.endswith("/") and f".{extension.lower()}" in EXTENSIONS else None
