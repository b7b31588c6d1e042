"""What the benchmarks of motion share: RELION's motion correction, motions over the image, correlation with the truth.

Motions are `(frames, 2, y, x)`: where frames must be moved to, x first, in unbinned pixels, on a grid of places.
"""

from __future__ import annotations

import resource
import subprocess
import time
from pathlib import Path
from typing import NamedTuple, Sequence, Tuple

import numpy as np

from cryoden.formats.relion_job import MovieCorrection
from cryoden.metrics.ring_covariance import RingCovariance, ring_covariance
from cryoden.movies.motion.local_motion import LocalMotionModel
from cryoden.movies.motion.smooth_motion import fit_local_motion
from cryoden.simulate.facts import Facts
from cryoden.simulate.local_motion import LocalMotion

RELION = "relion_run_motioncorr"


class Cost(NamedTuple):
    """What a command took, in seconds: from its beginning to its end, and of the CPU."""

    seconds: float
    cpu: float


def timed(command: Sequence[str]) -> Cost:
    """Run a command in silence; raises CalledProcessError."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.monotonic() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def correct_by_relion(simulation: str, job: str, n_patches: int, n_threads: int, *words: str) -> Cost:
    """Have RELION correct the motion of simulated movies.

    Parameters
    ----------
    simulation
        Folder of the simulation, relative to the one in which this runs and the simulation ran.
    job
        Folder for what RELION writes.
    n_patches
        Along each side.
    n_threads
        Of RELION.
    words
        Further options.
    """
    command = [
        RELION, "--i", f"{simulation}/movies.star", "--o", f"{job}/", "--use_own", "--patch_x", str(n_patches),
        "--patch_y", str(n_patches), "--bfactor", "150", "--gainref", f"{simulation}/gain.mrc", "--j", str(n_threads),
        *words,
    ]  # fmt: skip
    return timed(command)


def about_movie(simulation: str, job: str) -> Path:
    """Return RELION's STAR file about the first of the simulated movies."""
    return Path(job, simulation, "movies", "movie_0001.star")


# ---------------------------------------------------------------------- motion on a grid
def grid(n_places: int) -> np.ndarray:
    """Return the middles of equal parts of a side, -1/2 to 1/2."""
    return (np.arange(n_places) + 0.5) / n_places - 0.5


def true_motion(facts: Facts, places: np.ndarray) -> np.ndarray:
    """Return the motion that brings the frames of a simulated movie back to where the specimen was at first."""
    field = LocalMotion.from_dict(facts.local_motion or {})
    moved = [
        np.asarray(shift)[:, None, None] + field.displacement(frame, places[:, None], places)
        for frame, shift in enumerate(facts.shifts)
    ]
    return -np.array(moved)[:, ::-1]


def nearest_model(facts: Facts, places: np.ndarray) -> Tuple[np.ndarray, LocalMotionModel]:
    """Return the true shifts of whole frames `(frames, 2)`, and the polynomial nearest to the true local motion."""
    shifts = -np.array(facts.shifts)[:, ::-1]
    local = true_motion(facts, places) - shifts[:, :, None, None]
    at = np.array([(x, y) for y in places for x in places])
    n_frames = len(shifts)
    measured = local.reshape(n_frames, 2, -1).transpose(2, 0, 1)
    variances = np.full_like(measured, 1e-4)
    return shifts, LocalMotionModel(fit_local_motion(measured, variances, at, np.arange(n_frames) + 0.5, n_frames))


def field_motion(fields: Sequence[np.ndarray], places: np.ndarray) -> np.ndarray:
    """Return the motion of polynomials as `LocalMotionModel.fields` returns them, one a frame."""
    powers = np.vander(places, 3, increasing=True)
    return np.array([[powers @ polynomial @ powers.T for polynomial in field] for field in fields])


def found_motion(correction: MovieCorrection, places: np.ndarray, is_as_relion: bool = False) -> np.ndarray:
    """Return the motion that a motion correction found: of whole frames and, where it has a model, within them."""
    frames = sorted(correction.shifts)
    shifts = np.array([correction.shifts[frame] for frame in frames])[:, :, None, None]
    if correction.coefficients is None:
        return shifts + np.zeros((len(places), len(places)))
    model = LocalMotionModel.of(correction)
    return shifts + field_motion([model.fields(frame, is_as_relion) for frame in frames], places)


def whole(motion: np.ndarray) -> np.ndarray:
    """Return the motion of whole frames: the mean over the image."""
    return motion.mean(axis=(2, 3), keepdims=True)


def rms(motion: np.ndarray) -> float:
    """Return the root mean square over image and frames; a shift of all frames together is free."""
    error = motion - motion.mean(axis=(0, 2, 3), keepdims=True)
    return float(np.sqrt((error**2).sum(axis=1).mean()))


# ---------------------------------------------------------------------- correlation with the truth
def rings_with_truth(
    image: np.ndarray, truth: np.ndarray, sampling_rate: float, margin_px: int, is_windowed: bool = False
) -> RingCovariance:
    """Return the ring covariances of a sum and the truth, without the edges, which drift brings in.

    Parameters
    ----------
    image, truth
        Of one size, `(y, x)`.
    sampling_rate
        A/px.
    margin_px
        That is left out on each side.
    is_windowed
        Whether what is left falls to 0 at its edges.
    """
    inner = tuple(slice(margin_px, size - margin_px) for size in truth.shape)
    parts = [picture[inner].astype(float) for picture in (image, truth)]
    if is_windowed:
        window = np.outer(*(np.hanning(size) for size in parts[0].shape))
        parts = [(part - part.mean()) * window for part in parts]
    return ring_covariance(parts, sampling_rate)


def fourier_cropped(image: np.ndarray, size: int) -> np.ndarray:
    """Return a square image on a coarser grid of `size` pixels a side."""
    spectrum = np.fft.fftshift(np.fft.fft2(image.astype(float)))
    low = (image.shape[0] - size) // 2
    return np.fft.ifft2(np.fft.ifftshift(spectrum[low : low + size, low : low + size])).real
