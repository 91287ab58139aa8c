"""What can go wrong, as sentences: every error says what was found, where, and what to do."""


class MelzarrError(Exception):
    """Base of all errors that a user can mend; the command line prints its sentence and exits with `exit_code`."""

    exit_code = 1


class CallError(MelzarrError):
    """Options that do not go together."""

    exit_code = 2


class SpecError(MelzarrError):
    """A feature specification that cannot be computed."""

    exit_code = 2


class RecipeError(MelzarrError):
    """A dataset recipe that is missing, or that says something impossible."""

    exit_code = 2


class CatalogError(MelzarrError):
    """A source of audio files that gives no usable list of tracks."""

    exit_code = 2


class AudioError(MelzarrError):
    """One audio file that cannot be used; it becomes a failed track, and the build goes on."""


class FetchError(MelzarrError):
    """A dataset that could not be brought or made."""


class StoreError(MelzarrError):
    """A store that is missing, incomplete, in use or damaged."""


class StorageError(StoreError):
    """An object store that does not answer, or does not let one in; what lies there is as it was."""


class BuildError(MelzarrError):
    """A build that ended before its store was complete; what it finished is kept for the next run."""


class RunError(MelzarrError):
    """A run that is missing, unfinished, or of something else; or a training that cannot go on."""
