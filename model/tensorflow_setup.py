"""TensorFlow, loaded for the command line: quiet, and with its fast convolutions."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from melzarr.pipeline.errors import MelzarrError


def load_tensorflow() -> None:
    """Import TensorFlow; what it prints on the way is shown only where that fails.

    Two settings of the environment are made before, where the user has not: no log lines of its native libraries, and
    oneDNN, which it uses by itself on some x86 processors only and which trains this network twice as fast on others.

    Raises
    ------
    MelzarrError
        Where it is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # its warnings are for whoever programs with it
    try:
        with _held_back_stderr():
            importlib.import_module("tensorflow")
            importlib.import_module("keras")
    except ModuleNotFoundError as error:
        raise MelzarrError(
            f"{error.name} is not installed, and training and using a network need it; pip install 'melzarr[train]'"
        ) from error


@contextmanager
def _held_back_stderr() -> Iterator[None]:
    """Keep what is written to descriptor 2, by native code too; show it where an error leaves the block."""
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
