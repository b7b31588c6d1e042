from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cryoden.movies.frame_sums import FrameSum

INTEGERS = st.sampled_from(["u1", "i1", "<u2", ">u2", "<i2", ">i2", "<u4", ">i4"])


@settings(deadline=None, max_examples=150, derandomize=True)
@given(INTEGERS.flatmap(lambda kind: hnp.arrays(kind, st.tuples(st.integers(1, 300), st.just(2), st.just(3)))))
def test_sums_of_integers_are_exact(frames: np.ndarray) -> None:
    """Whatever the values: extremes of every type, many frames."""
    total = FrameSum()
    before = frames.copy()
    for frame in frames:
        total.add(frame)
    np.testing.assert_array_equal(total.total(), frames.astype(object).sum(axis=0).astype(np.int64))
    np.testing.assert_array_equal(total.total(), frames.astype(object).sum(axis=0).astype(np.int64))
    np.testing.assert_array_equal(frames, before)


@pytest.mark.parametrize(("value", "n_frames", "expected"), [(3, 40, "u1"), (255, 40, "u2"), (255, 300, "u4")])
def test_type_is_as_narrow_as_the_values_allow(value: int, n_frames: int, expected: str) -> None:
    total = FrameSum()
    for _ in range(n_frames):
        total.add(np.full((4, 4), value, np.uint8))
    assert total.total().dtype == np.dtype(expected)
    assert np.all(total.total() == value * n_frames)


def test_floats_are_added_in_float64() -> None:
    total = FrameSum()
    for value in (1e8, 1.0, -1e8):
        total.add(np.full((2, 2), value, np.float32))
    assert total.total().dtype == np.float64
    assert np.all(total.total() == 1.0)


def test_sum_of_nothing() -> None:
    with pytest.raises(ValueError, match="nothing was added"):
        FrameSum().total()
