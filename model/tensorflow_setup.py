"""Import TensorFlow for the command line, without its log output and with its fast convolutions."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from melzarr.pipeline.builder.feedback import SILENT, Feedback
from melzarr.pipeline.errors import MelzarrError


def load_tensorflow(feedback: Feedback = SILENT) -> None:
    """Import TensorFlow, which takes seconds; what it prints meanwhile is shown only if the import fails.

    Two environment variables are set first, unless the user has set them. One hides the log lines of the native
    libraries. The other enables oneDNN, which is the default only on some x86 processors and trains this network twice
    as fast on others.

    Parameters
    ----------
    feedback : Feedback
        Shows that it is loading.

    Raises
    ------
    MelzarrError
        If it is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # its warnings are for programmers
    try:
        with feedback.counting(None, "load TensorFlow"), _held_back_stderr():
            importlib.import_module("tensorflow")
            importlib.import_module("keras")
    except ModuleNotFoundError as error:
        raise MelzarrError(
            f"{error.name} is not installed, and training and using a network need it; pip install 'melzarr[train]'"
        ) from error


@contextmanager
def _held_back_stderr() -> Iterator[None]:
    """Hold back what is written to file descriptor 2, also by native code; print it if the block raises."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(stderr, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
