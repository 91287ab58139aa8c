"""The mel filterbank: edges and centres of its bands, and their weights for the bins of an FFT."""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt

from melzarr.pipeline.errors import SpecError
from melzarr.pipeline.spec import FeatureSpec


@functools.lru_cache(maxsize=8)
def filterbank(spec: FeatureSpec) -> npt.NDArray[np.float64]:
    """Return the weights of the FFT's bins in each mel band: triangles of area 1 between `mel_edges`, as in librosa.

    Parameters
    ----------
    spec : FeatureSpec
        Spec with sample_rate, n_fft and n_mels.

    Returns
    -------
    np.ndarray [shape=(n_mels, 1 + n_fft / 2)]
        Each bin is in at most two bands.

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
    weights: npt.NDArray[np.float32] = (triangles * (2 / (edges[2:] - edges[:-2]))[:, np.newaxis]).astype(np.float32)
    return weights.astype(np.float64)


def mel_edges(spec: FeatureSpec) -> npt.NDArray[np.float64]:
    """Return the edges of the mel bands: band i rises from edge i to edge i + 1 and falls to edge i + 2.

    Parameters
    ----------
    spec : FeatureSpec
        Spec with sample_rate and n_mels.

    Returns
    -------
    np.ndarray [shape=(n_mels + 2,)], in Hz
        From 0 to ``sample_rate / 2``, equally spaced on Slaney's scale, which is linear up to 1 kHz and logarithmic
        above (M. Slaney, Auditory Toolbox, version 2, Interval Research Corporation, 1998).
    """
    slope, corner = 200 / 3, 1000.0  # Hz per mel below the corner; Hz
    step = math.log(6.4) / 27  # logarithm of the frequency ratio of adjacent mels above it
    nyquist, corner_mel = spec.sample_rate / 2, corner / slope
    highest = nyquist / slope if nyquist < corner else corner_mel + math.log(nyquist / corner) / step
    mels = np.linspace(0, highest, spec.n_mels + 2)
    return np.where(mels < corner_mel, slope * mels, corner * np.exp(step * (mels - corner_mel)))


def band_centres(spec: FeatureSpec) -> npt.NDArray[np.float64]:
    """Return the centre of each mel band, in Hz, shape (n_mels,)."""
    return mel_edges(spec)[1:-1]
