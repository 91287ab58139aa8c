"""Names of files that are not the user's data: hidden files, and files that systems leave in folders by themselves."""

from __future__ import annotations

# Files that file managers create again: macOS Finder, Windows Explorer.
SYSTEM_FILES = frozenset({".DS_Store", "Thumbs.db", "ehthumbs.db", "desktop.ini"})
# Folders of the archiver of macOS, the recycle bin of Windows, thumbnails of Synology, and the root of a disk.
SYSTEM_FOLDERS = frozenset({"__MACOSX", "$RECYCLE.BIN", "System Volume Information", "@eaDir", "lost+found"})

# Folders in which a system keeps thumbnails and attributes of files beside them.
_COPIES = frozenset({"__macosx", "@eadir", ".appledouble"})

_FILES = frozenset(name.lower() for name in SYSTEM_FILES)
_IGNORED = _FILES | {name.lower() for name in SYSTEM_FOLDERS}


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


def is_worthless(path: str) -> bool:
    """Return whether a file may be lost, because a system made it by itself; hidden files of a user may not.

    Parameters
    ----------
    path : str
        As for `is_ignored`.

    Examples
    --------
    >>> is_worthless("mel/.DS_Store"), is_worthless("mel/._c"), is_worthless(".git/HEAD")
    (True, True, False)
    """
    *folders, name = path.lower().split("/")
    return name.startswith("._") or name in _FILES or not _COPIES.isdisjoint(folders)
