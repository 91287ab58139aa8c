"""Record which process holds a lock, in a small file, so that others can name it."""

from __future__ import annotations

import json
import os
import socket
from typing import Any


def this_process() -> dict[str, Any]:
    """Return the fields that name this process."""
    return {"pid": os.getpid(), "host": socket.gethostname()}


def read_fields(data: bytes) -> dict[str, Any]:
    """Read a JSON object; return an empty one if the data is damaged."""
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def name_holder(data: bytes) -> str:
    """Return the recorded process for a message, such as "process 12 on node3"."""
    fields = read_fields(data)
    return f"process {fields.get('pid', '?')} on {fields.get('host', '?')}"
