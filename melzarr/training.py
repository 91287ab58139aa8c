"""Training and using a network: `melzarr.windows`, `melzarr.train` and `melzarr.Run`."""

from __future__ import annotations

import weakref
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from melzarr.api import AnyStore
from melzarr.api import open as open_store
from melzarr.progress import feedback

if TYPE_CHECKING:
    import keras

    from melzarr.model.loader import Batches
    from melzarr.model.predict import Prediction
    from melzarr.model.run_directory import Run as RunDirectory


def windows(
    store: AnyStore,
    split: str = "train",
    batch_size: int = 128,
    *,
    seed: int = 0,
    epoch: int = 0,
    windows_per_track: int | None = None,
    weights: str | None = None,
    rank: int = 0,
    n_ranks: int = 1,
    memory: int | None = None,
    threads: int | None = None,
) -> Batches:
    """Return the windows of a split in batches, in a different order in each epoch.

    Parameters
    ----------
    store : str, Path, Store or JoinedStores, or a sequence of stores
        The store; several are read as one.
    split : str
        "train", "valid" or "test".
    batch_size : int > 0
        Windows per batch; the last batch of an epoch may have fewer.
    seed : int
        Seed of the order, which depends on the seed and the epoch alone.
    epoch : int >= 0
        Number of the first epoch.
    windows_per_track : int > 0, optional
        Number of windows per track, drawn at random in each epoch; by default all.
    weights : "balanced", optional
        "balanced" gives each class the same number of tracks in an epoch; by default each track comes once.
    rank, n_ranks : int
        Which of how many parts of each epoch is wanted, if several processes train one network. Each track is in one
        part.
    memory : int > 0, optional
        Bytes that decoded tracks may take; by default half of the free memory. If the split does not fit, it is
        streamed in each epoch.
    threads : int > 0, optional
        Threads that read and decode.

    Returns
    -------
    Batches
        Each iteration is the next epoch, and yields windows, (batch, n_frames, n_mels) float32 in the store's scale,
        and classes, (batch,) int32. A class is the place of a label in the sorted labels. ``tf()`` returns the same as
        a `tf.data.Dataset`, and ``torch()`` as an `IterableDataset`. After ``load_state_dict(state)``, with a state
        from ``state_dict()``, the next iteration is the rest of that epoch.

    Raises
    ------
    StoreError
        If the split has no ok track.
    CallError
        If an argument is out of its range.
    """
    from melzarr.model.loader import Batches
    from melzarr.model.selection import select

    opened = open_store(store).opened
    return Batches(
        opened,
        select(opened, split),
        batch_size,
        seed=seed,
        epoch=epoch,
        windows_per_track=windows_per_track,
        weights=weights,
        rank=rank,
        n_ranks=n_ranks,
        memory=memory,
        threads=threads,
    )


def train(
    store: AnyStore,
    run: str | Path,
    *,
    recipe: str | Path = "default",
    protocol: str = "track",
    folds: int | None = None,
    epochs: int | None = None,
    seed: int = 0,
    memory: int | None = None,
    force: bool = False,
    progress: bool | None = None,
) -> Run:
    """Train the network on a store and evaluate it, or go on with a training that was stopped.

    Parameters
    ----------
    store : str, Path, Store or JoinedStores, or a sequence of stores
        The store; several are read as one.
    run : str or Path
        Folder of the training.
    recipe : str or Path
        "default", "article", or a file.
    protocol : str
        "track", "window", or a split that the dataset's recipe names.
    folds : int > 1, optional
        Number of group folds, in place of a protocol: a member is trained for each, every track is judged by the member
        that has not heard its group, and the run's model is the mean of the members' log-probabilities.
    epochs : int, optional
        Maximum number of epochs; by default that of the recipe.
    seed : int
        Seed of weights, dropout and order, and of folds.
    memory : int > 0, optional
        Bytes that decoded tracks may take; by default half of the free memory.
    force : bool
        Whether another run in the folder is replaced.
    progress : bool, optional
        Whether progress is shown; by default in a terminal and in a notebook.

    Returns
    -------
    Run
        The finished run.
    """
    _quiet_tensorflow()
    from melzarr.model.run_directory import Run as RunDirectory
    from melzarr.model.train_by_name import train_by_name

    train_by_name(
        open_store(store).opened,
        RunDirectory(Path(run)),
        recipe=str(recipe),
        protocol=protocol,
        folds=folds,
        epochs=epochs,
        seed=seed,
        memory=memory,
        replace=force,
        feedback=feedback(progress),
    )
    return Run(run)


class Run:
    """A training or a shared run: its model, its figures, and answers for songs and stores.

    Parameters
    ----------
    path : str or Path
        The folder of a training; or a shared run: a folder, a ``NAME.zip``, or an address of either.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path if isinstance(path, str) and "://" in path else Path(path)

    def __repr__(self) -> str:
        """Return its path."""
        return f"<melzarr.Run {self.path}>"

    @cached_property
    def folder(self) -> RunDirectory:
        """The folder as the training writes it; a temporary copy of an archive and of what is at an address."""
        _quiet_tensorflow()
        from melzarr.model.shared_run import opened_run

        copy = ExitStack()
        run = copy.enter_context(opened_run(self.path))
        weakref.finalize(self, copy.close)
        return run

    @cached_property
    def _model(self) -> keras.Model:
        return self.folder.model()

    @property
    def metrics(self) -> dict[str, Any]:
        """Figures of the splits valid and test, with intervals and baselines, and the protocol."""
        return self.folder.metrics

    @property
    def history(self) -> list[dict[str, float]]:
        """Figures of each epoch."""
        return self.folder.history()

    def predict(self, song: str | Path) -> Prediction:
        """Return the genre of a song of any length, and the probabilities over time.

        Parameters
        ----------
        song : str or Path
            An audio file.

        Raises
        ------
        AudioError
            If the song is too short, silent or cannot be read.
        """
        folder = self.folder
        from melzarr.model.predict import predict

        return predict(self._model, folder.spec, tuple(folder.labels), Path(song))

    def evaluate(
        self,
        store: AnyStore,
        split: str = "test",
        *,
        with_trained: bool = False,
        baselines: bool = False,
        progress: bool | None = None,
    ) -> dict[str, Any]:
        """Return figures of the model on a split of a store, each with a 95 % interval.

        If tracks are in groups, intervals are over the groups; ``n_groups`` is their number.

        Parameters
        ----------
        store : str, Path, Store or JoinedStores, or a sequence of stores
            The store. Tracks of files that the model was trained on are left out if it is another one.
        split : str
            "train", "valid" or "test".
        with_trained : bool
            Whether tracks that the model was trained on count.
        baselines : bool
            Whether a majority class and an SVM are trained on the tracks that the model was trained on, and compared
            with it. The store must be the one that it was trained on.
        progress : bool, optional
            Whether progress is shown; by default in a terminal and in a notebook.
        """
        folder, opened = self.folder, open_store(store).opened
        from melzarr.model.evaluate import evaluate

        options: dict[str, Any] = {"with_trained": with_trained, "with_baselines": baselines}
        found = evaluate(folder, opened, split, **options, feedback=feedback(progress))
        return {**found, "run": str(self.path)}

    def share(
        self,
        to: str | Path,
        *,
        hugging_face: bool = False,
        onnx: bool = False,
        title: str = "",
        licence: str = "",
        author: str = "",
        published: str = "",
        force: bool = False,
        progress: bool | None = None,
    ) -> Run:
        """Write the run as a model for others: with a card, its figures and checksums.

        Parameters
        ----------
        to : str or Path
            A folder, an archive ``NAME.zip``, or an address in an object store.
        hugging_face : bool
            Whether the folder is to be uploaded to Hugging Face.
        onnx : bool
            Whether the network is written as ONNX too.
        title, licence, author, published : str
            Metadata of the model. The date is such as 2026-11-23.
        force : bool
            Whether a shared run at `to` is replaced.
        progress : bool, optional
            Whether progress is shown; by default in a terminal and in a notebook.

        Returns
        -------
        Run
            The share.
        """
        folder = self.folder
        from melzarr.model.share_run import RunShareOptions, share_run
        from melzarr.pipeline.storage.open_storage import open_directory

        options = RunShareOptions(
            for_hub=hugging_face, onnx=onnx, title=title, licence=licence, author=author, published=published
        )
        with feedback(progress).steps() as step:
            share_run(folder, open_directory(to), options, replace=force, step=step)
        return Run(to)


def _quiet_tensorflow() -> None:
    """Load TensorFlow as the command line does; a sentence says what to install if it is missing."""
    from melzarr.model.tensorflow_setup import load_tensorflow

    load_tensorflow()
