"""Format the results of the commands, such as a build, a scan, a store or a verification, as lines of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from melzarr.pipeline.human_units import count, duration, size, table
from melzarr.pipeline.zarr_store.companion_files import CHECKSUMS

if TYPE_CHECKING:
    from melzarr.pipeline.builder.plan import Estimate
    from melzarr.pipeline.builder.run_build import Summary
    from melzarr.pipeline.inspection.describe import Description
    from melzarr.pipeline.inspection.scan import Scan
    from melzarr.pipeline.inspection.verify import Verdict

LISTED = 20  # troubled tracks that are listed by name; the others are only counted


def _totalled(head: Sequence[str], counts: Mapping[str, Sequence[int]]) -> list[str]:
    """Format counts by name as a table, with their totals in the last row."""
    totals = ["all", *(sum(column) for column in zip(*counts.values(), strict=True))]
    return table(head, [*([name, *row] for name, row in counts.items()), totals])


def listing(lines: Sequence[str], total: int | None = None) -> list[str]:
    """Indent the first lines and count the others; `total` is the number of lines, if `lines` has only some."""
    total = len(lines) if total is None else total
    more = [f"  … and {total - LISTED} more"] if total > LISTED else []
    return [f"  {line}" for line in lines[:LISTED]] + more


def summary_lines(summary: Summary, store_bytes: int) -> list[str]:
    """Format the summary of a build."""
    made = f"made {summary.target}: mel {summary.shape}, {size(store_bytes)}, in {duration(summary.seconds['wall'])}"
    return [made, *_work_lines(summary, summary.shape[0])]


def derived_lines(summary: Summary, store_bytes: int) -> list[str]:
    """Format the summary of a store made from tracks of other stores."""
    made = f"made {summary.target}: mel {summary.shape}, {size(store_bytes)}, in {duration(summary.seconds['wall'])}"
    packed = summary.shape[0] - summary.n_reused
    rest = f", {packed} were packed again from their chunks" if packed else ""
    return [made, _status_line(summary), f"  {summary.n_reused} tracks are in shards that were kept unchanged{rest}"]


def part_lines(summary: Summary, n_tracks: int) -> list[str]:
    """Format the summary of a part of a build, which has `n_tracks` tracks."""
    return [f"{count(n_tracks, 'track')} made, in {duration(summary.seconds['wall'])}", *_work_lines(summary, n_tracks)]


def _status_line(summary: Summary) -> str:
    statuses = ", ".join(f"{n} {status}" for status, n in sorted(summary.statuses.items(), key=lambda x: -x[1]))
    return f"  tracks: {statuses}"


def _work_lines(summary: Summary, n_tracks: int) -> list[str]:
    lines, seconds = [_status_line(summary)], summary.seconds
    made = n_tracks - summary.n_reused
    fetched = ["fetch"] if seconds.get("fetch", 0) > 0.001 * made else []  # a local disk takes almost no time
    steps = [*fetched, "decode", "mel", "write"]
    if made and any(seconds.get(step) for step in steps):
        each = ", ".join(f"{step} {1000 * seconds.get(step, 0) / made:.0f} ms" for step in steps)
        lines.append(f"  work for each track: {each}")
    if summary.n_reused:
        lines.append(f"  {summary.n_reused} tracks from an earlier run were checked and kept")
    if summary.outdated:
        lines += [f"  {len(summary.outdated)} shards were made again:", *listing(sorted(set(summary.outdated)))]
    if summary.troubled:
        lines.append("not ok:")
        troubled = [f"{source!r} {status}: {sentence}" for source, status, sentence in summary.troubled]
        lines += listing(troubled, n_tracks - summary.statuses["ok"])
    return lines


def scan_lines(found: Scan) -> list[str]:
    """Format the findings of a scan."""
    parts = sorted({part for counts in found.labels.values() for part in counts}, key=_part_order)
    counts = {label: [sum(c.values()), *(c.get(part, 0) for part in parts)] for label, c in found.labels.items()}
    lines = [*_totalled(["label", "tracks", *parts], counts), ""]
    if found.durations:
        shortest, median, longest = found.durations
        lines += [
            f"audio    {found.hours:.1f} h; shortest {shortest:.2f} s, median {median:.2f} s, longest {longest:.2f} s",
            f"codecs   {_counts(found.codecs)}",
            f"rates    {_counts(found.rates, ' Hz')}",
            f"channels {_counts(found.channels)}",
        ]
    if found.problems:
        lines += [f"{found.n_problems} problems:", *listing(found.problems, found.n_problems)]
    if found.left_out:
        lines += [f"{len(found.left_out)} files left out, not audio by their extension:", *listing(found.left_out)]
    if found.cost:
        lines += ["", *cost_lines(found.cost)]
    return lines


def cost_lines(cost: Estimate) -> list[str]:
    """Format the estimated cost of a build."""
    workers = f"{cost.n_workers} worker{'s' if cost.n_workers > 1 else ''}"
    taken = f"about {duration(cost.seconds)} on {workers} and {size(cost.store_bytes)} of disk"
    return [f"a build would take {taken}; each worker needs {size(cost.worker_bytes)} of memory"]


def _part_order(part: str) -> tuple[int, str]:
    return ("train", "valid", "test", "unused").index(part), part


def _counts(counts: Mapping[Any, int], unit: str = "") -> str:
    return ", ".join(f"{count} × {value}{unit}" for value, count in sorted(counts.items(), key=lambda item: -item[1]))


def store_lines(facts: Description) -> list[str]:
    """Format the description of a store."""
    labels = sorted({row["label"] for row in facts.tracks})
    splits = sorted({row["split"] for row in facts.tracks}, key=_part_order)
    statuses = sorted({row["status"] for row in facts.tracks}, key=("ok", "short", "silent", "failed").index)

    def number(**wanted: str) -> int:
        return sum(row["tracks"] for row in facts.tracks if all(row[k] == v for k, v in wanted.items()))

    counts = {
        label: [
            number(label=label),
            *(number(label=label, split=split) for split in splits),
            *(number(label=label, status=status) for status in statuses),
        ]
        for label in labels
    }
    spec, mean = facts.spec, facts.mean_db
    dims = ", ".join(f"{name} {n}" for name, n in facts.dims.items())
    uncompressed, ratio = size(facts.bytes_uncompressed), facts.bytes_uncompressed / max(facts.bytes, 1)
    files = f"{facts.shards[0]} tracks per shard" if facts.sharded else "each in a separate file"
    return [
        f"{facts.path}  {facts.title}",
        f"  mel       {facts.dtype} ({dims}), {facts.valid_windows} valid windows",
        f"  chunks    one track {tuple(facts.chunks)}; {files}",
        f"  on disk   {size(facts.bytes)}, {ratio:.2f} times smaller than {uncompressed} uncompressed",
        f"  spec      {', '.join(f'{name}={value}' for name, value in spec.items())}",
        f"  split     {', '.join(f'{name}={value}' for name, value in facts.split.items())}",
        f"  level     mean {_span(mean)} dB, deviation {_span(facts.std_db)} dB across bands (train split)",
        *([f"  recipe    {facts.recipe}: {facts.origin}"] if facts.recipe else []),
        f"  licence   {facts.licence}",
        f"  uuid      {facts.uuid}",
        f"  made by   {', '.join(f'{name} {value}' for name, value in facts.versions.items())}",
        "",
        *_totalled(["label", "tracks", *splits, *statuses], counts),
        *(["", "not ok:"] if facts.troubled else []),
        *listing([f"{row['source']!r} {row['status']}: {row['error']}" for row in facts.troubled]),
    ]


def _span(values: Sequence[float]) -> str:
    return f"{min(values):.1f} to {max(values):.1f}"


def share_lines(facts: Mapping[str, Any]) -> list[str]:
    """Format the summary of a share."""
    made = f"{count(facts['tracks'], 'track')}, {size(facts['bytes'])}, in {duration(facts['seconds'])}"
    lines = [f"shared {facts['store']} as {facts['share']}: {made}", f"  uuid      {facts['uuid']}"]
    if facts["sha256"]:
        lines.append(f"  sha256    {facts['sha256']}, also in {facts['share']}.sha256")
    if facts["unsaid"]:
        lines.append(f"  not given: {', '.join(facts['unsaid'])}, which tell users how to use and cite it")
    return lines


def verdict_lines(verdict: Verdict) -> list[str]:
    """Format the findings of a verification."""
    lines = [f"{count(verdict.n_tracks, 'track')} read back: checksums, statuses and statistics compared"]
    if verdict.n_files:
        lines.append(f"{verdict.n_files} files compared with {CHECKSUMS}")
    if verdict.n_sources:
        lines.append(f"{verdict.n_sources} source files compared with their digests")
    if verdict.n_sampled:
        lines.append(
            f"{count(verdict.n_sampled, 'track')} computed again by librosa: largest relative error "
            f"{verdict.max_relative:.1e}, largest difference {verdict.max_db:.1e} dB among loud values"
        )
    if verdict.problems:
        return [*lines, f"{len(verdict.problems)} problems:", *listing(verdict.problems)]
    return [*lines, "sound"]
