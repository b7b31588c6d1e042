"""RELION's local motion, against its formula written out term by term."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cryoden.errors import FileError
from cryoden.formats.relion_job import MovieCorrection, read_movie_correction
from cryoden.movies.motion.local_motion import LocalMotionModel, shifts_of_rows
from tests.relion_job import NOT_USED, MovieStar, polynomial, some_coefficients

SHAPE = (60, 90)


def correction(folder: Path, **options: object) -> MovieCorrection:
    shifts = [NOT_USED, NOT_USED, *[(0.0, 0.0)] * 6]
    options = {"coefficients": some_coefficients(), **options}
    (folder / "m.star").write_text(MovieStar("m.mrc", SHAPE, shifts, **options).text())  # type: ignore[arg-type]
    return read_movie_correction(folder / "m.star")


def values(polynomials: np.ndarray) -> np.ndarray:
    return np.stack([shifts_of_rows(axis, 0, SHAPE[0], SHAPE) for axis in polynomials])


def expected(z: float, scale: float = 1.0) -> np.ndarray:
    y, x = np.arange(SHAPE[0])[:, None] / SHAPE[0] - 0.5, np.arange(SHAPE[1]) / SHAPE[1] - 0.5
    return scale * np.stack(polynomial(some_coefficients(), z, x, y))


@pytest.mark.parametrize("has_observed", [True, False])
@pytest.mark.parametrize("binning", [1.0, 2.0])
def test_fields_are_in_unbinned_pixels_and_start_at_the_first_used_frame(
    tmp_path: Path, binning: float, has_observed: bool
) -> None:
    model = LocalMotionModel.of(correction(tmp_path, binning=binning, has_observed=has_observed))
    for frame in (3, 5, 8):
        z = frame - 3
        as_relion = expected(z, binning)
        np.testing.assert_allclose(values(model.fields(frame, is_as_relion=True)), as_relion, atol=2e-5)
        in_the_middle = expected(z + 0.5, binning) - expected(0.5, binning)
        np.testing.assert_allclose(values(model.fields(frame)), in_the_middle, atol=2e-5)
    assert not model.is_unbinned
    assert not values(model.fields(3)).any()


def test_rows_are_those_of_the_whole_image(tmp_path: Path) -> None:
    axis = LocalMotionModel.of(correction(tmp_path)).fields(7)[0]
    np.testing.assert_array_equal(shifts_of_rows(axis, 20, 31, SHAPE), shifts_of_rows(axis, 0, 60, SHAPE)[20:31])


def test_what_was_measured_tells_whether_the_job_binned_first(tmp_path: Path) -> None:
    """Without early binning coefficients are in unbinned pixels: the measured shifts are equal to them."""
    model = LocalMotionModel.of(correction(tmp_path, binning=2.0, observed_scale=0.5))
    assert model.is_unbinned
    np.testing.assert_allclose(values(model.fields(6, is_as_relion=True)), expected(3), atol=2e-5)


def test_coefficients_that_were_rounded_are_fitted_again(tmp_path: Path) -> None:
    """Five decimals are what RELION leaves of small negative numbers; here all of them are rounded."""
    exact = some_coefficients()
    found = correction(tmp_path)
    rounded = MovieCorrection(
        **{**found.__dict__, "coefficients": np.round(exact, 3).reshape(2, 6, 3)}
    )  # 0.0005 x 5^3 is 0.06 px in the last frame
    np.testing.assert_allclose(values(LocalMotionModel.of(rounded).fields(8, True)), expected(5), atol=2e-5)


@pytest.mark.parametrize("scale", [2.0, 0.25, -1.0])
def test_a_model_of_another_binning_is_refused(tmp_path: Path, scale: float) -> None:
    with pytest.raises(FileError, match="at binning 2 cannot be; the model is of another binning or another movie"):
        LocalMotionModel.of(correction(tmp_path, binning=2.0, observed_scale=scale))


def test_groups_of_frames_belong_to_their_middle(tmp_path: Path) -> None:
    """Seven frames in groups of two, of which the last has three: middles 1, 3 and 5.5, written 1, 3 and 5."""
    found = correction(tmp_path)
    assert found.observed is not None
    rows = []
    for _, x, y in np.unique(found.observed[:, [0, 1, 2]], axis=0):
        for written, middle in ((1, 1.0), (3, 3.0), (5, 5.5)):
            place = np.array(x / SHAPE[1] - 0.5), np.array(y / SHAPE[0] - 0.5)
            shift = polynomial(some_coefficients(), middle, *place)
            rows.append([3 + written, x, y, *map(float, shift)])
    shifts = dict.fromkeys(range(3, 10), (0.0, 0.0))
    grouped = MovieCorrection(**{**found.__dict__, "observed": np.array(rows), "shifts": shifts, "n_frames": 9})
    model = LocalMotionModel.of(grouped)
    np.testing.assert_allclose(values(model.fields(9, is_as_relion=True)), expected(6), atol=1e-4)


def test_upside_down_is_the_motion_of_the_flipped_frames() -> None:
    model = LocalMotionModel(np.random.default_rng(1).standard_normal((2, 6, 3)))
    shape = (37, 50)
    field, flipped = (
        np.stack([shifts_of_rows(p, 0, shape[0], shape) for p in one.fields(5)])
        for one in (model, model.upside_down(shape[0]))
    )
    np.testing.assert_allclose(flipped[0], field[0, ::-1], atol=1e-4)
    np.testing.assert_allclose(flipped[1], -field[1, ::-1], atol=1e-4)
