"""What the tests of a report share: stores of tracks that a test names, and one in which much is wrong."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from melzarr.pipeline.builder.plan import make_plan
from melzarr.pipeline.builder.run_build import build
from melzarr.pipeline.clusters.task_runner import InProcess
from melzarr.pipeline.sources.catalog import read_catalog
from melzarr.pipeline.sources.demo_music import synthesise
from melzarr.pipeline.spec import FeatureSpec
from melzarr.pipeline.versions import versions
from melzarr.pipeline.zarr_store.reader import Store, open_store

RATE = 22050
SECONDS = 3.0
HOSTILE = '<script>alert("1")</script>\'&\x1b[31m\u202e' + "x" * 500


@dataclass(frozen=True)
class Song:
    """A track of a store that is made for a test."""

    label: str
    split: str
    samples: npt.NDArray[np.floating] | None  # none: a file that is no audio
    kind: str = "wav"


def song(style: str, number: int, seconds: float = SECONDS) -> npt.NDArray[np.floating]:
    return synthesise(style, number, seed=5, sample_rate=RATE, seconds=seconds)


def encoded(samples: npt.NDArray[np.floating], **how: object) -> npt.NDArray[np.floating]:
    """The same music, after a codec."""
    data = io.BytesIO()
    soundfile.write(data, samples, RATE, **how)
    data.seek(0)
    return np.asarray(soundfile.read(data)[0])


def make_store(folder: Path, songs: list[Song], name: str = "songs.zarr", **spec: object) -> Store:
    """Build a store of some tracks, named by their places."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "tracks.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "id", "label", "split"))
        for number, one in enumerate(songs):
            path = folder / f"{number:03d}.{one.kind}"
            if one.samples is None:
                path.write_text("la la la")
            else:
                soundfile.write(path, one.samples, RATE)
            writer.writerow((path.name, f"track-{number:03d}", one.label, one.split))
    catalog = read_catalog(folder / "tracks.csv")
    made = FeatureSpec.from_dict({**FeatureSpec(n_windows=60).to_dict(), **spec})
    plan = make_plan(made, catalog.tracks, versions(), 4)
    build(plan, catalog, folder / name, InProcess(), max_failed=1.0)
    return open_store(folder / name)


def make_faulty(folder: Path) -> Store:
    """A store in which much is wrong. By number of its tracks:

    0 to 3 bells of all splits, 4 to 7 drums without a test track; 8 is 1 as MP3, in another split, and 9 is 1 as Vorbis
    in the same; 10 is 4, softer, in no split; 11 failed, 12 is short, 13 silent, 14 near-silent, 15 clipped, 16 long;
    17 and 18 have a hostile label.
    """
    bell, drum = song("bells", 1), song("drums", 0)
    songs = [
        *(Song("bells", split, song("bells", n)) for n, split in enumerate(("train", "train", "valid", "test"))),
        *(Song("drums", split, song("drums", n)) for n, split in enumerate(("train", "train", "valid", "valid"))),
        Song("bells", "test", encoded(bell, format="MP3", subtype="MPEG_LAYER_III")),
        Song("bells", "train", encoded(bell, format="OGG", subtype="VORBIS")),
        Song("drums", "unused", 0.25 * drum),
        Song("bells", "train", None),
        Song("bells", "train", song("bells", 7)[:RATE]),
        Song("drums", "train", np.zeros(4 * RATE)),
        Song("bells", "train", 0.004 * song("bells", 8) / np.abs(song("bells", 8)).max()),
        Song("drums", "train", np.clip(30 * song("drums", 9), -1, 1)),
        Song("drums", "train", song("drums", 10, 40.0)),
        Song(HOSTILE, "train", song("wind", 0)),
        Song(HOSTILE, "test", song("wind", 1)),
    ]
    return make_store(folder, songs, "faulty.zarr")


SHARE = {"value": 0.5, "low": 0.25, "high": 0.75}


def write_run(folder: Path, of: Store, labels: tuple[str, ...] = ("bells", "drums"), **config: object) -> Path:
    """Write what a training leaves, as files."""
    folder.mkdir()
    confusion = np.eye(len(labels), dtype=int) * 3
    confusion[0, -1] = 2
    part = {
        "n_tracks": int(confusion.sum()), "n_groups": 4, "n_windows": 100, "window_accuracy": SHARE,
        "track_accuracy": SHARE, "track_accuracy_by_vote": SHARE, "macro_f1": SHARE, "labels": list(labels),
        "confusion": confusion.tolist(),
    }  # fmt: skip
    about = {
        "store": {"uuid": of.attributes["uuid"], "title": "x"}, "protocol": {"name": "track", "words": "by track"},
        "recipe": {}, "labels": list(labels), **config,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(about))
    (folder / "metrics.json").write_text(json.dumps({"protocol": {}, "valid": part, "test": part}))
    (folder / "history.csv").write_text(
        "epoch,loss,accuracy,valid_accuracy,learning_rate,seconds\n1.0,2.0,0.2,0.1,0.1,9\n2.0,1.0,0.6,0.45,0.1,9\n"
    )
    (folder / "answers.csv").write_text(
        "split,track,label,answer,probability_of_answer,probability_of_label\n"
        "test,right,bells,bells,0.9,0.9\ntest,worst,bells,drums,0.99,0.001\nvalid,bad,drums,bells,0.7,0.2\n"
    )
    return folder
