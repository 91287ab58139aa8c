"""Sentences about a source that is read nevertheless: what was left out, and what may not be meant so."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from melzarr.pipeline.sources.tracks import Tracks

NAMED = 5  # examples in one sentence
ALIKE = 20  # groups of labels that are named
DIFFERENCES = "case, spaces or Unicode form"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What a folder has that gives no track.

    Parameters
    ----------
    files : list of str
        Files without a known audio extension.
    links : list of str
        Links to folders, which are not followed unless this is asked for.
    circles : list of str
        Links that lead back to a folder that contains them, which are never followed.
    """

    files: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    circles: list[str] = field(default_factory=list)

    def link_remarks(self) -> list[str]:
        """Return sentences about the links."""
        remarks = []
        if self.links:
            remarks.append(f"links to folders left out: {_some(self.links)}; follow them with --follow-links")
        if self.circles:
            remarks.append(f"links to a folder that they are in left out: {_some(self.circles)}")
        return remarks


def file_remarks(files: Sequence[str]) -> list[str]:
    """Return a sentence about files that were left out, if there are any."""
    return [f"files left out, not audio by their extension: {_some(files)}"] if files else []


def _some(names: Sequence[str]) -> str:
    """Return how many names there are, and the first of them."""
    return f"{len(names)} ({', '.join(sorted(names)[:NAMED])}{', …' if len(names) > NAMED else ''})"


class Tally:
    """Count what was taken otherwise than it is written, with an example of each kind."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def add(self, kind: str, number: int, text: str) -> None:
        """Count a text in a row; `text` is what messages show."""
        self._counts[kind] += 1
        if kind not in self._examples:
            self._examples[kind] = f"{text} in row {number}"

    def remarks(self) -> list[str]:
        """Return one sentence for each kind."""
        return [f"{kind}: {count}, such as {self._examples[kind]}" for kind, count in self._counts.items()]


def label_remarks(tracks: Tracks) -> list[str]:
    """Return sentences about labels that are nearly the same, and about a single label."""
    counts = Counter(label for (label,) in tracks.rows("label"))
    if len(counts) == 1:
        return [f"all tracks have one label, {next(iter(counts))!r}; to train a network, give tracks of others too"]
    alike = defaultdict(list)
    for label in sorted(counts):
        alike["".join(unicodedata.normalize("NFKC", label).casefold().split())].append(label)
    groups = [labels for labels in alike.values() if len(labels) > 1]
    shown = [", ".join(f"{_shown(label, labels)} ({counts[label]})" for label in labels) for labels in groups[:ALIKE]]
    remarks = [f"labels that differ only by {DIFFERENCES}: {each}; if they are one, write them alike" for each in shown]
    if len(groups) > ALIKE:
        remarks.append(f"{len(groups) - ALIKE} more groups of labels differ only by {DIFFERENCES}")
    return remarks


def _shown(label: str, others: Sequence[str]) -> str:
    """Return a label as people see it, or with escapes if another one looks the same."""
    same = [other for other in others if unicodedata.normalize("NFC", other) == unicodedata.normalize("NFC", label)]
    return repr(label) if len(same) == 1 else ascii(label)
