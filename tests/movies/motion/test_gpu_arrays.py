"""The operations by PyTorch, here on the CPU: the same shifts and the same sums as by NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import List, Optional

import numpy as np
import pytest

from cryoden.errors import DeviceError
from cryoden.movies.calibration import Calibration
from cryoden.movies.dose_weighting import DoseWeighting
from cryoden.movies.motion.aligned_sums import aligned_half_bands
from cryoden.movies.motion.arrays import Arrays, arrays_on
from cryoden.movies.motion.estimation import MotionEstimate, estimate_motion
from cryoden.movies.motion.gpu import TorchArrays
from cryoden.movies.motion.motion import Motion
from cryoden.movies.movie import Movie
from tests.helpers import write_raw_mrc
from tests.moving import BENT, N_FRAMES, RATE, SHAPE, drift, moving_frames

SHIFTS = [(float(x), float(y)) for x, y in drift()]
FIELDS = [BENT.fields(frame + 1) for frame in range(N_FRAMES)]


@pytest.fixture(scope="module")
def frames() -> List[np.ndarray]:
    return list(moving_frames(drift(), 4.0, model=BENT))


def estimated(frames: List[np.ndarray], arrays: Arrays) -> MotionEstimate:
    return estimate_motion(map(arrays.device, frames), N_FRAMES, SHAPE, RATE, 4, arrays)


def test_motion_is_the_same(frames: List[np.ndarray]) -> None:
    one, other = (estimated(frames, arrays) for arrays in (Arrays(2), TorchArrays("cpu")))
    assert one.coefficients is not None
    assert other.coefficients is not None
    assert np.abs(one.shifts - other.shifts).max() < 0.02
    places = np.vander(np.linspace(-0.5, 0.5, 5), 3, increasing=True)
    fields = [one.local_model.fields(frame + 1) - other.local_model.fields(frame + 1) for frame in range(N_FRAMES)]
    assert np.abs(places @ np.array(fields) @ places.T).max() < 0.02
    for key, curve in one.curves.items():
        np.testing.assert_allclose(other.curves[key], curve, atol=2e-3)


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize(
    "motion",
    [Motion(SHIFTS), Motion(SHIFTS, FIELDS), Motion(SHIFTS, FIELDS, 2.0), Motion(SHIFTS, FIELDS, 2.0, False, True),
     Motion(SHIFTS, FIELDS, 1.5, is_circular=True)],
)  # fmt: skip
def test_sums_are_the_same(frames: List[np.ndarray], motion: Motion, is_weighted: bool) -> None:
    weighting = DoseWeighting(4.0 * np.arange(1, N_FRAMES + 1), RATE) if is_weighted else None
    halves = [summed(frames, motion, weighting, arrays) for arrays in (Arrays(2), TorchArrays("cpu"))]
    assert halves[0].dtype == halves[1].dtype == np.float32
    np.testing.assert_allclose(halves[1], halves[0], atol=2e-3)  # of sums of about 24


def summed(frames: List[np.ndarray], motion: Motion, weighting: Optional[DoseWeighting], arrays: Arrays) -> np.ndarray:
    bands = aligned_half_bands(
        lambda order: (arrays.device(frames[n]) for n in order), SHAPE, motion, weighting, arrays
    )
    return np.concatenate([np.stack(band) for band in bands], axis=1)


@pytest.mark.parametrize("mode", [0, 1, 2, 6])
def test_frames_are_corrected_in_the_same_way(tmp_path: Path, mode: int) -> None:
    counts = np.random.default_rng(1).poisson(20, (4, 90, 120))
    counts[:, 40, 50] = 100
    movie = Movie(write_raw_mrc(tmp_path / "m.mrc", counts, mode), Calibration(hot_pixels=8.0))
    torch_arrays = TorchArrays("cpu", 3)
    for one, other in zip(movie.corrected_frames(), movie.corrected_frames(arrays=torch_arrays)):
        np.testing.assert_allclose(torch_arrays.host(other), one, rtol=1e-6)
    assert movie.n_bad_pixels == 1


def test_without_a_gpu_the_cpu_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("cryoden.movies.motion.arrays.GPU_FILES", (Path("/"),))
    assert not arrays_on("auto", 3).is_apart
    assert arrays_on("auto", 3).n_threads == 3
    with pytest.raises(DeviceError, match="no GPU that this PyTorch can use"):
        arrays_on("cuda:1", 1)


def test_a_gpu_needs_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cryoden.movies.motion.gpu", None)
    monkeypatch.setattr("cryoden.movies.motion.arrays.GPU_FILES", (Path("/"),))
    assert not arrays_on("auto", 1).is_apart
    with pytest.raises(DeviceError, match="PyTorch is not installed") as error:
        arrays_on("cuda", 1)
    assert error.value.problem.remedy is not None
