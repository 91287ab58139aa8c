"""Check the configuration of a run, which a stranger may have written."""

from __future__ import annotations

from typing import Any

# Entries that config.json must have, by their path in it, and their types.
REQUIRED = {
    "store": dict, "store.uuid": str, "spec": dict, "labels": list, "protocol": dict, "protocol.name": str,
    "protocol.words": str, "seed": int,
}  # fmt: skip


def wrong_entry(config: dict[str, Any]) -> str:
    """Return the path of an entry that is missing or wrong, such as "store.uuid", or "" if there is none."""
    for path, kind in REQUIRED.items():
        if not isinstance(_entry(config, path), kind):
            return path
    if config["seed"] < 0:
        return "seed"
    labels = config["labels"]
    if not all(isinstance(label, str) for label in labels) or len(set(labels)) < len(labels):
        return "labels"
    return "" if isinstance(config.get("versions", {}), dict) else "versions"


def _entry(config: dict[str, Any], path: str) -> Any:
    """Return an entry by its path, or None."""
    found: Any = config
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found
