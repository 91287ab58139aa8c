"""Exceptions. Each message states what was found, where, and what to do."""


class MelzarrError(Exception):
    """Base of all errors that a user can fix; the command line prints the message and exits with `exit_code`."""

    exit_code = 1


class CallError(MelzarrError):
    """Options that cannot be combined."""

    exit_code = 2


class SpecError(MelzarrError):
    """A feature specification that cannot be computed."""

    exit_code = 2


class RecipeError(MelzarrError):
    """A dataset recipe that is missing or invalid."""

    exit_code = 2


class CatalogError(MelzarrError):
    """A source of audio files without a usable list of tracks."""

    exit_code = 2


class AudioError(MelzarrError):
    """An audio file that cannot be used; its track fails, and the build continues."""


class FetchError(MelzarrError):
    """A dataset that could not be downloaded or generated."""


class StoreError(MelzarrError):
    """A store that is missing, incomplete, in use or damaged."""


class StorageError(StoreError):
    """An object store that does not respond or denies access; its contents are unchanged."""


class BuildError(MelzarrError):
    """A build that ended before its store was complete; what it finished is kept for the next run."""


class RunError(MelzarrError):
    """A run that is missing, unfinished or of something else; or a training that cannot continue."""
