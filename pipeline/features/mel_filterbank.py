"""The mel filterbank: edges and centres of its bands, and their weights for the bins of an FFT."""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt

from melzarr.pipeline.errors import SpecError
from melzarr.pipeline.spec import FeatureSpec

# Slaney's scale
SLOPE, CORNER = 200 / 3, 1000.0  # Hz per mel below the corner; Hz
CORNER_MEL = CORNER / SLOPE
STEP = math.log(6.4) / 27  # logarithm of the frequency ratio of adjacent mels above it


@functools.lru_cache(maxsize=8)
def filterbank(spec: FeatureSpec) -> npt.NDArray[np.float64]:
    """Return the weights of the FFT's bins in each mel band: triangles between `mel_edges`, as in librosa.

    Parameters
    ----------
    spec : FeatureSpec
        Spec with sample_rate, n_fft and the fields of the bands.

    Returns
    -------
    np.ndarray [shape=(n_mels, 1 + n_fft / 2)]
        Each bin is in at most two bands. Triangles have the area 1, or the height 1 if ``spec.norm`` is "none".

    Raises
    ------
    SpecError
        If a band is empty because it is narrower than the distance between bins.
    """
    edges = mel_edges(spec)
    bins = np.fft.rfftfreq(spec.n_fft, 1 / spec.sample_rate)
    empty = np.flatnonzero(np.searchsorted(bins, edges[2:], "left") == np.searchsorted(bins, edges[:-2], "right"))
    if empty.size:
        raise SpecError(
            f"n_mels={spec.n_mels} leaves band {empty[0]} without any of the {bins.size} bins of n_fft={spec.n_fft}; "
            f"use fewer bands or a larger n_fft"
        )
    distances, widths = np.subtract.outer(edges, bins), np.diff(edges)[:, np.newaxis]
    rising, falling = -distances[:-2] / widths[:-1], distances[2:] / widths[1:]
    triangles = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)  # rounded where librosa rounds
    if spec.norm == "slaney":
        triangles = (triangles * (2 / (edges[2:] - edges[:-2]))[:, np.newaxis]).astype(np.float32)
    weights: npt.NDArray[np.float64] = triangles.astype(np.float64)
    return weights


def mel_edges(spec: FeatureSpec) -> npt.NDArray[np.float64]:
    """Return the edges of the mel bands: band i rises from edge i to edge i + 1 and falls to edge i + 2.

    Parameters
    ----------
    spec : FeatureSpec
        Spec with sample_rate, n_mels, fmin, fmax and mel_scale.

    Returns
    -------
    np.ndarray [shape=(n_mels + 2,)], in Hz
        From the lowest to the highest frequency, equally spaced on the mel scale. Slaney's is linear up to 1 kHz and
        logarithmic above (M. Slaney, Auditory Toolbox, version 2, Interval Research Corporation, 1998); HTK's is
        ``2595 log10(1 + f / 700)`` (S. Young et al., The HTK Book, Cambridge University, 2006, section 5.4).
    """
    lowest, highest = (_mels(hertz, spec.mel_scale) for hertz in (spec.fmin, spec.highest_frequency))
    mels = np.linspace(lowest, highest, spec.n_mels + 2)
    edges: npt.NDArray[np.float64]
    if spec.mel_scale == "htk":
        edges = 700 * (10 ** (mels / 2595) - 1)
    else:
        edges = np.where(mels < CORNER_MEL, SLOPE * mels, CORNER * np.exp(STEP * (mels - CORNER_MEL)))
    return edges


def _mels(hertz: float, scale: str) -> float:
    """Return the place of a frequency on a mel scale."""
    if scale == "htk":
        return 2595 * math.log10(1 + hertz / 700)
    return hertz / SLOPE if hertz < CORNER else CORNER_MEL + math.log(hertz / CORNER) / STEP


def band_centres(spec: FeatureSpec) -> npt.NDArray[np.float64]:
    """Return the centre of each mel band, in Hz, shape (n_mels,)."""
    return mel_edges(spec)[1:-1]
