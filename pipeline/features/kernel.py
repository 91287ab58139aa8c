"""The mel kernel, compiled by numba: each instruction works on `WIDTH` windows at once.

A block is `WIDTH` windows. All arrays of a block consist of rows of `WIDTH` numbers, one per window: its *lane*. Frames
of different windows need the same steps at the same positions. A step is therefore written once, as for one window, on
values of the type `Lanes`, and the processor applies it to all of them:

    samples ─▶ block ─▶ tapered frame, through an FFT in passes ─▶ power ─▶ bands ─▶ mel
               a row per sample         a row per real or imaginary part, per bin, per band

Padding costs nothing: a sample beyond the window is another row of the block, or a row of zeros.

A real frame of n_fft samples is transformed as n_fft / 2 complex numbers, with even samples as real and odd ones as
imaginary parts, and untangled afterwards (Press et al., Numerical Recipes, 3rd ed., section 12.3). The transform is
Stockham's, which sorts during its passes: they have radix 4, and the last one has radix 2 if the length requires it
(Van Loan, Computational Frameworks for the Fast Fourier Transform, SIAM 1992, section 1.7 and chapter 2). A complex
number of eight lanes is one cache line of 64 bytes, and the two buffers of a default frame, 64 kB each, fit into a
core's second-level cache.

Lanes are independent: each is added, subtracted and multiplied separately, in the order that is written here, and
every result is rounded to float32 according to IEEE 754. There is no ``fastmath``, so that nothing is reordered and no
product is fused with a sum. A window's bytes therefore depend neither on the windows beside it nor on the processor.
The vectors are explicit, and not left to the compiler: as loops over arrays the same steps took three times as long,
because the compiler cannot know that the rows of an array do not overlap.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core.typing import Signature
from numba.extending import intrinsic, models, overload, register_model

WIDTH = 8  # windows per block: one register of AVX, two of NEON or SSE
RUN = 16  # bins that are summed before their sum is added to the band's, with Kahan's compensation

# Lanes: WIDTH numbers of float32 -------------------------------------------------------------------------------------

_VECTOR = ir.VectorType(ir.FloatType(), WIDTH)
_INT = ir.IntType(32)
_Lowered = tuple[Signature, Callable[..., Any]]  # an intrinsic's types, and the function that emits its instructions


class Lanes(types.Type):
    """Numba type of a vector with one number per window of a block."""


_LANES = Lanes(f"Lanes({WIDTH})")
_Complex = tuple[Lanes, Lanes]  # real and imaginary part


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    """Data model of `Lanes`: LLVM's vector of float32, which LLVM maps to the available registers."""

    def __init__(self, manager: Any, lanes: Any) -> None:
        super().__init__(manager, lanes, _VECTOR)


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """Return a pointer to an element of a contiguous array."""
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])


def _row_pointer(context: Any, builder: Any, array_type: Any, array: Any, row: Any) -> Any:
    """Return a pointer to a row of WIDTH elements."""
    start = builder.mul(row, ir.Constant(row.type, WIDTH))
    return builder.bitcast(_pointer(context, builder, array_type, array, start), _VECTOR.as_pointer())


@intrinsic
def _load(typing: Any, array: Any, row: Any) -> _Lowered:
    """Load a row of an array as lanes."""

    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_row_pointer(context, builder, signature.args[0], *arguments), align=4)

    return _LANES(array, types.intp), lower


@intrinsic
def _store(typing: Any, array: Any, row: Any, lanes: Any) -> _Lowered:
    """Write lanes to a row of an array."""

    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[2], _row_pointer(context, builder, signature.args[0], *arguments[:2]), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, _LANES), lower


@intrinsic
def _gather(typing: Any, array: Any, starts: Any, offset: Any) -> _Lowered:
    """Load the elements of an array at an offset from each lane's start, as lanes."""

    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (array_type, starts_type, _), (array, starts, offset) = signature.args, arguments
        lanes = ir.Constant(_VECTOR, ir.Undefined)
        for lane in range(WIDTH):
            start = builder.load(_pointer(context, builder, starts_type, starts, ir.Constant(offset.type, lane)))
            element = builder.load(_pointer(context, builder, array_type, array, builder.add(start, offset)))
            lanes = builder.insert_element(lanes, element, ir.Constant(_INT, lane))
        return lanes

    return _LANES(array, starts, types.intp), lower


@intrinsic
def _spread(typing: Any, number: Any) -> _Lowered:
    """Return lanes that all hold one number."""

    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        undefined = ir.Constant(_VECTOR, ir.Undefined)
        first = builder.insert_element(undefined, arguments[0], ir.Constant(_INT, 0))
        return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_INT, WIDTH), None))

    return _LANES(types.float32), lower


def _define(operation: Callable[..., Any], instruction: str) -> None:
    """Define an operator for lanes, and for lanes and a number, by one IEEE operation of LLVM per lane."""

    @intrinsic
    def on_lanes(typing: Any, left: Any, right: Any) -> _Lowered:
        def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return getattr(builder, instruction)(*arguments)

        return _LANES(_LANES, _LANES), lower

    @overload(operation, strict=False)  # otherwise numba requires the annotations on the lambdas too
    def choose(left: Any, right: Any) -> Any:
        if left == _LANES and right == _LANES:
            return lambda left, right: on_lanes(left, right)  # noqa: PLW0108  (numba takes functions, not intrinsics)
        if left == _LANES and right == types.float32:
            return lambda left, right: on_lanes(left, _spread(right))
        return None


_define(operator.add, "fadd")
_define(operator.sub, "fsub")
_define(operator.mul, "fmul")

# The steps, as for one window ----------------------------------------------------------------------------------------

_step = njit(nogil=True, error_model="numpy")
_part = njit(nogil=True, error_model="numpy", forceinline=True)


@_step
def _buffer(rows: int) -> Any:
    """Allocate rows of lanes, aligned with a cache line."""
    room = np.empty(rows * WIDTH + 16, np.float32)
    start = (-room.ctypes.data % 64) // 4
    return room[start : start + rows * WIDTH].reshape(rows, WIDTH)


@_part
def _number(buffer: Any, k: int) -> _Complex:
    """Return complex number k."""
    return _load(buffer, 2 * k), _load(buffer, 2 * k + 1)


@_part
def _put(buffer: Any, k: int, re: Lanes, im: Lanes) -> None:
    """Write complex number k."""
    _store(buffer, 2 * k, re)
    _store(buffer, 2 * k + 1, im)


@_part
def _tapered(block: Any, place: Any, taper: Any, k: int) -> _Complex:
    """Return complex number k of a frame: its samples 2 k and 2 k + 1, tapered."""
    even, odd = 2 * k, 2 * k + 1
    return _load(block, place[even]) * taper[even], _load(block, place[odd]) * taper[odd]


@_part
def _turned(re: Lanes, im: Lanes, cos: Any, sin: Any) -> _Complex:
    """Multiply by cos + i sin."""
    return re * cos - im * sin, re * sin + im * cos


@_part
def _butterfly(a: _Complex, b: _Complex, c: _Complex, d: _Complex, turns: Any, target: Any, k: int, s: int) -> None:
    """Transform four numbers, multiply all but the first by `turns`, and write them to k, k + s, k + 2 s, k + 3 s."""
    sum_re, sum_im, apart_re, apart_im = a[0] + c[0], a[1] + c[1], a[0] - c[0], a[1] - c[1]
    more_re, more_im = b[0] + d[0], b[1] + d[1]
    across_re, across_im = d[1] - b[1], b[0] - d[0]  # i (b - d)
    _put(target, k, sum_re + more_re, sum_im + more_im)
    re, im = _turned(apart_re - across_re, apart_im - across_im, turns[0], turns[1])
    _put(target, k + s, re, im)
    re, im = _turned(sum_re - more_re, sum_im - more_im, turns[2], turns[3])
    _put(target, k + 2 * s, re, im)
    re, im = _turned(apart_re + across_re, apart_im + across_im, turns[4], turns[5])
    _put(target, k + 3 * s, re, im)


@_step
def _first_pass(block: Any, place: Any, taper: Any, turns: Any, target: Any) -> None:
    """Taper a frame and apply the first pass of radix 4, over the whole length."""
    m = taper.size // 8
    for p in range(m):
        a, b = _tapered(block, place, taper, p), _tapered(block, place, taper, p + m)
        c, d = _tapered(block, place, taper, p + 2 * m), _tapered(block, place, taper, p + 3 * m)
        _butterfly(a, b, c, d, turns[p], target, 4 * p, 1)


@_step
def _pass_of_four(source: Any, target: Any, n: int, s: int, turns: Any) -> None:
    """Reduce s interleaved transforms of length n to 4 s of length n / 4."""
    m = n // 4
    for p in range(m):
        for q in range(s):
            k = q + s * p
            a, b = _number(source, k), _number(source, k + s * m)
            c, d = _number(source, k + 2 * s * m), _number(source, k + 3 * s * m)
            _butterfly(a, b, c, d, turns[s * p], target, q + 4 * s * p, s)


@_step
def _pass_of_two(source: Any, target: Any, s: int) -> None:
    """Complete s interleaved transforms of length 2."""
    for q in range(s):
        a, b = _number(source, q), _number(source, q + s)
        _put(target, q, a[0] + b[0], a[1] + b[1])
        _put(target, q + s, a[0] - b[0], a[1] - b[1])


@_step
def _power(spectrum: Any, untangling: Any, power: Any) -> None:
    """Untangle the spectrum of a real frame, bins k and half - k together, and square its magnitude."""
    half = power.shape[0] - 1
    for k in range(half // 2 + 1):
        a, b = _number(spectrum, k), _number(spectrum, (half - k) % half)
        even_re, even_im = a[0] + b[0], a[1] - b[1]
        odd_re, odd_im = _turned(a[1] + b[1], b[0] - a[0], untangling[k, 0], untangling[k, 1])
        re, im = even_re + odd_re, even_im + odd_im
        _store(power, k, re * re + im * im)
        re, im = even_re - odd_re, even_im - odd_im
        _store(power, half - k, re * re + im * im)


@_step
def _bands(power: Any, first_bin: Any, ends: Any, weights: Any, mel: Any) -> None:
    """Sum the weighted bins of each band, run by run.

    The rounding error of a run is corrected in the next (Kahan 1965): otherwise quiet bins beside a tone could be lost.
    """
    for band in range(first_bin.size):
        total = lost = _spread(np.float32(0))
        for start in range(ends[band], ends[band + 1], RUN):
            run = _spread(np.float32(0))
            for number in range(start, min(start + RUN, ends[band + 1])):
                run = run + _load(power, first_bin[band] + number - ends[band]) * weights[number]
            run = run - lost
            grown = total + run
            lost = (grown - total) - run
            total = grown
        _store(mel, band, total)


def mel_power(
    samples: Any,
    window: int,
    stride: int,
    hop_length: int,
    place: Any,
    taper: Any,
    turns: Any,
    untangling: Any,
    first_bin: Any,
    ends: Any,
    weights: Any,
    out: Any,
) -> None:
    """Compute the mel power of windows; `kernel_cache` compiles this function.

    Parameters
    ----------
    samples : np.ndarray [shape=(n_samples,), dtype=float32]
        Samples that contain all windows.
    window, stride, hop_length : int, in samples
        Length of a window, distance between windows, and distance between the frames of a window.
    place : np.ndarray [shape=(window + n_fft,), dtype=intp]
        Index in the window of each sample of the padded window; the index ``window`` means zero.
    taper : np.ndarray [shape=(n_fft,), dtype=float32]
        Half the weight of each sample of a frame; n_fft is a power of 2, at least 8.
    turns : np.ndarray [shape=(n_fft / 8, 6), dtype=float32]
        Cosine and sine of the angles -p, -2 p and -3 p, times 2 pi / (n_fft / 2).
    untangling : np.ndarray [shape=(n_fft / 4 + 1, 2), dtype=float32]
        Cosine and sine of the angles -k, times 2 pi / n_fft.
    first_bin : np.ndarray [shape=(n_mels,), dtype=intp]
        First bin of each band.
    ends : np.ndarray [shape=(n_mels + 1,), dtype=intp]
        Band b has the weights from ``ends[b]`` up to, not including, ``ends[b + 1]``.
    weights : np.ndarray [shape=(n_weights,), dtype=float32]
        Weights of the bins in each band, band after band.
    out : np.ndarray [shape=(n_windows, n_frames, n_mels), dtype=float32]
        Output, filled in place.
    """
    (n_windows, n_frames, n_mels), half = out.shape, taper.size // 2
    block, power, mel = _buffer(window + 1), _buffer(half + 1), _buffer(n_mels)
    here, there = _buffer(2 * half), _buffer(2 * half)
    starts = np.empty(WIDTH, np.intp)
    _store(block, window, _spread(np.float32(0)))
    for first in range(0, n_windows, WIDTH):
        for lane in range(WIDTH):
            starts[lane] = stride * min(first + lane, n_windows - 1)  # lanes without a window repeat the last one
        for row in range(window):
            _store(block, row, _gather(samples, starts, row))
        for frame in range(n_frames):
            _first_pass(block, place[frame * hop_length :], taper, turns, here)
            n, s = half // 4, 4
            while n >= 4:
                _pass_of_four(here, there, n, s, turns)
                here, there, n, s = there, here, n // 4, 4 * s
            if n == 2:
                _pass_of_two(here, there, s)
                here, there = there, here
            _power(here, untangling, power)
            _bands(power, first_bin, ends, weights, mel)
            for lane in range(min(WIDTH, n_windows - first)):
                for band in range(n_mels):
                    out[first + lane, frame, band] = mel[band, lane]


def _constant(dtype: Any, ndim: int) -> Any:
    """Return the type of a contiguous, read-only array."""
    return types.Array(dtype, ndim, "C", readonly=True)


_ROW, _TABLE, _INDEX = _constant(types.float32, 1), _constant(types.float32, 2), _constant(types.intp, 1)
_TABLES = (_INDEX, _ROW, _TABLE, _TABLE, _INDEX, _INDEX, _ROW)
SIGNATURE = types.void(_ROW, types.intp, types.intp, types.intp, *_TABLES, types.Array(types.float32, 3, "C"))
