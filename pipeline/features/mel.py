"""Compute mel spectrograms: samples → (window, frame, band). Pure, performance-critical functions of arrays."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from melzarr.pipeline.features.mel_filterbank import filterbank
from melzarr.pipeline.spec import FeatureSpec

BLOCK_BYTES = 1 << 19  # bytes of frames per block of `plain_windows`; with their spectra they fit into a core's cache
KERNEL_FFTS = tuple(1 << n for n in range(3, 17))  # powers of 2, up to the largest tested against the plain path


def mel_windows(samples: npt.NDArray[np.float32], spec: FeatureSpec) -> npt.NDArray[np.float32]:
    """Compute the mel spectrogram of every window that is entirely inside the samples.

    Parameters
    ----------
    samples : np.ndarray [shape=(n_samples,), dtype=float32]
        Mono samples at ``spec.sample_rate``.
    spec : FeatureSpec
        Features to compute; `as_stored` applies its scale and dtype.

    Returns
    -------
    np.ndarray [shape=(n_valid_windows, n_frames, n_mels), dtype=float32]
        Mel spectra of the magnitude to the power of ``spec.power``; at most ``spec.n_windows`` windows.

    Raises
    ------
    SpecError
        If a mel band is so narrow that it contains no bin of the FFT.

    Notes
    -----
    Equal to ``librosa.feature.melspectrogram(y=window, center=True, pad_mode=spec.pad_mode, …)`` of each single
    window, within 1e-6 of the window's largest value.

    The kernel computes in single precision. Its rounding error spreads over all bins and is about 1e-8 of the largest
    magnitude in each. In the power of an otherwise empty bin this is 1e-16, which is negligible. Smaller exponents
    would increase it (the root of 1e-8 is 1e-4), and windows beyond full scale can overflow: `plain_windows` computes
    these, and windows whose energy is nearly all outside the bands (see `_needs_guard`).
    """
    if not (spec.power == 2.0 and spec.n_fft in KERNEL_FFTS):
        return plain_windows(samples, spec)
    from melzarr.pipeline.features.kernel_cache import compiled_kernel  # noqa: PLC0415  (slow to import; needed once per process)

    tables, mel_power = _kernel_tables(spec), compiled_kernel().mel_power
    mel = np.empty((spec.valid_windows(samples.size), spec.n_frames, tables[-3].size), np.float32)
    if len(mel):
        mel_power(_constant(samples, np.float32), spec.window, spec.stride, spec.hop_length, *tables, mel)
    inexact = ~np.isfinite(mel.max(axis=(1, 2)))  # mel values are positive, infinite or NaN
    if _needs_guard(spec):
        mel, guard = np.ascontiguousarray(mel[..., :-1]), mel[..., -1]
        inexact |= mel.max(axis=(1, 2)) < guard.max(axis=1)
    numbers = np.flatnonzero(inexact)
    for run in np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1) if numbers.size else ():
        mel[run] = plain_windows(samples[run[0] * spec.stride : run[-1] * spec.stride + spec.window], spec)
    return mel


def plain_windows(samples: npt.NDArray[np.float32], spec: FeatureSpec) -> npt.NDArray[np.float32]:
    """Compute what `mel_windows` does, in double precision and for every spec; the reference for the kernel.

    The frames of a block of windows are gathered as the rows of one matrix, so that a single call each of the FFT, the
    power and the sparse product is enough. All arrays except the result are reused for the next block: new memory costs
    more than the arithmetic if the allocator returns freed memory at once, as in Dask's workers.
    """
    n_valid = spec.valid_windows(samples.size)
    bands, (place, taper) = _sparse_bands(spec), _frame_layout(spec)
    n_block = max(1, BLOCK_BYTES // (taper.size * taper.itemsize))
    gather = np.add.outer(np.arange(n_block) * spec.stride, place).reshape(-1, spec.n_fft)
    raw = np.empty(gather.shape, np.float32)
    frames = np.empty(gather.shape)
    spectrum = np.empty((len(gather), spec.n_fft // 2 + 1), np.complex128)
    power, imaginary = np.empty(spectrum.T.shape), np.empty(spectrum.T.shape)
    mel = np.empty((n_valid, spec.n_frames, spec.n_mels), np.float32)
    for start in range(0, n_valid, n_block):
        count = min(n_block, n_valid - start)
        rows = slice(count * spec.n_frames)
        np.take(samples[start * spec.stride :], gather[rows], out=raw[rows], mode="clip")
        np.multiply(raw[rows].reshape(count, *taper.shape), taper, out=frames[rows].reshape(count, *taper.shape))
        np.fft.rfft(frames[rows], axis=1, out=spectrum[rows])
        here = power[:, rows]
        np.square(spectrum[rows].real.T, out=here)
        here += np.square(spectrum[rows].imag.T, out=imaginary[:, rows])
        if spec.power != 2.0:
            np.power(here, spec.power / 2, out=here)
        with np.errstate(over="ignore"):  # samples far beyond full scale become infinite; the caller checks
            mel[start : start + count] = (bands @ here).T.reshape(count, spec.n_frames, spec.n_mels)
    return mel


@functools.lru_cache(maxsize=8)
def _frame_layout(spec: FeatureSpec) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Return the index in the window and the weight of each sample of each frame, both of shape (n_frames, n_fft).

    Padding is a choice of indices: reflected and edge samples are samples of the window, and zeros have weight 0.
    """
    half, inside = spec.n_fft // 2, np.ones(spec.window)
    padding = "edge" if spec.pad_mode == "constant" else spec.pad_mode
    place = np.pad(np.arange(spec.window), half, mode=padding)  # type: ignore[call-overload]
    weight = np.pad(inside, half, mode=spec.pad_mode)  # type: ignore[call-overload]

    def frames(padded: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.lib.stride_tricks.sliding_window_view(padded, spec.n_fft)[:: spec.hop_length]

    return frames(place), frames(weight) * _taper(spec)


def _taper(spec: FeatureSpec) -> npt.NDArray[np.float64]:
    """Return the periodic window function of a frame, as used for spectral analysis, shape (n_fft,)."""
    if spec.window_function == "hann":
        return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(spec.n_fft) / spec.n_fft)
    import scipy.signal  # noqa: PLC0415  (slow to import, and not needed by the default spec)

    taper: npt.NDArray[np.float64] = scipy.signal.get_window(spec.window_function, spec.n_fft, fftbins=True)
    return taper


@functools.lru_cache(maxsize=8)
def _kernel_tables(spec: FeatureSpec) -> tuple[npt.NDArray[Any], ...]:
    """Return the tables that `kernel.mel_power` takes, in the order of its parameters."""
    bands, half = filterbank(spec), spec.n_fft // 2
    if _needs_guard(spec):
        bands = np.vstack([bands, np.full(half + 1, np.max(bands.sum(axis=1)) / (half + 1))])
    filled = bands > 0  # each band is a run of adjacent bins
    zeros = {"constant_values": spec.window} if spec.pad_mode == "constant" else {}
    place = np.pad(np.arange(spec.window), half, mode=spec.pad_mode, **zeros)  # type: ignore[call-overload]
    turns = np.exp(-2j * np.pi / half * np.outer(np.arange(half // 4), [1, 2, 3]))
    untangling = np.exp(-2j * np.pi / spec.n_fft * np.arange(half // 2 + 1))
    return (
        _constant(place, np.intp),
        _constant(_taper(spec) / 2, np.float32),
        _constant(turns.view(np.float64), np.float32),
        _constant(untangling.view(np.float64).reshape(-1, 2), np.float32),
        _constant(filled.argmax(axis=1), np.intp),
        _constant(np.append(0, np.cumsum(filled.sum(axis=1))), np.intp),
        _constant(bands[filled], np.float32),
    )


def _needs_guard(spec: FeatureSpec) -> bool:
    """Return whether a window may have its energy outside the bands, whose values then are the kernel's rounding error.

    The bands of the default leave out only the first and the last bin, and a Hann window spreads half their magnitude
    into the next. For other specs the kernel computes one more band, the guard: the mean of all bins, with the weight
    of a band. The rounding of a window counts if its largest value is below that.
    """
    return spec.window_function != "hann" or spec.fmin > 0 or spec.fmax is not None


def _constant(values: npt.NDArray[Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return values in the form that the compiled kernel takes: contiguous, aligned, read-only."""
    constant = np.require(values, dtype, ["C", "A"]).view()
    constant.flags.writeable = False
    return constant


@functools.lru_cache(maxsize=8)
def _sparse_bands(spec: FeatureSpec) -> Any:
    """Return the filterbank as a sparse array, for products with many frames."""
    import scipy.sparse  # noqa: PLC0415  (slow to import, and not needed by the kernel)

    return scipy.sparse.csr_array(filterbank(spec))
