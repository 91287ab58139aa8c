"""The whole suite: each benchmark runs in its own process, and the results become documentation.

    python tests/benchmarks/bench.py --music ~/Music/tracks.csv

Writes docs/benchmarks.md and docs/benchmarks.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
from suite import Goal, Table, goal_table, markdown

from melzarr.pipeline.worker_processes import ENVIRONMENT

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]


@click.command()
@click.option("--music", help="A folder or manifest of real music, for codecs and the loader.  [default: the demo]")
@click.option("--group", help="The manifest's group column.")
@click.option("--tracks", type=int, default=1000, show_default=True, help="Tracks of the build.")
@click.option("--scale", default="1000,10000,100000,1000000", show_default=True, help="Sizes of plans.")
@click.option("--only", multiple=True, help="Only these, such as track; earlier results of the others are kept.")
def main(music: str | None, group: str | None, tracks: int, scale: str, only: tuple[str, ...]) -> None:
    """Run the benchmarks, print their results and write them to the documentation."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        demo, real = here / "demo.zarr", here / "music.zarr" if music else here / "demo.zarr"
        benchmarks = {
            "track": [],
            "build": ["--tracks", tracks],
            "scale": [*scale.split(","), "--dask-up-to", 10_000, "--folder", folder],
            "store": [real],
            "loader": [demo, "--rounds", 3],
            "objects": [here / "datasets/demo/audio"],
        }
        chosen = {name: arguments for name, arguments in benchmarks.items() if not only or name in only}
        if chosen.keys() & {"store", "loader", "objects"}:
            stores(here, demo, real, music, group)
        for name, arguments in chosen.items():
            write(run(name, arguments, here / f"{name}.json"))


def stores(here: Path, demo: Path, real: Path, music: str | None, group: str | None) -> None:
    """Build the stores that are read: a small demo, and the music if it is given."""
    melzarr = str(Path(sys.executable).with_name("melzarr"))
    datasets = here / "datasets"
    (datasets / "demo").mkdir(parents=True)
    (datasets / "demo/recipe.toml").write_bytes((ROOT / "datasets/demo/recipe.toml").read_bytes())
    place = ["--datasets", str(datasets)]
    subprocess.run([melzarr, "fetch", "demo", "--tracks-per-label", "20", *place], check=True)
    subprocess.run([melzarr, "features", "demo", str(demo), *place], check=True)
    if music:
        grouped = ["--group", group] if group else []
        subprocess.run([melzarr, "features", music, str(real), *grouped], check=True)


def run(name: str, arguments: list[Any], out: Path) -> dict[str, Any]:
    """Run one benchmark; it prints its own tables."""
    print(f"\n# {name}\n", flush=True)
    command = [sys.executable, str(HERE / f"bench_{name}.py"), *map(str, arguments), "--json", str(out)]
    of_a_worker = ENVIRONMENT if name == "track" else {}  # which computes tracks otherwise
    subprocess.run(command, check=True, env={**os.environ, **of_a_worker})
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


def write(new: dict[str, Any]) -> None:
    """Write tables and goals of a benchmark to the documentation, with earlier results of the other ones."""
    data = ROOT / "docs/benchmarks.json"
    earlier = json.loads(data.read_text(encoding="utf-8")) if data.is_file() else []
    results = {result["name"]: result for result in [*earlier, new]}
    found = list(results.values())
    data.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    machines = {", ".join(f"{name} {value}" for name, value in result["machine"].items()) for result in found}
    machine = "; ".join(sorted(machines))
    goals = markdown(goal_table([Goal(**goal) for result in found for goal in result["goals"]]))
    pages = [
        "# Benchmarks",
        f"Made by `make bench` on {machine}.",
        "What is compared runs in turn, and each figure is the median of its rounds.",
        "[benchmarks.json](benchmarks.json) has the same figures as data.",
        goals,
    ]
    for result in found:
        pages += [f"## {result['name']}", *(markdown(Table(**table)) for table in result["tables"])]
    (ROOT / "docs/benchmarks.md").write_text("\n\n".join(pages) + "\n", encoding="utf-8")
    print(f"\nwritten: docs/benchmarks.md, docs/benchmarks.json\n\n{goals}")


if __name__ == "__main__":
    sys.exit(main())
