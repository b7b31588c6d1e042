"""Make movies from one real exposure by thinning its electron counts.

The micrograph is `fei-extended.mrc` of mrcfile's source distribution (BSD-3; contributed by Kevin Savage, Diamond Light
Source, with permission for public distribution, as its README says): Krios, 300 kV, counting K2, 3838 x 3710 px, 0.8538
A/px, 47.6 e/A2. Its values are electron counts times 103.7. Dealing every counted electron to one of 16 frames at
random (multinomial thinning) gives frames whose Poisson noise is exactly independent: thinned frames of one real
exposure, no real movies, without motion and dose damage.
"""

from __future__ import annotations

from pathlib import Path
from typing import List, Tuple

import mrcfile
import numpy as np

from cryoden.movies.thinning import thin

COUNT_SCALE = 103.7
"""Grey values per electron: makes variance / mean of the counts 1.02."""

OUTLIER_DEVIATIONS = 8.0
SAMPLING_RATE = 0.8538
DOSE_PER_A2 = 47.6
VOLTAGE_KV, SPHERICAL_ABERRATION_MM, AMPLITUDE_CONTRAST = 300.0, 2.7, 0.1
N_FRAMES = 16
SEED = 10025


def electron_counts(micrograph: Path) -> np.ndarray:
    """Return the electrons counted in each pixel, int `(y, x)`, outliers clipped."""
    with mrcfile.open(str(micrograph), permissive=True) as mrc:
        values = mrc.data.astype(np.float64)
    values = np.minimum(values, values.mean() + OUTLIER_DEVIATIONS * values.std())
    return np.rint(values / COUNT_SCALE).astype(np.int64)


def quadrants(shape: Tuple[int, int]) -> List[Tuple[slice, slice]]:
    """Return the four equal parts of an image, from the first row on."""
    rows, columns = shape[0] // 2, shape[1] // 2
    return [(slice(y, y + rows), slice(x, x + columns)) for y in (0, rows) for x in (0, columns)]


def write_movies(micrograph: Path, folder: Path) -> List[Path]:
    """Write one 16-frame MRC movie (mode 0) for each quadrant and return their paths; finished ones are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"quadrant_{number}.mrcs" for number in range(1, 5)]
    if all(path.exists() for path in paths):
        return paths
    counts, rng = electron_counts(micrograph), np.random.default_rng(SEED)
    for path, place in zip(paths, quadrants(counts.shape)):
        temporary = path.with_suffix(".part.mrcs")
        with mrcfile.new(str(temporary), overwrite=True) as mrc:
            mrc.set_data(thin(counts[place], N_FRAMES, rng).astype(np.int8))
            mrc.set_image_stack()
            mrc.voxel_size = SAMPLING_RATE
        temporary.rename(path)
    return paths
