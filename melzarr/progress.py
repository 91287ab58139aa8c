"""What the Python interface tells: progress in terminals and notebooks unless it is switched off, and warnings."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

from melzarr.pipeline.builder.feedback import SILENT
from melzarr.pipeline.cli.progress import QUIET

if TYPE_CHECKING:
    from melzarr.pipeline.builder.feedback import Feedback
    from melzarr.pipeline.builder.run_build import Summary

CALLER = 4  # frames from `warn` up to the caller of a public function, which calls one function of the pipeline


def warn(line: str) -> None:
    """Warn of what may be wrong."""
    warnings.warn(line, stacklevel=CALLER)


def warn_of(summary: Summary) -> None:
    """Warn of the remark of a build, if it has one."""
    if summary.remark:
        warnings.warn(summary.remark, stacklevel=CALLER)


def feedback(progress: bool | None) -> Feedback:
    """Return what shows progress as asked, or by default in a terminal and in a notebook."""
    is_shown = sys.stderr.isatty() or "ipykernel" in sys.modules if progress is None else progress
    return replace(QUIET if is_shown else SILENT, warn=warn, made=warn_of, force="force=True")
