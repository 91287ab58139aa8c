"""Check that a script may start processes: each new process imports the script again."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from melzarr.pipeline.errors import CallError


def require_main_guard() -> None:
    """Raise a CallError if the running script has no main guard.

    A new process imports the script that was started. A script without ``if __name__ == "__main__":`` would run again
    in each process. Notebooks and ``python -m PACKAGE`` are not imported again.
    """
    main = sys.modules["__main__"]
    path = getattr(main, "__file__", None)
    if path is None or str(getattr(main.__spec__, "name", "")).rpartition(".")[2] == "__main__":
        return
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (OSError, SyntaxError, ValueError):  # no source, as in a frozen application
        return
    if not any(isinstance(node, ast.Name) and node.id == "__name__" for node in ast.walk(tree)):
        raise CallError(
            f"{path} starts workers, each of which imports it again; put the call below a line with if __name__ == "
            f'"__main__":'
        )
