"""Choose the tracks that a model is evaluated on: those that it was not trained on, as far as this is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from melzarr.model.evaluation_protocol import TRACK, WINDOW, make_protocol
from melzarr.model.run_directory import Run
from melzarr.model.selection import Selection, label_names
from melzarr.pipeline.errors import RunError
from melzarr.pipeline.storage.digests import SHA256
from melzarr.pipeline.zarr_store.readable_store import ReadableStore


@dataclass(frozen=True, slots=True)
class Judged:
    """Windows that a run's model is evaluated on.

    Parameters
    ----------
    selection : Selection
        The windows.
    protocol : str
        Name of the protocol.
    words : str
        Description of the protocol, printed next to metrics.
    n_trained : int, optional
        Number of tracks in the split whose audio files the model was trained on; None if this is not known.
    """

    selection: Selection
    protocol: str
    words: str
    n_trained: int | None


def judged(run: Run, store: ReadableStore, split: str = "test", *, with_trained: bool = False) -> Judged:
    """Choose the windows that a run's model is evaluated on.

    On the store that the run was trained on, these are a split of the run's protocol. On another store, these are a
    split of that store, without the tracks whose audio files the model was trained on.

    Parameters
    ----------
    run : Run
        The run.
    store : ReadableStore
        The store.
    split : str
        Name of the split.
    with_trained : bool
        Whether to count tracks that the model was trained on, if the store is another one.

    Raises
    ------
    RunError
        If the features or labels of store and model differ, or the model was trained on all tracks of the split.
    StoreError
        If the split has no ok track.
    """
    config = run.config
    _require_same_features(run, store)
    trained = run.trained_on()
    if run.n_folds and store.attributes["uuid"] == config["store"]["uuid"]:
        member = run.member(1).path  # a share has none
        raise RunError(
            f"the run is the mean of {run.n_folds} members, each of which has heard what another judges, so that no "
            f"track of {store.address} is left to judge; its figures are in its {run.metrics_file.name}; give another "
            f"store{f', or evaluate a member such as {member}' if member.is_dir() else ''}"
        )
    if store.attributes["uuid"] == config["store"]["uuid"]:
        protocol = make_protocol(store, config["protocol"]["name"], config["seed"])
        selection = protocol.part(split)
        seen, _ = _is_in(store, selection, trained)
        words = f"{protocol.words}; the model was trained on this split" if split == "train" else protocol.words
        return Judged(selection, protocol.name, words, None if seen is None else int(seen.sum()))
    selection = make_protocol(store, TRACK).part(split)
    seen, n_unknown = _is_in(store, selection, trained)
    words = f"the {split} split of another store"
    if seen is None:
        return Judged(selection, TRACK, f"{words}; whether the model was trained on its tracks is not known", None)
    if seen.any() and not with_trained:
        if seen.all():
            raise RunError(
                f"{run.address} was trained on all {len(seen)} tracks of the {split} split of {store.address}; count "
                f"them with --with-trained, or give other tracks"
            )
        selection = selection.take(np.flatnonzero(~seen))
    fate = "" if not seen.any() else ", which count" if with_trained else ", which are left out"
    words = f"{words}; the model was trained on {int(seen.sum())} of its {len(seen)} tracks{fate}"
    words += f"; of {n_unknown} this is not known" if n_unknown else ""
    return Judged(selection, TRACK, words, int(seen.sum()))


def train_split(run: Run, store: ReadableStore) -> Selection:
    """Return the tracks that a run's model was trained on, for a baseline that is trained on the same.

    Parameters
    ----------
    run : Run
        The run.
    store : ReadableStore
        The store that the run was trained on.

    Raises
    ------
    RunError
        If it is another store, or the run was split by window, so that no track was kept apart.
    """
    protocol = run.config["protocol"]["name"]
    if store.attributes["uuid"] != run.config["store"]["uuid"]:
        raise RunError(
            f"{store.address} is not the store that {run.address} was trained on, and baselines are trained on the "
            f"same tracks as the run; give that store"
        )
    if protocol == WINDOW:
        raise RunError(
            f"{run.address} was split by window, so the tracks that it is tested on were trained on, and baselines of "
            f"whole tracks say nothing; give a run with another protocol"
        )
    return make_protocol(store, protocol, run.config["seed"]).part("train")


def _is_in(
    store: ReadableStore, selection: Selection, trained: frozenset[str] | None
) -> tuple[npt.NDArray[np.bool_] | None, int]:
    """Return whether the model was trained on the audio file of each track, and of how many this is not known.

    It is not known if no file that was trained on has a digest of the same kind: an SHA-256 and a BLAKE3 cannot be
    compared. The array is None if it is known of no track.
    """
    digests = store.column("source_blake3")[selection.tracks].tolist()
    kinds = {digest.startswith(SHA256) for digest in trained or ()}
    n_unknown = sum(digest.startswith(SHA256) not in kinds for digest in digests)
    if trained is None or n_unknown == len(digests):
        return None, n_unknown
    return np.fromiter((digest in trained for digest in digests), bool, len(digests)), n_unknown


def _require_same_features(run: Run, store: ReadableStore) -> None:
    spec = run.spec
    differing = [name for name, value in spec.to_dict().items() if store.spec.to_dict()[name] != value]
    differing = [name for name in differing if name not in {"n_windows", "dtype"}]  # track length and dtype may differ
    if differing:
        said = ", ".join(f"{name} {getattr(store.spec, name)} instead of {getattr(spec, name)}" for name in differing)
        raise RunError(
            f"{store.address} has other features than the model of {run.address}: {said}; build it with the same "
            f"features"
        )
    if label_names(store) != run.labels:
        raise RunError(
            f"{store.address} has the labels {', '.join(label_names(store))} and the model of {run.address} "
            f"{', '.join(run.labels)}; they must be the same"
        )
