"""How the specimen moved in a movie: the shift of every frame, and the motion within it, from the frames alone.

First whole frames are compared with the sum of the others, then patches of them; both are smoothed as far as the
measurements ask for, and what was smoothed is measured again. Sources: Li et al. (2013) Nat. Methods 10, 584-590;
Grant & Grigorieff (2015) eLife 4:e06980; Zheng et al. (2017) Nat. Methods 14, 331-332; Zivanov, Nakane & Scheres (2019)
IUCrJ 6, 5-17.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Dict, Iterable, Iterator, List, Optional, Tuple

import numpy as np
import scipy.fft
import scipy.ndimage

from cryoden.formats.relion_job import COEFFICIENTS
from cryoden.movies.motion.arrays import Array, Arrays
from cryoden.movies.motion.correlation import Band, FrameSpectra, Measurement, ring_frc
from cryoden.movies.motion.local_motion import FRAME_MIDDLE, LocalMotionModel
from cryoden.movies.motion.motion import GLOBAL, LOCAL, NULL, UNALIGNED, Shape
from cryoden.movies.motion.smooth_motion import fit_local_motion, smooth_trajectory
from cryoden.movies.taper import taper

COARSE_PIXEL_A = 2.0
"""Frames are binned to about this: their finer detail is noise."""

B_FACTORS = (1500.0, 1000.0, 500.0)
"""A^2: the first correlations are broad, so that frames far from their places are found; then they become sharp."""

REACH_A = 100.0
"""How far a frame may be from the others."""

LOCAL_REACH_A = 20.0
"""How far a patch of a frame may be from where the whole frame is."""

CONVERGED_PX = 0.05
"""Largest change of a shift in the last iteration."""

MAX_ITERATIONS = 10

MAX_JUMPS = 4
"""How often frames that are far from the others are moved to them."""

BY_CHANCE = 2.0
"""By how much the score of a frame that lies apart must be higher there than beside its neighbours."""

N_PARTS = 8
"""Of a movie, between which a break is looked for."""

BROKEN = 0.35
"""Agreement of what is before and after a break, relative to that elsewhere."""

FRAME_EDGE, PATCH_EDGE = 1 / 24, 1 / 8
"""Share of the side in which frames and patches fall to 0, at either end."""

NULL_ITERATIONS = 3
"""As many as frames that show the same thing take; noise never settles."""

MEMORY_BYTES = 1100 << 20
"""For the transforms of the frames, and the frame that is read."""

BYTES_OF_PIXEL = 12
"""Of the frame that is read: as it is stored, corrected, and ahead."""

MIN_SCORE = 6.0
"""Noise alone reaches it in no patch of no frame; frames that do not reach it either are grouped."""

MOST_TIMES = 10
"""At which patches are measured: neighbouring frames are summed if there are more, since patches hardly move between
them once their frames are aligned. Twice as many gave no smaller error, and take twice the memory."""

MIN_GROUPS = 6
"""Of frames: a cubic polynomial of time needs more than four."""

NO_FRAMES = np.empty(0, np.intp)


@dataclass(frozen=True)
class MotionEstimate:
    """What was found of the motion in one movie.

    Attributes
    ----------
    shifts
        Where the content of each frame must be moved to, `(frames, 2)` in x and y; unbinned pixels; the first is 0.
    uncertainty
        Standard error of a shift, px, before smoothing.
    scores
        Correlation of each frame (or group) with the others in units of what noise would reach.
    is_converged
        Whether the last iteration changed no shift by more than `CONVERGED_PX` or half of its standard error.
    curves
        Correlation of the odd and the even half in rings of one width, `(rings,)`, when frames stay where they are
        (`UNALIGNED`), are shifted (`GLOBAL`), and follow the local motion (`LOCAL`). `NULL`: after the same estimation
        of frames of which every other one was rotated by 180 degrees. Both halves are aligned to each other, which by
        itself makes them agree: that much, and no more, may be due to it.
    highest_per_angstrom
        Where the last ring ends, 1/A.
    coefficients
        Of the local motion, `(2, 6, 3)` as in `LocalMotionModel`; None = not looked for, or nothing found.
    observed
        Of the local motion: frame (middle of the group, from 1), x, y (px) and the two shifts of each patch, `(n, 5)`.
    strangers
        Frames, counted from 0, that have nothing in common with the others: their shifts are those of their neighbours.
    at_break
        About the first frame, counted from 0, from which on none shows what those before it show; None as it should be.
    """

    shifts: np.ndarray
    uncertainty: float
    scores: np.ndarray
    is_converged: bool
    curves: Dict[str, np.ndarray]
    highest_per_angstrom: float
    coefficients: Optional[np.ndarray] = None
    observed: Optional[np.ndarray] = None
    strangers: np.ndarray = field(default_factory=lambda: NO_FRAMES)
    at_break: Optional[int] = None

    @property
    def spread(self) -> float:
        """How far frames lie from their mean place: root mean square, px."""
        return float(np.sqrt(((self.shifts - self.shifts.mean(axis=0)) ** 2).sum(axis=1).mean()))

    @property
    def frc(self) -> Dict[str, float]:
        """Mean of each curve over all rings."""
        return {key: float(curve.mean()) for key, curve in self.curves.items()}

    def frc_to(self, resolution: float) -> Dict[str, float]:
        """Return the mean of each curve over the rings up to a resolution (A)."""
        n_rings = len(next(iter(self.curves.values())))
        n_used = max(1, min(n_rings, round(n_rings / (resolution * self.highest_per_angstrom))))
        return {key: float(curve[:n_used].mean()) for key, curve in self.curves.items()}

    @property
    def is_found(self) -> bool:
        """Whether frames show the same thing at all; else the shifts are those of noise."""
        return float(np.median(self.scores)) >= MIN_SCORE

    @property
    def local_model(self) -> Optional[LocalMotionModel]:
        """The local motion, with its first frame at the first shift."""
        return None if self.coefficients is None else LocalMotionModel(self.coefficients)


def estimate_motion(
    frames: Iterable[Array],
    n_frames: int,
    shape: Shape,
    sampling_rate: float,
    n_patches: int = 5,
    arrays: Arrays = Arrays(),
) -> MotionEstimate:
    """Find the motion in a movie.

    Parameters
    ----------
    frames
        Float32 `(y, x)`, with gain applied and bad pixels replaced; read once, one after the other. They are where
        `arrays` computes.
    n_frames
        How many there are; two or more.
    shape
        Rows and columns of a frame.
    sampling_rate
        A/px.
    n_patches
        Along each side, for local motion; below 3 there is none.
    arrays
        What computes.

    Raises
    ------
    CryodenError
        As `frames`.
    """
    binning = max(1, round(COARSE_PIXEL_A / sampling_rate))
    band = Band((shape[0] // binning, shape[1] // binning), (binning, binning), sampling_rate, arrays)

    # So many frames are kept that the memory does not grow with their number; neighbours are summed if there are more.
    n_bytes = MEMORY_BYTES - BYTES_OF_PIXEL * shape[0] * shape[1]
    n_kept = min(n_frames, max(MIN_GROUPS, n_bytes // band.n_bytes))
    groups = np.array_split(np.arange(n_frames), n_kept)
    images = _summed(_binned(frames, binning, band), groups)
    kept = Frames(FrameSpectra.of_images(images, n_kept, band), groups, n_frames, sampling_rate)

    found = _whole_frames(kept)
    if n_patches < 3 or not found.is_found or n_kept < MIN_GROUPS:
        return found
    return _with_local_motion(found, kept, n_patches)


@dataclass(frozen=True)
class Frames:
    """The frames of a movie as far as they are kept.

    Attributes
    ----------
    spectra
        Of groups of frames.
    groups
        Frames of each, counted from 0.
    n_frames
        Of the movie.
    sampling_rate
        A per unbinned pixel.
    """

    spectra: FrameSpectra
    groups: List[np.ndarray]
    n_frames: int
    sampling_rate: float

    @property
    def times(self) -> np.ndarray:
        """When the groups were exposed on average, in frames."""
        return np.array([group.mean() for group in self.groups])

    def places_of(self, shifts: np.ndarray) -> np.ndarray:
        """Return the shift of each group, `(groups, 2)`, from those of all frames, `(frames, 2)`."""
        return _interpolated(shifts, np.arange(self.n_frames), self.times)

    def grouped(self, size: int, shifts: Optional[np.ndarray] = None) -> Frames:
        """Return groups of `size` groups; the frames of each are moved towards their middle if shifts are given."""
        if size == 1:
            return self
        parts = np.array_split(np.arange(len(self.groups)), len(self.groups) // size)
        groups = [np.concatenate([self.groups[item] for item in part]) for part in parts]
        within = np.zeros((len(self.groups), 2))
        if shifts is not None:
            places = self.places_of(shifts)
            at = np.arange(self.n_frames)
            for part, group in zip(parts, groups):
                within[part] = places[part] - _interpolated(shifts, at, np.array([group.mean()]))
        return Frames(self.spectra.grouped(parts, within), groups, self.n_frames, self.sampling_rate)


def _binned(frames: Iterable[Array], binning: int, band: Band) -> Iterator[Array]:
    """Yield the sum of every square of pixels, less the mean of all, falling to 0 at the edges; float32.

    Edges are at the same place in every frame: they would make frames agree that are not aligned.
    """
    arrays, (n_rows, n_columns) = band.arrays, band.shape
    taper_y = arrays.device(taper(n_rows, FRAME_EDGE)[:, None])
    taper_x = arrays.device(taper(n_columns, FRAME_EDGE))

    def reduced(frame: Array) -> Array:
        image = _squares(frame, binning, band)
        image -= float(image.mean())
        image *= taper_y
        image *= taper_x
        return image

    return arrays.overlapped(reduced, frames, n_rows * n_columns * binning**2)


def _squares(frame: Array, binning: int, band: Band) -> Array:
    """Return the sum of every square of pixels, float32."""
    arrays, (n_rows, n_columns) = band.arrays, band.shape
    result = arrays.empty((n_rows, n_columns), np.float32)

    def add(rows: slice) -> None:
        squares = frame[rows.start * binning : rows.stop * binning]
        lines = _added(squares[step::binning] for step in range(binning))
        result[rows] = _added(lines[:, step : n_columns * binning : binning] for step in range(binning))

    arrays.each(add, arrays.parts(n_rows, 4 * n_columns * binning**2))
    return result


def _added(items: Iterable[Array]) -> Array:
    """Return the sum of arrays; that of one is itself."""
    iterator = iter(items)
    total = next(iterator)
    for item in iterator:
        total = total + item
    return total


def _summed(images: Iterator[Array], groups: List[np.ndarray]) -> Iterator[Array]:
    """Yield the sum of each group of neighbouring images."""
    for group in groups:
        total = next(images)
        for _ in group[1:]:
            total += next(images)
        yield total
        del total
    next(images, None)  # which then keeps no frame


# ---------------------------------------------------------------------- whole frames
def _whole_frames(kept: Frames) -> MotionEstimate:
    """Return the shifts of the frames, all of them together."""
    size = 1
    while True:
        items = kept.grouped(size)
        places = _by_peaks(items)
        measured = items.spectra.measure(places, items.spectra.band.b_factor(B_FACTORS[-1]))
        if np.median(measured.scores) >= MIN_SCORE or len(items.groups) < 2 * MIN_GROUPS:
            break
        size *= 2  # single frames show too little

    places, at_break = _reunited(items, places)
    first = _interpolated(places, items.times, np.arange(kept.n_frames))
    shifts, measured, change = _refined(items, first)
    is_strange = _are_strange(measured.scores)
    if at_break is not None and is_strange[at_break:].all():
        at_break = None  # they show nothing, not something else

    still = np.zeros_like(places)
    curves = {UNALIGNED: ring_frc([items.spectra], [still])}
    curves[GLOBAL] = ring_frc([items.spectra], [items.places_of(shifts)])
    if np.median(measured.scores) >= MIN_SCORE:
        curves[NULL] = _null_frc(items, shifts)
    uncertainty = float(np.sqrt(np.median(_variances(measured)[~is_strange])))
    highest_per_angstrom = items.spectra.band.highest_per_angstrom
    return MotionEstimate(
        shifts, uncertainty, measured.scores, _is_settled(change, uncertainty), curves, highest_per_angstrom,
        strangers=np.concatenate([NO_FRAMES, *(items.groups[number] for number in np.flatnonzero(is_strange))]),
        at_break=None if at_break is None else int(items.groups[at_break][0]),
    )  # fmt: skip


def _reunited(items: Frames, places: np.ndarray) -> Tuple[np.ndarray, Optional[int]]:
    """Return the shifts after frames that are far from the others are moved to them, and where that was impossible.

    Where a stage was touched, those before and those after may agree among themselves, out of each other's reach. The
    second is the first item that has nothing in common with those before it, nor has any of those after it.
    """
    places = _kept_together(items, places)
    for _ in range(MAX_JUMPS):
        moved = _strays_moved(items, places)
        if moved is None:
            moved, at_break = _joined(items, places)
        if moved is None:
            return places, at_break
        places = _by_peaks(items, moved - moved[0])
    return places, _joined(items, places)[1]


def _kept_together(items: Frames, places: np.ndarray) -> np.ndarray:
    """Return the shifts with single frames moved to their neighbours that lie apart from them by chance.

    Where single frames show little, the highest place of a correlation may be one of noise.
    """
    neighbours = scipy.ndimage.median_filter(places, (5, 1), mode="mirror")
    reach = LOCAL_REACH_A / items.sampling_rate
    is_apart = (np.abs(places - neighbours).max(axis=1) > reach)[:, None]
    if not is_apart.any():
        return places

    weights = items.spectra.band.b_factor(B_FACTORS[1])
    near = np.where(is_apart, neighbours, places)
    near = near + np.where(is_apart, items.spectra.peaks(near, weights, reach), 0.0)
    scores, scores_near = (items.spectra.measure(shifts, weights).scores for shifts in (places, near))
    is_by_chance = is_apart & (scores < scores_near + BY_CHANCE)[:, None]
    moved = np.where(is_by_chance, near, places)
    return moved - moved[0]


def _strays_moved(items: Frames, places: np.ndarray) -> Optional[np.ndarray]:
    """Return the shifts with those frames moved that agree better with the others far away; None if none does."""
    weights = items.spectra.band.b_factor(B_FACTORS[1])
    steps = items.spectra.peaks(places, weights, np.inf)
    is_far = np.abs(steps).max(axis=1) > LOCAL_REACH_A / items.sampling_rate
    if not is_far.any():
        return None
    if is_far.sum() > len(places) / 2:
        is_far &= np.arange(len(places)) < len(places) / 2  # those before and those after would change places

    scores = items.spectra.measure(places, weights).scores
    moved = np.where(is_far[:, None], places + steps, places)
    is_far &= items.spectra.measure(moved, weights).scores > np.maximum(scores, MIN_SCORE)
    return np.where(is_far[:, None], moved, places) if is_far.any() else None


def _joined(items: Frames, places: np.ndarray) -> Tuple[Optional[np.ndarray], Optional[int]]:
    """Return the shifts after those behind a break are moved to those before it; else None, and where the break is."""
    weights = items.spectra.band.b_factor(B_FACTORS[1])
    parts = np.array_split(np.arange(len(places)), min(len(places), N_PARTS))
    n_parts = len(parts)
    sums = items.spectra.grouped(parts, places)
    still = np.zeros((n_parts, 2))

    def sides(first: int) -> FrameSpectra:
        return sums.grouped([np.arange(first), np.arange(first, n_parts)], still)

    # Two sums of the same thing agree the more, the more frames are in both.
    scores = np.array([sides(first).measure(still[:2], weights).scores[0] for first in range(1, n_parts)])
    first = np.arange(1, n_parts)
    agreement = scores / np.sqrt(first * (n_parts - first))
    weakest = int(np.argmin(agreement))
    if agreement[weakest] > BROKEN * np.median(agreement):
        return None, None

    before_and_after = sides(weakest + 1)
    steps = np.array([(0.0, 0.0), before_and_after.peaks(still[:2], weights, np.inf)[1]])
    begin = int(parts[weakest + 1][0])
    if before_and_after.measure(steps, weights).scores[1] <= max(scores[weakest], MIN_SCORE):
        return None, begin
    return places + np.where(np.arange(len(places)) < begin, 0.0, 1.0)[:, None] * steps[1], None


def _is_settled(change: float, uncertainty: float) -> bool:
    """Return whether what the last iteration changed is less than what is not known anyway."""
    return change < max(CONVERGED_PX, uncertainty / 2)


def _are_strange(scores: np.ndarray) -> np.ndarray:
    """Return which frames have nothing in common with the others, though most of these have: blank ones."""
    middle = float(np.median(scores))
    return (scores < min(MIN_SCORE, middle / 2)) & (middle >= MIN_SCORE)


def _refined(
    items: Frames, first: np.ndarray, max_iterations: int = MAX_ITERATIONS
) -> Tuple[np.ndarray, Measurement, float]:
    """Return smooth shifts of all frames from those that were found first, what was measured last, and its change."""
    at = np.arange(items.n_frames)
    share = 1 - 1 / len(items.groups)  # the others, too, come towards each frame
    reach = max(items.spectra.band.pixel)  # nearby, Newton's step is right
    shifts, change = first, np.inf
    for iteration in range(max_iterations):
        places = items.places_of(shifts)
        if change > reach / 4:  # less than that changes little of what the frames share
            weights = items.spectra.common_signal(places)
        measured = items.spectra.measure(places, weights)
        steps = np.clip(measured.steps, -reach, reach)
        is_used = ~_are_strange(measured.scores)
        smooth = smooth_trajectory(
            (places + share * steps)[is_used], _variances(measured)[is_used], items.times[is_used], at
        )
        smooth -= smooth[0]
        if iteration >= MAX_ITERATIONS // 2:
            smooth = (smooth + shifts) / 2  # what swings between two answers comes to rest between them
        change = float(np.abs(smooth - shifts).max())
        shifts = smooth
        if change < CONVERGED_PX:
            break
    return shifts, measured, change


def _null_frc(items: Frames, shifts: np.ndarray) -> np.ndarray:
    """Return the correlation of halves that show different things after the same estimation."""
    turned = replace(items, spectra=items.spectra.half_turned(items.places_of(shifts)))
    found = _refined(turned, np.zeros_like(shifts), NULL_ITERATIONS)[0]
    return ring_frc([turned.spectra], [items.places_of(found)])


def _by_peaks(items: Frames, first: Optional[np.ndarray] = None) -> np.ndarray:
    """Return the shift of each item, wherever it is within reach of the first ones."""
    band = items.spectra.band
    share = 1 - 1 / len(items.groups)
    shifts = np.zeros((len(items.groups), 2)) if first is None else first
    for b_factor in B_FACTORS:
        for _ in range(MAX_ITERATIONS):
            steps = items.spectra.peaks(shifts, band.b_factor(b_factor), REACH_A / items.sampling_rate)
            steps = share * (steps - steps[0])
            shifts = shifts + steps
            if np.abs(steps).max() < max(band.pixel) / 2:
                break
    return shifts - shifts[0]


def _interpolated(places: np.ndarray, times: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return `(m, 2)` places at other times."""
    return np.stack([np.interp(at, times, places[:, axis]) for axis in range(2)], axis=1)


def _variances(measured: Measurement) -> np.ndarray:
    """Return the variance of each axis, `(n, 2)`."""
    return np.stack([measured.covariances[:, 0, 0], measured.covariances[:, 1, 1]], axis=1)


# ---------------------------------------------------------------------- motion within them
@dataclass(frozen=True)
class Patches:
    """Overlapping patches of the frames, after these were moved as a whole.

    Attributes
    ----------
    spectra
        Of the groups of frames in each patch.
    places
        Centres of the patches, x and y from -1/2 to 1/2, `(patches, 2)`.
    times
        Middle of each group, in frames from the beginning of the first.
    """

    spectra: List[FrameSpectra]
    places: np.ndarray
    times: np.ndarray


def _with_local_motion(found: MotionEstimate, kept: Frames, n_patches: int) -> MotionEstimate:
    """Return the estimate with the motion of patches, as a polynomial."""
    score = float(np.median(found.scores)) / n_patches
    least = len(kept.groups) / MOST_TIMES
    size = int(np.ceil(min(max((MIN_SCORE / score) ** 2, least), len(kept.groups) / MIN_GROUPS)))
    patches = _patches(found, kept.grouped(size, found.shifts), n_patches)

    band, arrays = kept.spectra.band, kept.spectra.band.arrays
    weights = band.common_signal(found.curves[GLOBAL])
    broad = patches.spectra[0].band.b_factor(B_FACTORS[1])
    still = np.zeros((len(patches.times), 2))
    far = LOCAL_REACH_A / kept.sampling_rate
    now = np.stack(arrays.each(lambda patch: patch.peaks(still, broad, far), patches.spectra))
    reach = max(band.pixel)
    shifts = np.zeros_like(now)
    share = 1 - 1 / len(patches.times)
    coefficients = np.zeros(COEFFICIENTS)
    change = np.inf
    for iteration in range(MAX_ITERATIONS):
        results = arrays.each(lambda item: item[0].measure(item[1], weights), list(zip(patches.spectra, now)))
        steps = np.clip(np.stack([result.steps for result in results]), -reach, reach)
        variances = np.stack([_variances(result) for result in results])
        measured = now + share * steps
        fitted = fit_local_motion(measured, variances, patches.places, patches.times, kept.n_frames)
        coefficients = fitted if iteration < MAX_ITERATIONS // 2 else (coefficients + fitted) / 2

        now = _at_places(LocalMotionModel(coefficients), patches.places, patches.times)
        change = float(np.abs(now - shifts).max())
        shifts = now
        if change < CONVERGED_PX:
            break
    # Patches have edges of their own: what local motion gives is the difference between patches.
    gain = ring_frc(patches.spectra, list(shifts)) - ring_frc(patches.spectra, list(np.zeros_like(shifts)))
    return replace(
        found,
        is_converged=found.is_converged and _is_settled(change, found.uncertainty),
        curves={**found.curves, LOCAL: found.curves[GLOBAL] + gain},
        coefficients=coefficients if np.abs(shifts).max() > CONVERGED_PX else None,
        observed=_observed(measured, patches, band),
    )


def _patches(found: MotionEstimate, items: Frames, n_patches: int) -> Patches:
    """Return the patches of groups of frames, `n_patches` along each side."""
    band, arrays = items.spectra.band, items.spectra.band.arrays

    # A grid that just holds the band: fewer pixels than the frames had.
    grid = tuple(min(side, scipy.fft.next_fast_len(reach)) for side, reach in zip(band.shape, _held(band)))
    shape = (grid[0], grid[1])
    pixel = (band.shape[0] * band.pixel[0] / shape[0], band.shape[1] * band.pixel[1] / shape[1])
    (rows, n_y), (columns, n_x) = (_patch_starts(size, n_patches) for size in shape)
    patch_band = Band((n_y, n_x), pixel, items.sampling_rate, arrays)
    window = arrays.device(np.outer(taper(n_y, PATCH_EDGE), taper(n_x, PATCH_EDGE)))
    corners = [(row, column) for row in rows for column in columns]

    spectra = arrays.empty((len(corners), len(items.groups), *patch_band.size), np.complex64)
    moved = items.spectra.moving(items.places_of(found.shifts), band.whole)

    def cut_out(number: int) -> None:
        image = band.to_images(moved(frames=slice(number, number + 1))[0], shape)
        cut = arrays.empty((len(corners), n_y, n_x), np.float32)
        for corner, (row, column) in enumerate(corners):
            patch = image[row : row + n_y, column : column + n_x]
            cut[corner] = patch - patch.mean()
            cut[corner] *= window
        spectra[:, number] = patch_band.of_images(cut)

    arrays.each(cut_out, range(len(items.groups)))
    places = [((x + n_x / 2) / shape[1] - 0.5, (y + n_y / 2) / shape[0] - 0.5) for y, x in corners]
    return Patches([FrameSpectra(patch_band, patch) for patch in spectra], np.array(places), items.times + FRAME_MIDDLE)


def _held(band: Band) -> Shape:
    """Return the fewest rows and columns of an image that has all frequencies of a band."""
    return 2 * band.reach_y + 2, 2 * band.reach_x + 2


def _patch_starts(size: int, n_patches: int) -> Tuple[List[int], int]:
    """Return where patches begin along an axis, and their side: each reaches half over its neighbours."""
    side = min(size, scipy.fft.next_fast_len(int(np.ceil(1.5 * size / n_patches)), real=True))
    starts = np.linspace(0, size - side, n_patches).round().astype(int)
    return list(starts), side


def _at_places(model: LocalMotionModel, places: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return the model's shifts `(patches, groups, 2)`, from the middle of the first frame on."""
    powers_x, powers_y = (np.vander(places[:, axis], 3, increasing=True) for axis in (0, 1))
    result = np.empty((len(places), len(times), 2))
    for number, time in enumerate(times):
        polynomials = model.fields(model.first_frame + time - FRAME_MIDDLE)
        result[:, number] = np.einsum("py,ayx,px->pa", powers_y, polynomials, powers_x)
    return result


def _observed(measured: np.ndarray, patches: Patches, band: Band) -> np.ndarray:
    """Return what was measured as a table: frame, place and shift of each patch, from the first group on."""
    relative = measured - measured[:, :1]
    n_rows, n_columns = (size * step for size, step in zip(band.shape, band.pixel))
    rows = [
        (time + FRAME_MIDDLE, (x + 0.5) * n_columns, (y + 0.5) * n_rows, *relative[patch, group])
        for group, time in enumerate(patches.times)
        for patch, (x, y) in enumerate(patches.places)
    ]
    return np.array(rows)
