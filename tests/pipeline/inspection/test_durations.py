"""The histogram of durations, held against plain counting."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from melzarr.pipeline.inspection.durations import lengths


@settings(max_examples=30)
@given(st.lists(st.floats(0, 1e6) | st.sampled_from([np.nan, np.inf, -1.0]), max_size=60))
def test_a_histogram_counts_every_known_duration_once(values: list[float]) -> None:
    duration = np.array(values, np.float64)
    known = duration[np.isfinite(duration) & (duration >= 0)]
    described = lengths(duration)
    assert described.n == known.size == described.counts.sum()
    assert described.n_unknown == duration.size - known.size
    if known.size:
        assert (described.shortest, described.longest) == (known.min(), known.max())
        assert described.edges[0] <= known.min()
        assert described.edges[-1] == known.max()
        for low, high, count in zip(described.edges, described.edges[1:], described.counts[:-1], strict=False):
            assert count == ((known >= low) & (known < high)).sum()
