"""Standard streams on which printing never fails: closed streams, readers that stop early, limited encodings."""

from __future__ import annotations

import io
import os
import sys


class _Patient(io.FileIO):
    """A stream whose reader may stop early, as ``head`` does: further output is discarded."""

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(memoryview(data))  # type: ignore[arg-type]


def steady_streams() -> None:
    """Open closed standard streams, and make the others accept every character and a reader that stops early.

    Without this, the next file that is opened gets the number of a closed stream, and with it what a library prints.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest free number
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, _text(number, "utf-8", line_buffering=True))
        elif stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            stream.flush()
            setattr(sys, name, _text(number, stream.encoding, line_buffering=stream.line_buffering))


def _text(number: int, encoding: str, *, line_buffering: bool) -> io.TextIOWrapper:
    raw = _Patient(number, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=line_buffering
    )
