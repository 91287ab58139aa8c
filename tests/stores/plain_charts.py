"""Pictures that take no time, for the tests of what stands around them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)  # one pixel
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"/>'


def draw_examples(store: object, path: Path) -> None:  # noqa: ARG001
    """Write one pixel."""
    path.write_bytes(PNG)


def mel_pixels(levels: object) -> bytes:  # noqa: ARG001
    """Give one pixel."""
    return PNG


def draw_spectra(bands: object, levels: Sequence[object], *_: object) -> list[bytes]:  # noqa: ARG001
    """Give nothing to see."""
    return [SVG] * len(levels)


def draw_lengths(found: object) -> bytes:  # noqa: ARG001
    """Give nothing to see."""
    return SVG


def draw_history(training: object) -> tuple[bytes, bytes]:  # noqa: ARG001
    """Give nothing to see."""
    return SVG, SVG
