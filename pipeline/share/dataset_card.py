"""Write the card of a shared store: the Markdown page that a user reads first, with tables of its tracks."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jinja2

from melzarr.pipeline.inspection.describe import Description
from melzarr.pipeline.shard_receipt import STATUSES
from melzarr.pipeline.share.parquet_tables import Tables
from melzarr.pipeline.sources.split import SPLITS, UNUSED
from melzarr.pipeline.zarr_store.layout import COORDINATES
from melzarr.pipeline.zarr_store.reader import Store

ALL = ""  # key of all labels together; no label is empty
MAX_LABELS = 100  # labels that have their own row
LISTED = 20  # tracks that are not ok and are named in the card; tracks.csv has them all

# Licences of music datasets that Hugging Face knows by name.
HUB_LICENCES: Final = frozenset(
    f"{name}-{version}"
    for name in ("cc-by", "cc-by-sa", "cc-by-nc", "cc-by-nd", "cc-by-nc-sa", "cc-by-nc-nd")
    for version in ("2.0", "2.5", "3.0", "4.0")
) | {"cc0-1.0", "odc-by", "odbl", "pddl", "mit", "apache-2.0"}
HUB_SIZES: Final = (("n<1K", 1e3), ("1K<n<10K", 1e4), ("10K<n<100K", 1e5), ("100K<n<1M", 1e6), ("1M<n<10M", math.inf))


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """Content of a card that is not in the store itself.

    Parameters
    ----------
    name : str
        Name of the shared file or folder.
    is_zip : bool
        Whether it is a zip archive.
    published, author : str
        Date of publication, and author; empty if unknown.
    faults : sequence of str
        Known faults of the tracks.
    derived : sequence of str
        How the store was derived from another one.
    tables : Tables, optional
        The tables for Hugging Face, whose metadata the card then begins with.
    has_audio : bool
        Whether the audio is shared too.
    picture : str
        Path of a picture of some tracks, or empty.
    """

    name: str
    is_zip: bool
    published: str
    author: str
    faults: Sequence[str]
    derived: Sequence[str]
    tables: Tables | None
    has_audio: bool
    picture: str

    @property
    def plain_name(self) -> str:
        """Name without its ending."""
        return self.name.lstrip(".").partition(".")[0] or "dataset"


def card(store: Store, facts: Description, about: About) -> str:
    """Write the card of a shared store.

    Parameters
    ----------
    store : Store
        The store.
    facts : Description
        Its description.
    about : About
        Further content of the card.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("melzarr.pipeline.share"), autoescape=False, keep_trailing_newline=True,  # noqa: S701  (no HTML)
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {"md": escape, "bib": _for_bibtex, "yaml": yaml_text, "py": python_text, "sh": shlex.quote}
    along_track = [name for name, (dims, _) in COORDINATES.items() if dims == ("track",) and name != "track"]
    return environment.get_template("card.md").render(
        facts=facts,
        about=about,
        description=description(facts),
        citation=citation(facts, about),
        key=f"{re.sub('[^a-z0-9]+', '-', about.name.partition('.')[0].lower()) or 'dataset'}-{facts.uuid[:8]}",
        opening=_opening(store, about),
        along_track=", ".join(f"`{name}`" for name in along_track),
        spec=store.spec,
        counts="\n".join(markdown_table(*_counts(facts.tracks))),
        split=", ".join(f"{name} {value}" for name, value in facts.split.items()),
        versions=", ".join(f"{name} {value}" for name, value in facts.versions.items()),
        troubled="\n".join(_troubled(facts.troubled)),
        hub=_hub(facts),
    )


def description(facts: Description) -> str:
    """Return a one-sentence description of a dataset."""
    n_labels, dims = len({row["label"] for row in facts.tracks}), facts.dims
    labels = f"{n_labels} {'label' if n_labels == 1 else 'labels'}"
    return (
        f"Mel spectrograms of {dims['track']} tracks of {labels}: of each track {dims['window']} windows of "
        f"{dims['frame']} frames and {dims['band']} bands; {facts.valid_windows} valid windows in all, in Zarr."
    )


def citation(facts: Description, about: About) -> str:
    """Return the citation of a dataset."""
    by, year = f"{about.author}. " if about.author else "", f" ({about.published[:4]})" if about.published else ""
    origin = f" Made from: {facts.origin.rstrip('.')}." if facts.origin else ""
    return f"{by}{facts.title}{year}. Mel-spectrogram windows, UUID {facts.uuid}, computed by melzarr.{origin}"


def _opening(store: Store, about: About) -> str:
    track = str(store.values("track", slice(0, 1))[0])
    name = python_text(about.name)
    where = f'ZipStore({name}, mode="r")' if about.is_zip else name
    return "\n".join(
        [
            "import xarray as xr",
            *(["from zarr.storage import ZipStore"] if about.is_zip else []),
            f"dataset = xr.open_zarr({where}, chunks=None)",
            'train = dataset.sel(track=dataset.split == "train")',
            f"windows = dataset.mel.sel(track={track!r}).values  # {store.spec.shape}",
        ]
    )


def _counts(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[object]]]:
    """Count tracks by split and by status, for the labels with the most tracks, the rest, and all labels together."""
    counts: Counter[tuple[str, str]] = Counter()  # keyed by label, and by split or status
    for row in rows:
        for label in (ALL, row["label"]):
            counts.update({(label, what): row["tracks"] for what in ("tracks", row["split"], row["status"])})
    heads = ["tracks", *(name for name in (*SPLITS, UNUSED, *STATUSES) if counts[ALL, name])]
    totals = {label: n for (label, what), n in counts.items() if what == "tracks" and label != ALL}
    largest = sorted(totals, key=lambda label: (-totals[label], label))[:MAX_LABELS]
    left = [] if len(totals) <= MAX_LABELS else [f"and {len(totals) - MAX_LABELS} labels with fewer tracks"]
    lines = [(label, label) for label in sorted(largest)] + [("all", ALL)]
    rest: list[list[object]] = [
        [name, *(counts[ALL, head] - sum(counts[label, head] for label in largest) for head in heads)] for name in left
    ]
    table: list[list[object]] = [[name, *(counts[label, head] for head in heads)] for name, label in lines]
    return ["label", *heads], [*table[:-1], *rest, table[-1]]


def _troubled(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    if not rows:
        return
    yield from markdown_table(["file", "status", "what is wrong"], [list(row.values()) for row in rows[:LISTED]])
    if len(rows) > LISTED:
        yield f"\n… and {len(rows) - LISTED} more, in [tracks.csv](tracks.csv)."


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    """Yield the lines of a Markdown table; columns of integers are right-aligned."""
    numeric = [bool(rows) and all(isinstance(row[n], int) for row in rows) for n in range(len(head))]
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join('---:' if number else '---' for number in numeric)}|"
    for row in rows:
        yield f"| {' | '.join(escape(str(cell)) for cell in row)} |"


def escape(text: str) -> str:
    """Escape untrusted text for Markdown: no markup, links, HTML or terminal control characters remain active."""
    plain = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    inline = re.sub(r"([\\`*_\[\]|~])", r"\\\1", plain)
    inline = re.sub(r"^(\d*)([#+=.)-])", r"\1\\\2", inline)  # start of a heading, a list or a rule
    inline = re.sub(r"(?i)\b(https?|ftp|mailto|www)([:.])", r"\1\\\2", inline)  # start of an address
    return inline.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("@", "&#64;")


def yaml_text(text: str) -> str:
    """Quote text for YAML."""
    kept = (char if char.isprintable() and char not in '"\\' else f"\\U{ord(char):08x}" for char in text)
    return f'"{"".join(kept)}"'


def python_text(text: str) -> str:
    """Quote text for Python, with the quotes that its formatters prefer."""
    return json.dumps(text, ensure_ascii=False)


def _for_bibtex(text: str) -> str:
    """Escape untrusted text for a BibTeX value in a code block."""
    plain = "".join(char if char.isprintable() and char not in "{}`\\~^" else " " for char in text)
    return re.sub(r"([&%$#_])", r"\\\1", plain)


def hub_licence(licence: str) -> str:
    """Return the name under which Hugging Face knows a licence, or "other"."""
    name = licence.lower().strip()
    return name if name in HUB_LICENCES else "other"


def _hub(facts: Description) -> dict[str, str]:
    return {
        "licence": hub_licence(facts.licence),
        "size": next(name for name, bound in HUB_SIZES if facts.dims["track"] < bound),
    }
