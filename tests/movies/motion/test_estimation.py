"""Motion found from frames alone: against the motion that they were made with."""

from __future__ import annotations

from typing import Optional, Tuple

import numpy as np
import pytest

from cryoden.movies.motion.estimation import MotionEstimate, estimate_motion
from cryoden.movies.motion.local_motion import LocalMotionModel
from cryoden.movies.motion.motion import GLOBAL, LOCAL, NULL, UNALIGNED
from cryoden.movies.motion.smooth_motion import fit_local_motion, smooth_trajectory
from tests.moving import BENT, N_FRAMES, RATE, SHAPE, drift, field_of, moving_frames, rms


def estimate(
    shifts: np.ndarray, dose: float, seed: int = 1, model: Optional[LocalMotionModel] = None, n_patches: int = 1
) -> MotionEstimate:
    return estimate_motion(moving_frames(shifts, dose, seed, model), len(shifts), SHAPE, RATE, n_patches)


@pytest.mark.parametrize("seed", [1, 2])
def test_drift_is_found_to_a_fraction_of_a_pixel(seed: int) -> None:
    found = estimate(drift(), dose=1.5, seed=seed)
    assert found.is_found
    assert found.is_converged
    assert rms(found.shifts, drift()) < 0.15
    assert tuple(found.shifts[0]) == (0.0, 0.0)


def test_uncertainty_is_the_error() -> None:
    found = [estimate(drift(), dose=1.0, seed=seed) for seed in (3, 4)]
    errors = [rms(one.shifts, drift()) / one.uncertainty for one in found]
    assert 0.3 < np.mean(errors) < 2.0  # of both axes together, after smoothing


def test_halves_agree_more_than_without_and_estimation_alone_makes_nothing_agree() -> None:
    found = estimate(drift(), dose=1.5)
    assert found.frc[GLOBAL] > found.frc[UNALIGNED] + 0.02
    assert abs(found.frc[NULL]) < 0.02


def test_frame_that_jumps_far_is_found() -> None:
    shifts = drift()
    shifts[7] += (25.0, -18.0)
    found = estimate(shifts, dose=2.0)
    assert rms(found.shifts, shifts) < 0.3


def test_few_electrons_are_grouped() -> None:
    n_frames = 48
    found = estimate(drift(n_frames), dose=0.03)
    assert len(found.scores) < n_frames
    assert found.is_found
    assert rms(found.shifts, drift(n_frames)) < 0.8


def test_noise_is_nothing_found() -> None:
    rng = np.random.default_rng(1)
    found = estimate_motion((rng.poisson(1.0, SHAPE).astype(np.float32) for _ in range(8)), 8, SHAPE, RATE, 5)
    assert not found.is_found
    assert found.coefficients is None


def test_frames_of_other_movies_are_nothing_found() -> None:
    mixed = (next(moving_frames(np.zeros((1, 2)), 1.5, seed)) for seed in range(8))
    assert not estimate_motion(mixed, 8, SHAPE, RATE, 1).is_found


def local_error(found: MotionEstimate, model: Optional[LocalMotionModel], shifts: np.ndarray) -> Tuple[float, float]:
    """Return the rms error over image and time with the local motion found, and without; each place's mean is free."""
    errors = []
    for known in (found.local_model, None):
        difference = []
        for number, shift in enumerate(shifts):
            error = np.zeros((2, *SHAPE)) + (found.shifts[number] - shift)[:, None, None]
            error += 0 if known is None else field_of(known, number + 1)
            error -= 0 if model is None else field_of(model, number + 1)
            difference.append(error[:, ::16, ::16])
        relative = np.array(difference) - np.mean(difference, axis=0)
        errors.append(float(np.sqrt((relative**2).sum(axis=1).mean())))
    return errors[0], errors[1]


def test_local_motion_is_found() -> None:
    found = estimate(drift(), dose=4.0, model=BENT, n_patches=4)
    assert found.coefficients is not None
    assert found.is_converged
    with_model, without = local_error(found, BENT, drift())
    assert without > 0.8
    assert with_model < 0.3 * without
    assert found.frc[LOCAL] > found.frc[GLOBAL]


def test_where_nothing_moves_locally_next_to_nothing_is_found() -> None:
    found = estimate(drift(), dose=4.0, n_patches=4)
    assert local_error(found, None, drift())[0] < 0.15


def test_frames_beyond_the_memory_are_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cryoden.movies.motion.estimation.MEMORY_BYTES", 1 << 20)
    found = estimate(drift(24), dose=1.5)
    assert len(found.scores) < 24
    assert rms(found.shifts, drift(24)) < 0.35


def test_smooth_trajectory_is_nearer_to_the_truth_than_what_was_measured() -> None:
    rng = np.random.default_rng(1)
    true = drift(40)
    times = np.arange(40.0)
    measured = true + 0.3 * rng.standard_normal(true.shape)
    smooth = smooth_trajectory(measured, np.full_like(true, 0.09), times, times)
    assert rms(smooth, true) < 0.6 * rms(measured, true)


def test_what_jumps_is_not_smoothed() -> None:
    true = np.where(np.arange(40)[:, None] < 20, 0.0, 30.0) * np.ones(2)
    times = np.arange(40.0)
    smooth = smooth_trajectory(true, np.full_like(true, 0.01), times, times)
    assert np.abs(smooth - true).max() < 0.2


def test_far_out_measurements_do_not_bend_the_local_motion() -> None:
    side = np.array([-0.4, -0.2, 0.0, 0.2, 0.4])
    places = np.array([(x, y) for y in side for x in side])
    times = np.arange(N_FRAMES) + 0.5
    measured = np.stack([
        [_at(BENT, x, y, time) for time in times] for x, y in places
    ])  # fmt: skip
    measured[3] += 20 * np.random.default_rng(1).standard_normal(measured[3].shape)  # an empty patch finds anything
    fitted = fit_local_motion(measured, np.full_like(measured, 0.01), places, times, N_FRAMES)
    model = LocalMotionModel(fitted)
    worst = max(np.abs(_at(model, x, y, times[-1]) - _at(BENT, x, y, times[-1])).max() for x, y in places)
    assert worst < 0.2


def _at(model: LocalMotionModel, x: float, y: float, time: float) -> np.ndarray:
    powers_x, powers_y = x ** np.arange(3), y ** np.arange(3)
    return np.array([powers_y @ field @ powers_x for field in model.fields(time + 0.5)])


@pytest.mark.parametrize("shape", [(16, 16), (33, 64), (64, 200)])
@pytest.mark.parametrize("n_frames", [2, 3, 7])
@pytest.mark.parametrize("rate", [0.5, 6.0])
def test_small_and_flat_movies_have_no_motion(shape: Tuple[int, int], n_frames: int, rate: float) -> None:
    rng = np.random.default_rng(1)
    for frames in ([np.ones(shape, np.float32)] * n_frames, rng.normal(1e6, 1e6, (n_frames, *shape)).astype("f4")):
        found = estimate_motion(iter(frames), n_frames, shape, rate, 5)
        assert not found.is_found
        assert np.isfinite(found.shifts).all()
