"""Check that a script may start processes: each of them imports the script again."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from melzarr.pipeline.errors import CallError


def require_main_guard() -> None:
    """Raise a CallError if the running script has no main guard.

    A new process imports the script that was started, so that one without ``if __name__ == "__main__":`` would run
    again in each of them. Notebooks and ``python -m`` are not imported again.
    """
    main = sys.modules["__main__"]
    path = getattr(main, "__file__", None)
    if path is None or str(getattr(main.__spec__, "name", "")).rpartition(".")[2] == "__main__":
        return
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (OSError, SyntaxError, ValueError):  # no source, as in an application that was frozen
        return
    if not any(isinstance(node, ast.Name) and node.id == "__name__" for node in ast.walk(tree)):
        raise CallError(
            f"{path} starts workers, each of which imports it again; put the call below a line with if __name__ == "
            f'"__main__":'
        )
