"""Options that commands share, each defined once, and command classes that print errors as sentences."""

from __future__ import annotations

import dataclasses
import errno
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from melzarr.pipeline import defaults
from melzarr.pipeline.cli.terminal import steady_streams
from melzarr.pipeline.errors import CallError, MelzarrError
from melzarr.pipeline.sources.split import HashSplit
from melzarr.pipeline.spec import CHOICES, MIDDLE, PRESETS, WINDOW_FUNCTIONS, FeatureSpec
from melzarr.pipeline.storage.directory import Directory
from melzarr.pipeline.storage.open_storage import open_directory
from melzarr.pipeline.untrusted_text import printable

Function = TypeVar("Function", bound=Callable[..., Any])

# Commands that continue where they were stopped.
GOES_ON = {"fetch", "features", "job-array", "append", "merge", "share", "train", "reproduce"}

REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space there"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "allow it, or choose another path,"),
}


class Guarded(click.Command):
    """A command that prints errors as sentences; ``--debug`` shows their tracebacks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(click.Option(["--debug"], is_flag=True, help="Show the traceback of an error."))

    def invoke(self, ctx: click.Context) -> Any:
        """Call the command, and turn an error into a sentence and an exit code."""
        if ctx.params.pop("debug"):
            return super().invoke(ctx)
        name = ctx.command_path.partition(" ")[2]
        try:
            return super().invoke(ctx)
        except MelzarrError as error:
            sentence, code = str(error), error.exit_code
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            remedy = REMEDIES.get(error.errno or 0, "fix this")
            sentence, code = f"{where}{error.strerror or error}; {remedy} and run the same command again", 1
        except KeyboardInterrupt:
            goes_on = name.partition(" ")[0] in GOES_ON
            sentence, code = "stopped", 1
            if goes_on:
                sentence += "; what was finished is kept, so run the same command again to continue"
        click.echo(printable(f"melzarr {name}: {sentence}", keep="\n"), err=True)
        return ctx.exit(code)


class InOrder(click.Group):
    """A group whose help lists the commands in workflow order."""

    command_class = Guarded

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the named command, with standard streams on which printing never fails."""
        steady_streams()
        return super().main(*args, **kwargs)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's signature)
        """Return the names in the order of definition."""
        return list(self.commands)


def read_size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:  # noqa: ARG001  (click's)
    """Parse a number of bytes, such as 4GB or 512MiB; a callback of an option."""
    if value is None:
        return None
    try:
        from melzarr.pipeline.dask_imports import parse_bytes

        return int(parse_bytes(value))
    except CallError as error:
        raise click.UsageError(str(error)) from error
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a size; give one such as 4GB or 512MiB") from error


def read_walltime(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:  # noqa: ARG001  (click's)
    """Parse a time, such as 01:30:00, 1-12:00:00 or 90m, into seconds; a callback of an option."""
    if value is None:
        return None
    if clock := re.fullmatch(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)", value):
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        found = float(((24 * days + hours) * 60 + minutes) * 60 + seconds)
    else:
        try:
            from melzarr.pipeline.dask_imports import parse_timedelta

            found = float(parse_timedelta(value, default=False))
        except CallError as error:
            raise click.UsageError(str(error)) from error
        except (LookupError, TypeError, ValueError):
            found = 0.0
    if not found > 0:
        raise click.BadParameter(f"{value!r} is not a time; give one such as 01:30:00 or 90m")
    return found


DEFAULT_DATASETS = Path("datasets")


class Address(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Type of a parameter that is a path, or an address in an object store."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Directory:
        """Return the directory at the path or address."""
        try:
            return open_directory(value)
        except CallError as error:
            self.fail(str(error), param, ctx)


class Start(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Type of a parameter that is a number of seconds, or the middle of a file."""

    name = "start"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        """Return the number, or the word."""
        return MIDDLE if value == MIDDLE else float(click.FLOAT.convert(value, param, ctx))


STORE = click.argument("store", type=Address())
SOURCE = click.argument("source")
DATASETS = click.option(
    "--datasets",
    type=click.Path(path_type=Path),
    default=DEFAULT_DATASETS,
    show_default=True,
    help="Folder of the dataset recipes, with one folder per dataset.",
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
CLUSTER = click.option(
    "--cluster",
    default="local",
    show_default=True,
    metavar="CLUSTER",
    help=(
        "Where to compute: local (this machine), slurm, pbs, sge, lsf, kubernetes, or the address of a Dask "
        "scheduler, tcp://HOST:PORT or tls://HOST:PORT."
    ),
)
DASHBOARD = click.option(
    "--dashboard", is_flag=True, help="Start the Dask dashboard, which all users of this machine can open."
)
MEMORY = click.option(
    "--memory",
    callback=read_size,
    metavar="SIZE",
    help="Memory of each job or pod, such as 4GB.  [default: what one shard needs]",
)
WALLTIME = click.option(
    "--walltime",
    callback=read_walltime,
    metavar="TIME",
    help="Time limit of each job, such as 01:00:00 or 90m.  [default: from Dask's configuration, 00:30:00]",
)
WORKERS = click.option(
    "--workers",
    type=click.IntRange(0),
    default=None,
    help="Number of local workers; 0 computes in this process.  [default: one per core, as memory allows]",
)
FORCE = click.option("--force", is_flag=True, help="Replace a finished store when the new one is complete.")
MAX_FAILED = click.option(
    "--max-failed",
    type=click.FloatRange(0, 1),
    help=(
        f"Share of tracks that may fail.  [default: {defaults.MAX_FAILED}, or {defaults.ALWAYS_ALLOWED} tracks if that "
        "is more]"
    ),
)
WORKERS_ANYWHERE = click.option(
    "--workers",
    type=click.IntRange(0),
    default=None,
    help=(
        "Number of workers, or the maximum if they are jobs or pods; 0 computes in this process.  [default: one per "
        f"core of this machine, as memory allows; {defaults.MAX_JOBS} jobs or pods]"
    ),
)
GROUP = click.option(
    "--group",
    "group_column",
    default="group",
    show_default=True,
    metavar="COLUMN",
    help="Column of the manifest; tracks with the same value are kept in one split.",
)
PATH_COLUMN = click.option(
    "--path-column", default="path", show_default=True, metavar="COLUMN", help="Column of the manifest with the paths."
)
LABEL_COLUMN = click.option(
    "--label-column",
    default="label",
    show_default=True,
    metavar="COLUMN",
    help="Column of the manifest with the labels.",
)
AUDIO_ROOT = click.option(
    "--audio-root",
    type=Address(),
    help="Folder or address to which the paths of the manifest are relative.  [default: the manifest's folder]",
)
FOLLOW_LINKS = click.option("--follow-links", is_flag=True, help="Follow links to folders in a folder of label/file.")
SPLIT = click.option(
    "--split", "named_split", metavar="NAME", help="Name of a split in the dataset's recipe, such as fault-filtered."
)
_BY_HASH = HashSplit()
VALID = click.option("--valid", type=float, help=f"Share of groups in the valid split.  [default: {_BY_HASH.valid}]")
TEST = click.option("--test", type=float, help=f"Share of groups in the test split.  [default: {_BY_HASH.test}]")
SEED = click.option("--seed", type=click.IntRange(0, 2**32 - 1), help=f"Seed of the split.  [default: {_BY_HASH.seed}]")
TRACKS_PER_SHARD = click.option(
    "--tracks-per-shard",
    type=click.IntRange(1),
    help=f"Tracks in one file of the store.  [default: {defaults.TRACKS_PER_SHARD}]",
)
SPEC_HELP = {
    "sample_rate": "Sample rate to which audio is resampled, in Hz.",
    "window": "Length of a window, in samples.",
    "stride": "Distance between the starts of windows, in samples.",
    "n_windows": "Number of windows per track.",
    "start": "Where the windows begin in each file, in s; middle centres them in it.",
    "n_fft": "Length of a frame, in samples.",
    "hop_length": "Distance between the centres of frames, in samples.",
    "window_function": f"Weights of the samples of a frame: {', '.join(WINDOW_FUNCTIONS)}.",
    "pad_mode": "How a window is padded at both ends.",
    "n_mels": "Number of mel bands.",
    "fmin": "Lower edge of the lowest band, in Hz.",
    "fmax": "Upper edge of the highest band, in Hz.",
    "mel_scale": "Scale on which the bands are equally wide.",
    "norm": "Give each band the area 1, or the height 1.",
    "power": "Exponent of the magnitude spectrum.",
    "scale": "Store power, or its level in dB.",
    "dtype": "Data type of the stored values; float16 needs --scale db.",
}
_PRESETS = "\n\n".join(f"{name}: {preset.origin}." for name, preset in PRESETS.items())
PRESET = click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    help=f"Take the spec that others use; the options below change it.\n\n{_PRESETS}",
)


def spec_options(function: Function) -> Function:
    """Add the presets, and one option for each field of a spec, to a command."""
    metavars = {"window_function": "NAME", "start": f"{MIDDLE}|SECONDS"}  # there are too many names to list them twice
    kinds = {**{name: click.Choice(choices) for name, choices in CHOICES.items()}, "start": Start()}
    for field in reversed(dataclasses.fields(FeatureSpec)):
        kind = kinds.get(field.name) or type(field.default or 0.0)
        default = "half the sample rate" if field.default is None else field.default
        function = click.option(
            f"--{field.name.replace('_', '-')}",
            type=kind,
            metavar=metavars.get(field.name),
            help=f"{SPEC_HELP[field.name]}  [default: {default}]",
        )(function)
    return PRESET(function)


def listing_options(function: Function) -> Function:
    """Add the options that define how the tracks of a source are listed to a command."""
    for option in (FOLLOW_LINKS, AUDIO_ROOT, GROUP, LABEL_COLUMN, PATH_COLUMN, DATASETS):
        function = option(function)
    return function


def source_options(function: Function) -> Function:
    """Add the options that define what is computed from a source to a command."""
    function = TRACKS_PER_SHARD(spec_options(function))
    for option in (SEED, TEST, VALID, SPLIT):
        function = option(function)
    return listing_options(function)
