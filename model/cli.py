"""Commands that train and use a network; TensorFlow is imported only when one of them runs."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import click

from melzarr.model.tensorflow_setup import load_tensorflow
from melzarr.pipeline.cli.options import AS_JSON, STORE, Address, Guarded, read_size
from melzarr.pipeline.cli.output import as_text, next_step, show
from melzarr.pipeline.cli.progress import SHOWN, beside_bar, say
from melzarr.pipeline.errors import AudioError
from melzarr.pipeline.sources.split import SPLITS
from melzarr.pipeline.storage.directory import Directory

if TYPE_CHECKING:
    from melzarr.model.run_directory import Run
    from melzarr.pipeline.zarr_store.reader import Store

RUN = click.argument("run", type=Address())
RUN_OPTION = click.option(
    "--run",
    type=click.Path(path_type=Path),
    help="Folder of the run.  [default: runs/STORE-RECIPE-PROTOCOL, or -folds-N]",
)
RECIPE = click.option(
    "--recipe",
    default="default",
    show_default=True,
    metavar="default|article|FILE",
    help="Recipe of the training: a name or a TOML file.",
)
PROTOCOL = click.option(
    "--protocol",
    default="track",
    show_default=True,
    metavar="track|window|NAME",
    help=(
        "Test data: tracks that were not trained on (track); windows that were not trained on, as in the article "
        "(window); or a split of the dataset's recipe, such as fault-filtered."
    ),
)
FOLDS = click.option(
    "--folds",
    type=click.IntRange(2),
    help="Train one member per fold of the groups, in place of a protocol. Each track is judged by the member that has "
    "not heard its group; the model of the run is the mean of the members' log-probabilities.",
)
EPOCHS = click.option("--epochs", type=click.IntRange(1), help="Maximum number of epochs.  [default: from the recipe]")
SEED = click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Seed of weights, dropout and order, and of folds.",
)
MEMORY = click.option(
    "--memory",
    metavar="SIZE",
    callback=read_size,
    help="Memory for decoded tracks, such as 4GB; if they do not fit, they are read in each epoch, some at a time.  "
    "[default: half of the free memory]",
)
FORCE = click.option("--force", is_flag=True, help="Start again from the beginning, and remove the run in the folder.")


@click.command(cls=Guarded)
@STORE
@RECIPE
@PROTOCOL
@FOLDS
@RUN_OPTION
@EPOCHS
@SEED
@MEMORY
@FORCE
def train(
    store: Directory,
    recipe: str,
    protocol: str,
    folds: int | None,
    run: Path | None,
    epochs: int | None,
    seed: int,
    memory: int | None,
    force: bool,
) -> None:
    """Train the network on STORE, and evaluate it.

    The default recipe also trains small networks of the summary of each whole track, in seconds. The model of the run
    joins both. On the test split it is compared with simple baselines, as by melzarr evaluate --baselines.

    A run is a folder with the model, its configuration, its history (also for TensorBoard), its metrics and pictures.
    A training that was stopped resumes after its last epoch. On hundreds of tracks a single split says little: --folds
    judges all of them.

    \b
      melzarr train demo.zarr
      melzarr train music.zarr --folds 5
      melzarr train gtzan.zarr --recipe article --protocol window --run runs/as-in-2017
    """
    load_tensorflow(SHOWN)
    from melzarr.model.run_directory import Run
    from melzarr.pipeline.zarr_store.reader import open_store

    opened = open_store(store)
    judged = f"folds-{folds}" if folds else protocol
    folder = Run(run or Path("runs") / f"{PurePosixPath(store.name).stem}-{Path(recipe).stem}-{judged}")
    options = {"recipe": recipe, "protocol": protocol, "folds": folds, "epochs": epochs, "seed": seed}
    _train(opened, folder, **options, memory=memory, replace=force)
    if folds:
        next_step("predict", folder.path, "song.mp3")
    else:
        next_step("evaluate", folder.path, store)


def _train(store: Store, run: Run, **options: Any) -> dict[str, Any]:
    """Train one run, show its progress and what melzarr.model logs, and print its metrics."""
    from melzarr.model.messages import baseline_lines, confusion_lines, metrics_lines, spread_line
    from melzarr.model.train_by_name import train_by_name

    handler, log = _Lines(), logging.getLogger("melzarr.model")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        found = train_by_name(store, run, **options, feedback=SHOWN)
    finally:
        log.removeHandler(handler)
    for part in ("valid", "test"):
        if part in found:
            show(metrics_lines(part, found["protocol"], found[part]))
    if "baselines" in found["test"]:
        show(baseline_lines(found["test"]))
    if "folds" in found:
        click.echo(spread_line(found["folds"]))
        show(confusion_lines(found["test"]))
    click.echo(f"pictures: {', '.join(sorted(str(path) for path in run.path.glob('*.png')))}")
    return found


class _Lines(logging.Handler):
    """Log handler that prints beside a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        say(record.getMessage())


@click.command(cls=Guarded)
@RUN
@STORE
@click.option("--split", default="test", show_default=True, type=click.Choice(SPLITS), help="Split to evaluate on.")
@click.option(
    "--with-trained",
    is_flag=True,
    help="If STORE is not the store that RUN was trained on, also count tracks that RUN was trained on.",
)
@click.option(
    "--baselines",
    is_flag=True,
    help="Also train a majority class and an SVM on the train split of RUN, and say whether RUN is ahead of them.",
)
@AS_JSON
def evaluate(run: Directory, store: Directory, split: str, with_trained: bool, baselines: bool, as_json: bool) -> None:
    """Evaluate the model of RUN on a split of STORE.

    Print the accuracy of windows and of tracks, each with a 95 % interval, and the protocol. If tracks are in groups,
    such as albums, intervals are over the groups. If RUN was trained on another store, tracks of the same audio files
    are left out, and their number is printed. RUN is the folder of a training, or a shared run: a folder, NAME.zip, or
    an address.

    With --baselines, the same tracks are also classified by the most frequent label, and by an SVM on each track's
    mean spectrum and its deviations, both trained on the tracks that RUN was trained on. A network that is not ahead of
    these has learnt little. The interval of the difference is paired: it compares answers for the same tracks.

    \b
      melzarr evaluate runs/demo-default-track demo.zarr
      melzarr evaluate runs/demo-default-track demo.zarr --baselines
      melzarr evaluate runs/demo-default-track demo.zarr --split valid --json
    """
    load_tensorflow(SHOWN)
    from melzarr.model.evaluate import evaluate as evaluate_run
    from melzarr.model.messages import baseline_lines, confusion_lines, metrics_lines
    from melzarr.model.shared_run import opened_run
    from melzarr.pipeline.zarr_store.reader import open_store

    feedback = replace(SHOWN, warn=beside_bar)
    options: dict[str, Any] = {"with_trained": with_trained, "with_baselines": baselines, "feedback": feedback}
    with opened_run(run, SHOWN) as folder:
        found = evaluate_run(folder, open_store(store), split, **options)
    found["run"] = str(run)
    if as_json:
        click.echo(as_text(found))
        return
    show(metrics_lines(split, found["protocol"], found))
    if baselines:
        click.echo()
        show(baseline_lines(found))
    click.echo()
    show(confusion_lines(found))
    next_step("predict", run, "song.mp3")


@click.command(cls=Guarded)
@RUN
@click.argument("songs", metavar="SONG…", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--top", type=click.IntRange(1), default=3, show_default=True, help="Number of genres to print.")
@click.option("--plot", type=click.Path(path_type=Path), help="Also draw genre over time, as .png or .svg.")
@AS_JSON
@click.pass_context
def predict(
    ctx: click.Context, run: Directory, songs: tuple[Path, ...], top: int, plot: Path | None, as_json: bool
) -> None:
    """Predict the genre of each SONG, of any length and in any format that can be read.

    All windows of a song are used. Its genre is the one with the largest mean log-probability. A run of the default
    recipe has a second opinion, of the summary of the whole song; the genre is that of both together. The line has the
    vote of the windows and the answer of the summary too; --json has the probabilities of each opinion alone, and
    --plot shows both over time. The exit code is 1 if a song is too short, silent or cannot be read; the other songs
    are still processed. RUN is the folder of a training, or a shared run: a folder, NAME.zip, or an address.

    \b
      melzarr predict runs/demo-default-track song.mp3
      melzarr predict runs/demo-default-track *.flac --json
      melzarr predict s3://music/genres.zip song.mp3
    """
    load_tensorflow(SHOWN)
    from melzarr.model.messages import prediction_line
    from melzarr.model.plots import draw_songs
    from melzarr.model.predict import expected_windows
    from melzarr.model.predict import predict as predict_song
    from melzarr.model.shared_run import opened_run

    with opened_run(run, SHOWN) as folder:
        spec, labels, model = folder.spec, tuple(folder.labels), folder.model()
        if said := folder.unfinished():
            beside_bar(said)
    heard, answers = [], []
    n_windows = sum(expected_windows(path, spec) for path in songs)
    with SHOWN.counting(n_windows, "predict", "window") as progress:
        for path in songs:
            try:
                song = predict_song(model, spec, labels, path, progress)
            except AudioError as error:
                answers.append({"path": str(path), "status": "failed", "error": str(error)})
                beside_bar(f"{path}: {error}")
            else:
                heard.append(song)
                answers.append(song.to_dict())
                if not as_json:
                    say(prediction_line(song, top))
    if as_json:
        click.echo(as_text(answers))
    if plot:
        draw_songs(heard, plot)
        click.echo(f"picture: {plot}", err=as_json)
    ctx.exit(0 if len(heard) == len(songs) else 1)


@click.command(cls=Guarded)
@STORE
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help="Folder for the runs and the report.  [default: runs/STORE-reproduce, or -folds-N]",
)
@click.option(
    "--folds",
    type=click.IntRange(2),
    help="Compare the recipes over group folds, in which each track is judged, in place of splits.",
)
@EPOCHS
@SEED
@MEMORY
def reproduce(
    store: Directory, folder: Path | None, folds: int | None, epochs: int | None, seed: int, memory: int | None
) -> None:
    """Repeat the article's experiment on STORE, compare it with today's recipe, and write a report.

    The article's recipe is tested on windows of the same tracks and on other tracks. The default recipe is tested on
    other tracks, and on each split that the dataset's recipe names. On other tracks, both are compared with baselines.
    With --folds, both recipes, each opinion alone and the baselines judge every track, which says more of hundreds of
    tracks. This takes hours for a thousand tracks. If it is stopped, the same command resumes it.

    \b
      melzarr reproduce gtzan.zarr
      melzarr reproduce music.zarr --folds 5
    """
    load_tensorflow(SHOWN)
    from melzarr.model.reproduce import reproduce as reproduce_all
    from melzarr.model.reproduce_folds import reproduce_folds
    from melzarr.pipeline.zarr_store.reader import open_store

    opened = open_store(store)
    stem = f"{PurePosixPath(store.name).stem}-reproduce"
    folder = folder or Path("runs") / (f"{stem}-folds-{folds}" if folds else stem)
    options = {"epochs": epochs, "seed": seed, "memory": memory}
    if folds:
        report = reproduce_folds(
            opened, folder, folds, lambda recipe, run: _train(opened, run, recipe=recipe, folds=folds, **options)
        )
    else:
        report = reproduce_all(
            opened,
            folder,
            lambda recipe, protocol, run: _train(opened, run, recipe=recipe, protocol=protocol, **options),
        )
    click.echo(f"report: {report}")
