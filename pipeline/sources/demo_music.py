"""Synthesise ten styles of music from a seed: the audio of the demo dataset, which needs no download.

A track is a mix of one style, a second style at a lower level, and a little room noise. Each style plays a random score
on a sampler: every sound is computed once and added wherever the score asks for it, so that a track takes about 40 ms.
Sounds are computed in two ways: `partials` for struck or plucked ones, `loop` for bowed, blown or sung ones and noise.

A track is bit-identical on every machine. Samples are computed in double precision and rounded once, to 16 bits. Sines
and sums differ between libraries by about 1e-11 of a step, and no sample of the demo is that close to a rounding
boundary (`tests/pipeline/sources/test_demo_music.py`). Random draws and counts use only arithmetic that IEEE 754
specifies.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile as sf

from melzarr.pipeline.errors import FetchError
from melzarr.pipeline.sources.demo_instruments import ALL, SCALES, Dice, Piece, Samples, level, loop

VERSION = 2  # increase with every audible change, so that older files are replaced
STEPS = 32768  # steps of a 16-bit sample for an amplitude of 1


PLAYERS: dict[str, Callable[[Piece], Samples]] = {player.__name__: player for player in ALL}
STYLES: tuple[str, ...] = tuple(sorted(PLAYERS))


def synthesise(style: str, number: int, *, seed: int, sample_rate: int, seconds: float) -> npt.NDArray[np.float32]:
    """Synthesise one track; the same arguments give the same samples on every machine.

    Parameters
    ----------
    style : str
        One of `STYLES`.
    number, seed : int >= 0
        Number of the track in its style, and seed of the dataset.
    sample_rate : int > 0, in Hz
        Sample rate.
    seconds : float >= 0.1, in s
        Length of the track.

    Returns
    -------
    np.ndarray [shape=(round(seconds * sample_rate),), dtype=float32]
        Mono samples of 16 bits, that is, integer multiples of 1/32768. The peak is drawn between 0.3 and 0.95.

    Raises
    ------
    FetchError
        If there is no such style.
    """
    steps = _mixed(style, number, seed=seed, sample_rate=sample_rate, seconds=seconds)
    return np.rint(steps, out=steps).astype(np.float32) * np.float32(1 / STEPS)


def _mixed(style: str, number: int, *, seed: int, sample_rate: int, seconds: float) -> Samples:
    """Mix one track in 16-bit steps, before rounding."""
    if style not in PLAYERS:
        raise FetchError(f"style={style!r} cannot be synthesised; use one of {', '.join(STYLES)}")
    # A checksum of the name, because Python's own hash of a text differs between processes.
    dice = Dice([seed, zlib.crc32(style.encode()), number])
    n_samples, beat, tonic = round(seconds * sample_rate), 60 / dice.uniform(80, 140), dice.integer(-5, 6)
    piece = Piece(dice, sample_rate, n_samples, beat, tonic, scale=dice.choice(SCALES))
    second = dice.choice([other for other in STYLES if other != style])
    track = level(PLAYERS[style](piece), 0)
    # At these levels, single windows of different styles are often alike, and whole tracks rarely.
    track += level(PLAYERS[second](piece), dice.uniform(-18, -6))
    track += np.resize(level(loop(piece, lambda f: f**-0.5), dice.uniform(-45, -30)), n_samples)
    track *= STEPS * dice.uniform(0.3, 0.95) / np.abs(track).max()
    return track


def write_track(path: Path, style: str, number: int, *, seed: int, sample_rate: int, seconds: float) -> None:
    """Write a track of `synthesise` as a 16-bit mono WAV file, with the same bytes on every machine.

    The folder must exist. The file is written beside `path` as ``*.part`` and renamed when complete, so that `path` is
    whole or absent.
    """
    samples = synthesise(style, number, seed=seed, sample_rate=sample_rate, seconds=seconds)
    part = Path(f"{path}.part")
    try:
        # As integers: libsndfile takes five times as long to convert floats.
        sf.write(part, (samples * STEPS).astype(np.int16), sample_rate, subtype="PCM_16", format="WAV")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
