"""Names of files that are not the user's data: hidden files, and files that systems leave in folders by themselves."""

from __future__ import annotations

# Files that file managers create again: macOS Finder, Windows Explorer.
SYSTEM_FILES = frozenset({".DS_Store", "Thumbs.db", "ehthumbs.db", "desktop.ini"})
# Folders of the archiver of macOS, the recycle bin of Windows, thumbnails of Synology, and the root of a disk.
SYSTEM_FOLDERS = frozenset({"__MACOSX", "$RECYCLE.BIN", "System Volume Information", "@eaDir", "lost+found"})

_IGNORED = frozenset(name.lower() for name in SYSTEM_FILES | SYSTEM_FOLDERS)


def is_ignored(path: str) -> bool:
    """Return whether a file is passed over, because it or one of its folders is hidden or made by a system.

    Parameters
    ----------
    path : str
        Path with forward slashes, below the folder that is read.

    Examples
    --------
    >>> is_ignored("jazz/Thumbs.db"), is_ignored("__MACOSX/jazz/a.wav"), is_ignored("jazz/._a.wav")
    (True, True, True)
    >>> is_ignored("jazz/a.wav")
    False
    """
    return any(part.startswith(".") or part.lower() in _IGNORED for part in path.split("/"))
