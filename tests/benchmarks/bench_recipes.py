"""Which recipe is better on real music: repeated group folds of a store, beside MFCC + SVM on the same folds.

    python tests/benchmarks/bench_recipes.py music.zarr --audio ~/Music --recipe default --recipe article

Each fold is the test part once; the next one is the valid part, and the others are trained on. Groups stay whole.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import librosa
import numpy as np
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from melzarr.model.tensorflow_setup import load_tensorflow
from melzarr.pipeline.sources.split import SPLITS
from melzarr.pipeline.zarr_store.reader import Store, open_store

Parts = np.ndarray  # part of each track
WAYS = ("tracks", "by vote", "windows")


def folds(store: Store, n_folds: int, seed: int) -> Iterator[Parts]:
    """Give the part of each track, once for each fold."""
    labels, ok = store.values("label"), store.values("status") == "ok"
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    number = np.empty(len(labels), int)
    for fold, (_, test) in enumerate(splitter.split(labels, labels, store.values("group"))):
        number[test] = fold
    for fold in range(n_folds):
        parts = np.where(number == fold, "test", np.where(number == (fold + 1) % n_folds, "valid", "train"))
        yield np.where(ok, parts, "unused").astype(object)


def trained(store: Store, recipe: str, parts: Parts, seed: int) -> dict[str, float]:
    """Accuracy on the test part of one training, and how many tracks that is of."""
    from melzarr.model.evaluation_protocol import Protocol
    from melzarr.model.run_directory import Run
    from melzarr.model.selection import select
    from melzarr.model.train import train
    from melzarr.model.training_recipe import TrainRecipe

    protocol = Protocol("fold", "group folds", {name: select(store, name, parts) for name in SPLITS})
    with tempfile.TemporaryDirectory() as folder:
        found = train(store, TrainRecipe.read(recipe), protocol, Run(Path(folder) / "run"), seed=seed)["test"]
    names = ("track_accuracy", "track_accuracy_by_vote", "window_accuracy")
    return dict(zip(WAYS, (found[name]["value"] for name in names), strict=True))


def mfcc(store: Store, audio: Path) -> np.ndarray:
    """Mean and deviation of 20 MFCCs of each track, over the seconds that its windows cover."""
    rows = []
    for source in store.values("source"):
        samples, rate = librosa.load(audio / source, sr=store.spec.sample_rate, duration=store.spec.seconds)
        found = librosa.feature.mfcc(y=samples, sr=rate, n_mfcc=20)
        rows.append(np.concatenate([found.mean(axis=1), found.std(axis=1)]))
    return np.array(rows)


def by_svm(features: np.ndarray, labels: np.ndarray, parts: Parts) -> dict[str, float]:
    """Accuracy on the test part of a support vector machine."""
    train, test = parts == "train", parts == "test"
    fitted = make_pipeline(StandardScaler(), SVC(C=10)).fit(features[train], labels[train].astype(str))
    return {"tracks": float(fitted.score(features[test], labels[test].astype(str)))}


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--audio", type=click.Path(path_type=Path), help="Where the audio files are, for MFCC + SVM.")
@click.option("--recipe", "recipes", multiple=True, default=("default", "article"), show_default=True)
@click.option("--repeats", type=int, default=3, show_default=True)
@click.option("--folds", "n_folds", type=int, default=5, show_default=True)
def main(store: Path, audio: Path | None, recipes: tuple[str, ...], repeats: int, n_folds: int) -> None:
    """Compare recipes and print a table: mean over the repeats, each over all folds, and their range."""
    load_tensorflow()
    opened = open_store(store)
    labels = opened.values("label")
    features = mfcc(opened, audio) if audio else None
    found: dict[str, list[dict[str, float]]] = {}
    for repeat in range(repeats):
        divided = list(folds(opened, n_folds, repeat))
        sizes = [int((parts == "test").sum()) for parts in divided]
        for recipe in recipes:
            told = [trained(opened, recipe, parts, repeat) for parts in divided]
            found.setdefault(recipe, []).append(pooled(told, sizes))
            click.echo(f"{recipe}: {found[recipe][-1]}", err=True)
        if features is not None:
            told = [by_svm(features, labels, parts) for parts in divided]
            found.setdefault("MFCC mean and deviation + SVM", []).append(pooled(told, sizes))
    print(f"{(opened.values('status') == 'ok').sum()} tracks, {repeats} × {n_folds} folds\n")
    print(f"| recipe | {' | '.join(WAYS)} | range of tracks |")
    print("|---|---:|---:|---:|---:|")
    for name, rows in found.items():
        means = [statistics.mean(row[way] for row in rows) if way in rows[0] else float("nan") for way in WAYS]
        span = [row["tracks"] for row in rows]
        cells = [f"{mean:.3f}" for mean in means]
        print(f"| {name} | {' | '.join(cells)} | {min(span):.2f} to {max(span):.2f} |")


def pooled(told: list[dict[str, float]], sizes: list[int]) -> dict[str, float]:
    """Accuracy over all folds, each weighted by its tracks."""
    return {way: float(np.average([row[way] for row in told], weights=sizes)) for way in told[0]}


if __name__ == "__main__":
    sys.exit(main())
