"""95 % intervals of accuracy and macro F1 that hold for few tracks, for tracks in groups, and if all are right."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from melzarr.model.streams import OF_INTERVALS, stream

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.intp]

DRAWS = 2000  # the ends of an interval vary by some hundredths of its width with so many draws
Z = 1.959964  # 95 % of a normal distribution is between -Z and Z standard deviations
PRIOR = 0.5  # weight of a right unit, and of a wrong unit, that is added to the data


def wilson(n_right: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share.

    Parameters
    ----------
    n_right, n : int
        Number of right answers, and of all answers.

    Returns
    -------
    low, high : float
        Ends of the score interval (Wilson 1927).

    Examples
    --------
    >>> [round(end, 3) for end in wilson(10, 10)]
    [0.722, 1.0]
    """
    share, denominator = n_right / n, 1 + Z**2 / n
    centre = (share + Z**2 / (2 * n)) / denominator
    half = Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2)) / denominator
    return max(0.0, centre - half) if n_right else 0.0, min(1.0, centre + half) if n_right < n else 1.0


def interval_of_share(right: Numbers, sizes: Numbers, units: Numbers, seed: int) -> tuple[float, float]:
    """Return the 95 % interval of the share of right answers, which are not independent within a unit.

    Parameters
    ----------
    right, sizes : np.ndarray [shape=(n_tracks,)]
        Number of right answers for each track, and of all its answers: one per window, or one for the whole track.
    units : np.ndarray [shape=(n_tracks,)]
        Number of each track's unit, which is drawn as a whole: the track itself, or its group.
    seed : int
        Seed of the draws.

    Returns
    -------
    low, high : float
        Ends of the interval.

    Notes
    -----
    This is a Bayesian bootstrap (Rubin 1981) whose draws give weights to units. If these are groups, it is a cluster
    bootstrap (Field and Welsh 2007). With few groups, the quantiles of such draws are too close together, and they
    coincide if all answers are right. Hence each draw adds `PRIOR` of a right and of a wrong unit, of the size that
    the unit of an answer has on average. For units of one answer each this is Jeffreys' interval, whose coverage is
    near 95 % for any number of units. In simulations of 5 to 44 groups of equal and unequal sizes, whose tracks were
    independent, alike or between, it contained the true share in 92 to 99 % of cases, and in 89 % if few of the groups
    had most of the tracks. Of 5 groups, the quantiles of draws with replacement contained it in 14 to 92 %.
    """
    n_right, n_answers = _sums(right, units), _sums(sizes, units)
    size = _size_of_a_unit(n_answers)

    def share(weights: Floats, extra: Floats) -> float:
        gained, lost = extra[:, 0] * size
        return float((weights @ n_right + gained) / (weights @ n_answers + gained + lost))

    return _ends(share, n_answers.size, np.full((2, 1), PRIOR), seed)


def interval_of_difference(right: Numbers, other: Numbers, units: Numbers, seed: int) -> tuple[float, float]:
    """Return the 95 % interval of how much larger the share of right tracks is than that of another model.

    Parameters
    ----------
    right, other : np.ndarray [shape=(n_tracks,), dtype=bool]
        Whether each track was classified correctly by the one model, and by the other.
    units : np.ndarray [shape=(n_tracks,)]
        Number of each track's unit, which is drawn as a whole: the track itself, or its group.
    seed : int
        Seed of the draws.

    Notes
    -----
    The bootstrap is that of `interval_of_share`, and paired: a draw gives both answers for a track the same weight.
    It adds `PRIOR` of a unit that only the one model has right, and as much of one that only the other has right, as
    Agresti and Min (2005) do for matched pairs. So a single track does not decide which model is ahead.
    """
    n_ahead, n_answers = _sums(right, units) - _sums(other, units), _sums(np.ones(len(units)), units)
    size = _size_of_a_unit(n_answers)

    def difference(weights: Floats, extra: Floats) -> float:
        gained, lost = extra[:, 0] * size
        return float((weights @ n_ahead + gained - lost) / (weights @ n_answers + gained + lost))

    return _ends(difference, n_answers.size, np.full((2, 1), PRIOR), seed)


def interval_of_macro_f1(true: Numbers, found: Numbers, units: Numbers, seed: int) -> tuple[float, float]:
    """Return the 95 % interval of the mean F1 of the classes that occur, by the method of `interval_of_share`.

    Parameters
    ----------
    true, found : np.ndarray [shape=(n_tracks,)]
        True and predicted class of each track.
    units : np.ndarray [shape=(n_tracks,)]
        Number of each track's unit, which is drawn as a whole: the track itself, or its group.
    seed : int
        Seed of the draws.

    Notes
    -----
    Each class keeps its share of the tracks. `PRIOR` is divided among the classes. The wrong answers that it adds to a
    class are spread over the other classes. In a class of m units, the variance over the draws is (m - 1) / (m + 1)
    of what the units imply, which is much less if a class has few (Rao and Wu 1988 correct draws within strata for
    this). Hence the distance of each end from the figure is widened by the square root of the inverse, for the mean m
    of the classes; below 2, nothing is known of the variance, and m is taken as 2. In simulations with 2 to 40 classes
    of 2 to 15 units, each a track or some four tracks, the interval contained the true value in 91 to 99 % of cases,
    and without the widening in 70 to 97 %.
    """
    there, classes = np.unique(true, return_inverse=True)
    sizes, n = np.bincount(classes), len(there)
    place = np.full(int(np.max([true, found])) + 1, n)  # n: a class that does not occur
    place[there] = np.arange(n)
    answers, is_right = place[found], true == found
    _, unit = np.unique(units, return_inverse=True)
    n_tracks = np.bincount(unit)
    size = _size_of_a_unit(n_tracks)

    def mean_f1(of_units: Floats, extra: Floats) -> float:
        weights, (gained, lost) = of_units[unit], extra * size
        scale = sizes / (np.bincount(classes, weights, n) + gained + lost)
        weights, gained, lost = weights * scale[classes], gained * scale, lost * scale
        hits = np.bincount(classes[is_right], weights[is_right], n) + gained
        others = (lost.sum() - lost) / max(1, n - 1)
        answered = np.bincount(answers, weights, n + 1)[:n] + gained + others
        return float(np.mean(2 * hits / (sizes + answered)))

    low, high = _ends(mean_f1, n_tracks.size, np.full((2, n), PRIOR / n), seed)
    value = mean_f1(np.ones(n_tracks.size), np.zeros((2, n)))
    m = max(2.0, np.unique(np.stack([classes, unit]), axis=1).shape[1] / n)
    wider = math.sqrt((m + 1) / (m - 1))
    return max(0.0, value + (min(low, value) - value) * wider), min(1.0, value + (max(high, value) - value) * wider)


def _sums(values: npt.NDArray[Any], units: Numbers) -> Floats:
    """Add up the values of each unit's tracks, in the order of the units' numbers."""
    _, unit = np.unique(units, return_inverse=True)
    return np.bincount(unit, values).astype(np.float64, copy=False)


def _size_of_a_unit(sizes: npt.NDArray[Any]) -> float:
    """Return the number of answers in the unit of an answer, on average over the answers."""
    return float(sizes @ sizes / sizes.sum())


def _ends(statistic: Callable[[Floats, Floats], float], n_units: int, prior: Floats, seed: int) -> tuple[float, float]:
    """Return the 2.5 % and 97.5 % quantiles over random weights, drawn one set at a time to bound the memory."""
    rng = stream(OF_INTERVALS, seed)
    drawn = [statistic(rng.standard_exponential(n_units), rng.standard_gamma(prior)) for _ in range(DRAWS)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)
