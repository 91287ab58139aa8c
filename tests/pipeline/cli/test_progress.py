"""What a person sees of a step while it runs."""

from __future__ import annotations

import io
import sys

import pytest

from melzarr.pipeline.cli.progress import SHOWN


class Stream(io.StringIO):
    """A stream that says whether it is a terminal."""

    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_step_that_cannot_be_counted_is_named_in_a_terminal_while_it_runs(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    monkeypatch.setattr(sys, "stderr", Stream(is_terminal))
    with SHOWN.steps() as step:
        for name in ("read the model", "export model.onnx"):
            step(name, None)
            assert (sys.stderr.getvalue().rpartition("\r")[2].strip() == name) == is_terminal
    assert sys.stderr.getvalue().rpartition("\r")[2] == ""
