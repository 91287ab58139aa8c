"""Report the quality of a dataset in plain numbers: one pass over all tracks, in bounded memory."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from melzarr.pipeline.inspection.describe import Description, describe
from melzarr.pipeline.inspection.durations import Lengths, lengths
from melzarr.pipeline.inspection.named_tracks import LISTED, Listing, Noted, TrackNames
from melzarr.pipeline.inspection.near_duplicates import Step, find_duplicates, load_search
from melzarr.pipeline.inspection.time_alignment import FEWEST
from melzarr.pipeline.inspection.track_statistics import Example, envelope_reader, examples, listen, n_valid
from melzarr.pipeline.shard_receipt import STATUSES
from melzarr.pipeline.sources.split import SPLITS, UNUSED
from melzarr.pipeline.threads import done_beside
from melzarr.pipeline.zarr_store.reader import Store

# A mastered track peaks within a few dB of full scale. A track with a peak 40 dB below it uses at most ten of 16 bits,
# and was most probably recorded or scaled by mistake.
QUIET_DB = -40.0
# Four samples per second at 44.1 kHz. The most clipped of 100 clips of released music has 0.8 times this share. A peak
# that only touches full scale has a handful of such samples in total.
CLIPPED_SHARE = 1e-4

MAX_LABELS = 100  # labels with separate rows: those with the most tracks
OTHER = "other"  # splits and statuses that melzarr does not write

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Two tracks that are the same recording.

    Parameters
    ----------
    first, second : Noted
        The tracks.
    likeness : float
        Similarity of their levels over time, up to 1; infinite if their files are identical.
    later : float, in s
        Delay of the second track's content within the first.
    """

    first: Noted
    second: Noted
    likeness: float
    later: float


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityReport:
    """Quality of the dataset in a store.

    Parameters
    ----------
    facts : Description
        From `describe`.
    labels : tuple of str
        Names of the labels with separate rows, sorted; at most a hundred, those with the most tracks.
    n_labels : int
        Number of all labels.
    splits, statuses : tuple of str
        Splits and statuses that occur.
    counts : np.ndarray [shape=(n_labels_shown, n_splits, n_statuses)]
        Number of tracks of each label with a row.
    totals : np.ndarray [shape=(n_splits, n_statuses)]
        Number of tracks of all labels.
    lacking : Listing of (label, splits)
        Labels without an ok track in a split in which other labels have some.
    lengths : Lengths
        Durations of the files.
    bands : np.ndarray [shape=(n_mels,)], in Hz
        Centres of the bands.
    mean_db : np.ndarray [shape=(n_labels_shown, n_mels)], in dB
        Mean level of each label over the valid windows of its ok and short tracks; NaN if there are none.
    all_db : np.ndarray [shape=(n_mels,)], in dB
        The same for all labels together.
    examples : tuple of Example
        The first ok track of each label that is drawn, and one from its middle if there are few labels.
    troubled, unreadable, quiet, clipped : Listing of Noted
        Tracks that are not ok; that are damaged; with a peak below `QUIET_DB`, the quietest first; and with a larger
        share than `CLIPPED_SHARE` at full scale, the worst first.
    pairs : Listing of Duplicate
        Tracks that are the same recording: those in different splits first, then those with different labels.
    n_across, n_relabelled : int
        Number of these pairs in different splits, and with different labels.
    n_compared, n_too_short : int
        Number of tracks among which such pairs were searched by sound, and of tracks that are too short for it.
    n_left : int
        Pairs that were not compared, because there are too many.
    """

    facts: Description
    labels: tuple[str, ...]
    n_labels: int
    splits: tuple[str, ...]
    statuses: tuple[str, ...]
    counts: npt.NDArray[np.int64]
    totals: npt.NDArray[np.int64]
    lacking: Listing[tuple[str, tuple[str, ...]]]
    lengths: Lengths
    bands: Floats
    mean_db: Floats
    all_db: Floats
    examples: tuple[Example, ...]
    troubled: Listing[Noted]
    unreadable: Listing[Noted]
    quiet: Listing[Noted]
    clipped: Listing[Noted]
    pairs: Listing[Duplicate]
    n_across: int
    n_relabelled: int
    n_compared: int
    n_too_short: int
    n_left: int

    def faults(self) -> list[str]:
        """List what is or may be wrong with the dataset, in short sentences without a full stop."""
        by_status = dict(zip(self.statuses, self.totals.sum(axis=0).tolist(), strict=True))
        said = [
            (by_status.get("failed", 0), "failed", "failed"),
            (by_status.get("short", 0), "is short", "are short"),
            (by_status.get("silent", 0), "is silent", "are silent"),
            (self.unreadable.n, "cannot be read", "cannot be read"),
            (self.quiet.n, "is near-silent", "are near-silent"),
            (self.clipped.n, "is clipped", "are clipped"),
        ]
        found = [f"{n} {'track' if n == 1 else 'tracks'} {one if n == 1 else many}" for n, one, many in said if n]
        if n := self.lacking.n:
            found.append(f"{n} {'label lacks' if n == 1 else 'labels lack'} a split that others have")
        if n := self.pairs.n:
            where = [f"{some} {words}" for some, words in ((self.n_across, "in different splits"),
                     (self.n_relabelled, "under different labels")) if some]  # fmt: skip
            words = "1 pair of tracks is" if n == 1 else f"{n} pairs of tracks are"
            found.append(f"{words} the same recording{': ' if where else ''}{', '.join(where)}")
        return found


def find(
    store: Store,
    progress: Callable[[int], object] = lambda _: None,
    step: Step = lambda _, __: lambda _: None,
) -> QualityReport:
    """Assess the quality of a store from all its tracks.

    Parameters
    ----------
    store : Store
        The store.
    progress : callable
        Called with the number of tracks read since the last call.
    step : callable
        Called with the name and the number of tracks of each further step; returns a callback for its progress.

    Returns
    -------
    QualityReport
        The findings, which include damaged tracks.

    Raises
    ------
    StoreError
        If a coordinate cannot be read.
    BuildError
        If another store replaced it in the meantime.
    """
    facts = describe(store)
    label, split, status = (store.column(name) for name in ("label", "split", "status"))
    duration, peak, clipped = (store.values(name) for name in ("duration", "peak", "clipped"))
    sizes: Counter[str] = Counter()
    for row in facts.tracks:
        sizes[row["label"]] += row["tracks"]
    labels = sorted(sorted(sizes, key=lambda name: (-sizes[name], name))[:MAX_LABELS])
    place = {name: number for number, name in enumerate(labels)}
    classes = np.fromiter((place.get(name, -1) for name in label), np.intp, len(label))
    heard = (status == "ok") | (status == "short")
    with done_beside(load_search):
        sound = listen(store, heard, classes, len(labels), progress)
    if sound.n_unreadable:
        store.refuse_replaced()
    parts = np.select([split == part for part in SPLITS], range(len(SPLITS)), -1)
    parts = np.where(heard, parts, -1)
    found = find_duplicates(store, parts, label, sound.prints, sound.envelopes, envelope_reader(store), step)
    pairs = found.pairs
    has_sound = (parts >= 0) & np.isfinite(sound.prints[:, 0])
    is_long = n_valid(store) >= FEWEST
    with np.errstate(divide="ignore", invalid="ignore"):
        peak_db = 20 * np.log10(peak)
    quiet = np.flatnonzero(heard & (peak_db < QUIET_DB))
    loud = np.flatnonzero(heard & (clipped > CLIPPED_SHARE))
    troubled = np.flatnonzero(status != "ok")
    quiet, loud = quiet[np.argsort(peak_db[quiet], kind="stable")], loud[np.argsort(-clipped[loud], kind="stable")]
    ends = [n for pair in pairs[:LISTED] for n in (pair.first, pair.second)]
    listed = [*(numbers[:LISTED].tolist() for numbers in (troubled, quiet, loud)), ends]
    seconds_per_window = store.spec.stride / store.spec.sample_rate
    names = TrackNames(store, {*itertools.chain(*listed), *(n for n, _ in sound.unreadable)})
    return QualityReport(
        facts=facts,
        labels=tuple(labels),
        n_labels=len(sizes),
        **_counted(facts.tracks, labels),
        lengths=lengths(duration),
        bands=store.values("band"),
        mean_db=sound.mean_db,
        all_db=sound.all_db,
        examples=tuple(examples(store, label, status, labels)),
        troubled=names.listing(troubled),
        unreadable=Listing(
            tuple(names.noted(n, error=error) for n, error in sound.unreadable[:LISTED]), sound.n_unreadable
        ),
        quiet=names.listing(quiet, peak_db),
        clipped=names.listing(loud, clipped),
        pairs=Listing(
            tuple(
                Duplicate(
                    names.noted(pair.first), names.noted(pair.second), pair.likeness, pair.shift * seconds_per_window
                )
                for pair in pairs[:LISTED]
            ),
            len(pairs),
        ),
        n_across=sum(pair.is_across for pair in pairs),
        n_relabelled=sum(pair.is_relabelled for pair in pairs),
        n_compared=int((has_sound & is_long).sum()),
        n_too_short=int((has_sound & ~is_long).sum()),
        n_left=found.n_left,
    )


def _counted(rows: Iterable[dict[str, Any]], labels: Sequence[str]) -> dict[str, Any]:
    """Count tracks by label, split and status, and list the labels that lack a split."""
    known = (*SPLITS, UNUSED, OTHER), (*STATUSES, OTHER)
    place = {name: number for number, name in enumerate(labels)}
    counts = np.zeros((len(labels), len(known[0]), len(known[1])), np.int64)
    totals = np.zeros(counts.shape[1:], np.int64)
    parts: dict[str, set[str]] = {}
    for row in rows:
        cell = tuple(names.index(name if name in names else OTHER)
                     for names, name in zip(known, (row["split"], row["status"]), strict=True))  # fmt: skip
        totals[cell] += row["tracks"]
        if (number := place.get(row["label"])) is not None:
            counts[number, *cell] += row["tracks"]
        there = parts.setdefault(row["label"], set())
        if row["status"] == "ok" and row["split"] in SPLITS:
            there.add(row["split"])
    wanted = [part for part in SPLITS if any(part in there for there in parts.values())]
    lacking = [(label, missing) for label, there in sorted(parts.items())
               if (missing := tuple(part for part in wanted if part not in there))]  # fmt: skip
    splits, statuses = np.flatnonzero(totals.any(axis=1)), np.flatnonzero(totals.any(axis=0))
    return {
        "splits": tuple(known[0][n] for n in splits),
        "statuses": tuple(known[1][n] for n in statuses),
        "counts": counts[:, splits][:, :, statuses],
        "totals": totals[splits][:, statuses],
        "lacking": Listing(tuple(lacking[:LISTED]), len(lacking)),
    }
