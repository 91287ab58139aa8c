"""Sum levels in dB, compiled by numba: in one pass over the values, with the same bytes on every processor.

The logarithm is numpy's for vectors of float32: the same steps with the same numbers, so that all results are equal to
those of ``np.log`` on processors with AVX2 or AVX-512. A value is m * 2**e, with m between sqrt(1/2) and sqrt(2). The
logarithm of m is a quotient of two polynomials in m - 1 (numpy/_core/src/umath/loops_exponent_log.dispatch.c.src). Each
product is fused with its sum, which IEEE 754 defines; the compiler vectorises the loops over the bands.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types
from numba.core.typing import Signature
from numba.extending import intrinsic

_Lowered = tuple[Signature, Callable[..., Any]]  # an intrinsic's types, and the function that emits its instructions

# Coefficients of the polynomials, by falling power of m - 1; the numerator's last one is 0.
N5, N4, N3 = map(np.float32, (0.025899791179079226, 0.3808837741388408, 1.4800006335765066))
N2, N1 = map(np.float32, (2.112677543073053, 1))
D5, D4, D3 = map(np.float32, (0.005875095403124574, 0.15464763749839067, 0.9864942958519419))
D2, D1, D0 = map(np.float32, (2.453006071784736, 2.6126775430731093, 1))
ONE, HALF, LOG_2, SQRT_2 = map(np.float32, (1, 0.5, math.log(2), math.sqrt(2)))
MANTISSA = np.int32(0x7FFFFF)  # bits of a float32, below its exponent
BIAS = np.int32(127)  # of an exponent

_part = njit(error_model="numpy", forceinline=True)


@intrinsic
def _fused(typing: Any, left: Any, right: Any, added: Any) -> _Lowered:
    """Return left * right + added, rounded once."""

    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return types.float32(types.float32, types.float32, types.float32), lower


@_part
def _log(number: Any) -> Any:
    """Return the natural logarithm of a float32 that is positive, finite and not subnormal."""
    bits = np.float32(number).view(np.int32)
    exponent = np.float32((bits >> np.int32(23)) - BIAS)
    m = np.int32((bits & MANTISSA) | (BIAS << np.int32(23))).view(np.float32)
    is_upper = m > SQRT_2
    exponent = exponent + ONE if is_upper else exponent
    x = (m * HALF if is_upper else m) - ONE
    numerator = _fused(_fused(_fused(_fused(N5, x, N4), x, N3), x, N2), x, N1) * x
    denominator = _fused(_fused(_fused(_fused(_fused(D5, x, D4), x, D3), x, D2), x, D1), x, D0)
    return _fused(exponent, LOG_2, numerator / denominator)


def level_sums(rows: Any, floor: Any, scale: Any, block: Any, sums: Any) -> None:
    """Add levels and their squares to the sums of each band; `kernel_cache` compiles this function.

    Parameters
    ----------
    rows : np.ndarray [shape=(n_rows, n_mels), dtype=float32]
        Mel values. A band with a value that is not finite has sums of NaN.
    floor : float32
        Smaller values have the level of this one; it is not subnormal.
    scale : float64
        Factor of the natural logarithm.
    block : int
        Rows that are summed before their sums are added to `sums`.
    sums : np.ndarray [shape=(2, n_mels), dtype=float64]
        Sums of the levels, and of their squares; changed in place.
    """
    n_rows, n_mels = rows.shape
    logs, parts = np.empty(n_mels, np.float32), np.empty((2, n_mels))
    for first in range(0, n_rows, block):
        parts[:] = 0
        for row in range(first, min(first + block, n_rows)):
            for band in range(n_mels):
                value = rows[row, band]
                logs[band] = _log(max(value, floor)) + (value - value)  # NaN if it is not finite
            for band in range(n_mels):
                level = np.float64(logs[band]) * scale
                parts[0, band] += level
                parts[1, band] += level * level
        sums += parts


SIGNATURE = types.void(
    types.Array(types.float32, 2, "C"),
    types.float32,
    types.float64,
    types.intp,
    types.Array(types.float64, 2, "C"),
)
