"""What a person sees of a step while it runs."""

from __future__ import annotations

import io
import sys

import pytest

from melzarr.pipeline.cli.progress import SHOWN


class Stream(io.TextIOWrapper):
    """A stream that says whether it is a terminal, and what has reached it."""

    def __init__(self, is_terminal: bool) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", line_buffering=True)
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal

    @property
    def shown(self) -> str:
        """What stands in the last line: what comes after a return replaces what was there."""
        line = ""
        for text in self.buffer.getvalue().decode().split("\r"):
            line = text + line[len(text) :]
        return line.strip()

    @property
    def is_at_start(self) -> bool:
        """Whether the next text would begin the line."""
        return self.buffer.getvalue()[-1:] in {b"", b"\r"}


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_step_that_cannot_be_counted_is_named_in_a_terminal_while_it_runs(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    stream = Stream(is_terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    with SHOWN.counting(None, "load TensorFlow"):
        assert stream.shown == "load TensorFlow" * is_terminal
    assert (stream.shown, stream.is_at_start) == ("", True)
    with SHOWN.steps() as step:
        for name in ("read", "export model.onnx", "publish"):
            step(name, None)
            assert stream.shown == name * is_terminal
    assert (stream.shown, stream.is_at_start) == ("", True)
