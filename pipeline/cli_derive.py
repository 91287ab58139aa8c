"""The commands that make stores of stores: one that grows, and several that become one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pipeline.cli import as_text, build_progress, main, next_step, show
from pipeline.errors import BuildError, CallError
from pipeline.options import AS_JSON, FORCE, Address
from pipeline.tree import Tree

if TYPE_CHECKING:
    from pipeline.build import Summary
    from pipeline.store import Store


@main.command()
@click.argument("stores", nargs=-1, required=True, type=Address(), metavar="STORE STORE…")
@click.argument("out", type=Address())
@FORCE
@AS_JSON
def merge(stores: tuple[Tree, ...], out: Tree, force: bool, as_json: bool) -> None:
    """Join STOREs of one spec into OUT: their tracks in this order, nothing computed again.

    Shards are kept as they are where the tracks before them fill whole shards, so that OUT takes no room of its own
    for them on the same disk; the others are packed anew. Each track stays in its split, and the statistics are those
    of all train tracks. A merge that was stopped goes on when it is run again.

    \b
      melzarr merge jazz.zarr rock.zarr music.zarr
      melzarr merge s3://music/a.zarr s3://music/b.zarr s3://music/all.zarr
    """
    from pipeline.merge import differing
    from pipeline.merge import merge as merge_stores
    from pipeline.store import open_store

    if len(stores) < 2:
        raise click.UsageError("give two stores or more, and then the one that they become")
    if any(_same_place(store, out) for store in stores):
        raise CallError(f"{out} is one of the stores that are to be joined; name another place")
    opened = [open_store(store) for store in stores]
    if _is_there(out, opened, force):
        click.echo(f"{out} is finished and up to date: the same tracks of the same files", err=as_json)
        return
    versions = differing([store.attributes["versions"] for store in opened])
    if not as_json:
        show(f"computed by different versions: {line}" for line in versions)
    with build_progress(sum(store.n_tracks for store in opened), "merge") as progress:
        summary = merge_stores(opened, out, replace=force, progress=progress)
    _say(summary, as_json, versions=versions)


def _same_place(store: Tree, other: Tree) -> bool:
    if store.folder and other.folder:
        return store.folder.resolve() == other.folder.resolve()
    return str(store) == str(other)


def _is_there(out: Tree, opened: list[Store], force: bool) -> bool:
    """Whether the merger is there already; refuse to replace what is something else, unless forced."""
    from pipeline.merge import is_merged
    from pipeline.store import is_store, open_store
    from pipeline.workspaces import open_workspace

    workspace = open_workspace(out)
    if not workspace.occupied():
        return False
    if not is_store(out):
        raise BuildError(f"{out} exists and is no store of melzarr's; name another place, or remove it yourself")
    if force:
        return False
    finished = open_store(out)
    if not is_merged(finished, opened):
        raise BuildError(
            f"{out} is finished, but is not what these stores give; name another place, or replace it with --force: "
            f"it stays until the new one is complete"
        )
    workspace.tidy(next(finished.receipts()))
    return True


def _say(summary: Summary, as_json: bool, *next_options: object, **facts: Any) -> None:
    """Say what was made, and what comes next."""
    from pipeline.screen import derived_lines
    from pipeline.store import open_store

    if as_json:
        found = {
            "store": str(summary.target),
            "tracks": dict(summary.statuses),
            "kept": summary.n_reused,
            "packed": summary.shape[0] - summary.n_reused,
            "seconds": summary.seconds["wall"],
        }
        click.echo(as_text({**found, **facts}))
        return
    show(derived_lines(summary, open_store(summary.target).n_bytes))
    next_step("verify", summary.target, *next_options)
