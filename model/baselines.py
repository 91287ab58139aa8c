"""What a network must be better than: the most frequent class, and an SVM on the summaries of whole tracks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from melzarr.model.metrics import difference, track_metrics
from melzarr.model.selection import Selection
from melzarr.model.streams import OF_BASELINES, stream
from melzarr.model.track_summary import track_summaries
from melzarr.pipeline.builder.feedback import SILENT, Feedback
from melzarr.pipeline.errors import RunError
from melzarr.pipeline.zarr_store.readable_store import ReadableStore

# C is where more no longer helps: six times five folds by source track of 100 clips in ten styles gave 0.44 of tracks
# for C=1, 0.50 for 3, 0.52 for 10 and for 100. The width of the kernel is scikit-learn's default.
C = 10.0
MAX_TRAINED = 5000  # tracks; the time of an SVM grows with their square, and is some 15 s for so many
BLOCK = 500  # tracks that are classified at a time, so that progress is seen

Classes = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Baseline:
    """Answers of a baseline.

    Parameters
    ----------
    name : str
        "majority" or "svm".
    words : str
        Description of the baseline, printed next to its metrics.
    answers : np.ndarray [shape=(n_tracks,)]
        Predicted class of each track.
    """

    name: str
    words: str
    answers: Classes


def baselines(
    store: ReadableStore, train: Selection, tracks: Classes, labels: Sequence[str], feedback: Feedback = SILENT
) -> list[Baseline]:
    """Train the baselines on a split of a store, and classify tracks with them.

    Parameters
    ----------
    store : ReadableStore
        The store.
    train : Selection
        Tracks to train on, of at least two classes. All their windows are used.
    tracks : np.ndarray [shape=(n_tracks,)]
        Numbers of the tracks to classify, which must be ok.
    labels : sequence of str
        Names of the classes.
    feedback : Feedback
        What the caller is told.

    Returns
    -------
    list of Baseline
        The most frequent class of the tracks to train on, and an SVM with a Gaussian kernel on their standardised
        summaries (see `track_summary`). The SVM is trained on at most `MAX_TRAINED` tracks, drawn at random.

    Raises
    ------
    RunError
        If all tracks to train on have the same class.
    StoreError
        If a track cannot be read.
    """
    counts = np.bincount(train.labels, minlength=len(labels))
    if (counts > 0).sum() < 2:
        only = labels[int(np.argmax(counts))]
        raise RunError(f"{store.address}: all tracks to train a baseline on have the label {only!r}; give other labels")
    learnt, classes = train.tracks, train.labels
    if is_bounded := train.tracks.size > MAX_TRAINED:
        drawn = stream(OF_BASELINES, 0).permutation(train.tracks.size)
        first = np.unique(classes[drawn], return_index=True)[1]  # one track of each class, however rare
        drawn = np.concatenate([drawn[first], np.delete(drawn, first)])[:MAX_TRAINED]
        learnt, classes = learnt[drawn], classes[drawn]
    svm = make_pipeline(StandardScaler(), SVC(C=C))
    with feedback.counting(learnt.size + 2 * tracks.size, "baselines") as progress:
        svm.fit(track_summaries(store, learnt, progress), classes)
        summaries, found = track_summaries(store, tracks, progress), np.empty(tracks.size, np.intp)
        for start in range(0, tracks.size, BLOCK):
            part = slice(start, start + BLOCK)
            found[part] = svm.predict(summaries[part])
            progress(len(summaries[part]))
    most = int(np.argmax(counts))
    words = f", trained on {MAX_TRAINED} of {train.tracks.size} tracks" if is_bounded else ""
    return [
        Baseline("majority", f"majority class ({labels[most]})", np.full(tracks.size, most, np.intp)),
        Baseline("svm", f"SVM on the summary of a track{words}", found),
    ]


def pooled_baselines(folds: Sequence[Sequence[Baseline]]) -> list[Baseline]:
    """Join the answers of each baseline over folds, in which different tracks are trained on and classified."""
    joined = [np.concatenate([one.answers for one in found]) for found in zip(*folds, strict=True)]
    names = {"majority": "majority class of each fold"}
    first = folds[0]
    return [
        Baseline(one.name, names.get(one.name, one.words), answers) for one, answers in zip(first, joined, strict=True)
    ]


def compare(
    found: Sequence[Baseline], true: Classes, answers: Classes, groups: npt.NDArray[Any]
) -> dict[str, dict[str, Any]]:
    """Compute the metrics of baselines, and how far a network is ahead of each.

    Parameters
    ----------
    found : sequence of Baseline
        The baselines.
    true, answers : np.ndarray [shape=(n_tracks,)]
        True class of each track, and the one that the network predicts.
    groups : np.ndarray [shape=(n_tracks,)]
        Group of each track, of any type.

    Returns
    -------
    dict of str to dict
        For each baseline its "words", "track_accuracy" and "macro_f1", and "ahead": the accuracy of the network minus
        that of the baseline, with a paired 95 % interval; see `interval_of_difference`.
    """
    return {
        baseline.name: {
            "words": baseline.words,
            **track_metrics(true, baseline.answers, groups),
            "ahead": difference(true, answers, baseline.answers, groups),
        }
        for baseline in found
    }


def require_learnt(store: ReadableStore, train: Selection, judged: Selection, labels: Sequence[str]) -> str:
    """Return a sentence about the labels that no model can name, because none of their tracks is trained on, or "".

    Raises
    ------
    RunError
        If these are all labels of the tracks that are judged.
    """
    there = set(judged.labels.tolist())
    if not (missing := sorted(there - set(train.labels.tolist()))):
        return ""
    named = ", ".join(labels[number] for number in missing)
    if len(missing) == len(there):
        raise RunError(
            f"{store.address}: no track to train on has a label of the tracks to judge ({named}), so every answer is "
            f"wrong; a split keeps groups whole, so give each label tracks of several groups"
        )
    return f"{store.address}: no track to train on has the label {named}, so neither network nor baseline can name it"
