from __future__ import annotations

import json
from pathlib import Path
from typing import Callable, List

import mrcfile
import numpy as np
import pytest

from cryoden.metrics.unusual_micrographs import BRIGHT, GRADIENT, STAIN, TINY, Look, Looks, block_size, look_at
from tests.helpers import read_mrc, write_mrc

DARK, CLEARLY_BRIGHT = Look(-2.0, 0.1, 0.0, 900), Look(1.5, 0.05, 0.0, 900)


def particles(sign: float, noise: float, seed: int = 1, side: int = 256) -> np.ndarray:
    """Return sparse discs of 160 A at 4 A/px in noise, deviation of the discs' image 1."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    image = np.zeros((side, side))
    for y, x in rng.uniform(20, side - 20, (12, 2)):
        image = np.maximum(image, np.clip(21 - np.hypot(rows - y, columns - x), 0, 2))
    return sign * (image - image.mean()) / image.std() + noise * rng.standard_normal((side, side))


def said_of(looks: List[Look], n_expected: int = 0) -> List[str]:
    seen = Looks(n_expected or len(looks))
    return [problem.message for look in looks for problem in seen.add(look)]


# ---------------------------------------------------------------------- what is measured
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_sign_of_the_particles(sign: float) -> None:
    image = particles(sign, 0.3)
    image = (image - image.mean()) / image.std()
    block = block_size(4.0)
    coarse = image[:255, :255].reshape(51, block, 51, block).mean((1, 3))
    look = look_at(coarse, coarse, 4.0, (0.9, 1.0))
    assert sign * look.skewness > 0.8
    assert (look.signal_share, look.side) == (0.9, 255)
    assert look.gradient_share < 0.05


def test_plane_is_measured_whatever_lies_on_it() -> None:
    rng = np.random.default_rng(1)
    plane = np.linspace(-1, 1, 60)[:, None] - 2 * np.linspace(-1, 1, 80)[None, :]
    image = 3 * plane / plane.std() + rng.standard_normal((60, 80))
    assert look_at(image, image, 20.0, (1.0, float(image.var()))).gradient_share == pytest.approx(0.9, abs=0.01)


def test_illumination_of_the_middle_is_a_gradient_and_an_edge_is_none() -> None:
    rng = np.random.default_rng(1)
    rows, columns = np.linspace(-1, 1, 60)[:, None], np.linspace(-1, 1, 80)[None, :]
    beam = np.exp(-(rows**2 + columns**2))
    for shape, share in ((beam, 0.85), ((columns + 0.2 * rows > 0.3).astype(float), 0.0)):
        image = 3 * shape / shape.std() + rng.standard_normal((60, 80))
        assert look_at(image, image, 20.0, (1.0, float(image.var()))).gradient_share == pytest.approx(share, abs=0.06)


def test_bright_is_what_the_micrograph_and_the_result_show() -> None:
    """The network keeps more of what is dark; hot pixels, which it removes, are bright."""
    rng = np.random.default_rng(1)
    noise, spots = rng.standard_normal((60, 60)), rng.random((60, 60)) > 0.99
    dark, bright = (look_at(noise + 9 * spots, noise + sign * 9 * spots, 20.0, (1.0, 1.0)) for sign in (-1, 1))
    assert dark.skewness < -1
    assert bright.skewness > 1
    assert abs(look_at(noise + 9 * spots, noise, 20.0, (1.0, 1.0)).skewness) < 0.2


# ---------------------------------------------------------------------- what is said
def test_bright_particles_are_spoken_of_once_when_it_is_evident() -> None:
    assert said_of([CLEARLY_BRIGHT] * 8) == [BRIGHT]
    seen = Looks(8)
    assert [len(seen.add(CLEARLY_BRIGHT)) for _ in range(8)] == [0, 0, 0, 0, 1, 0, 0, 0]


@pytest.mark.parametrize(
    "looks",
    [
        [DARK] * 5,
        [DARK, DARK, DARK, CLEARLY_BRIGHT, CLEARLY_BRIGHT],
        [Look(9.0, 0.001, 0.0, 900)] * 5,  # nothing but noise
        [Look(0.15, 0.2, 0.0, 900)] * 5,
    ],
)
def test_nothing_is_said_that_is_not_sure(looks: List[Look]) -> None:
    assert said_of(looks) == []


def test_stain_gradient_and_tiny_ones() -> None:
    assert said_of([Look(2.5, 0.55, 0.02, 900)] * 2) == [STAIN]
    assert said_of([Look(2.5, 0.8, 0.7, 900)] * 2) == [GRADIENT, BRIGHT]  # strong is the gradient alone
    assert said_of([DARK, Look(-2.0, 0.8, 0.7, 900), DARK], 9) == [GRADIENT]
    assert said_of([Look(2.0, 0.5, 0.0, 96)]) == [TINY]


# ---------------------------------------------------------------------- in a run
@pytest.mark.parametrize(("sign", "noise", "sentence"), [(1.0, 2.0, BRIGHT), (1.0, 0.3, STAIN), (-1.0, 2.0, None)])
def test_said_by_the_command_and_its_log(
    general_model: Path, cryoden: Callable, caplog: pytest.LogCaptureFixture, sign: float, noise: float, sentence: str
) -> None:
    for number in range(2):
        write_mrc(Path("in") / f"{number}.mrc", particles(sign, noise, number))
    assert cryoden("denoise", "in", "--output", "out").status == 0
    warned = [json.loads(line).get("warning") for line in Path("out/log.jsonl").read_text().splitlines()]
    assert warned == [None, sentence]
    assert (f"cryoden: warning: {sentence}" in caplog.messages) == (sentence is not None)


def test_own_models_know_what_they_learned(blur_model: Path, cryoden: Callable) -> None:
    write_mrc(Path("mic.mrc"), particles(1.0, 0.3))
    assert cryoden("denoise", "mic.mrc", "--model", blur_model, "--output", "out").status == 0
    assert "warning" not in json.loads(Path("out/log.jsonl").read_text())


def test_zero_mean_is_as_good_as_any(general_model: Path, cryoden: Callable) -> None:
    """Background-subtracted micrographs: the same result, around zero."""
    image = particles(-1.0, 2.0)
    write_mrc(Path("zero.mrc"), image - image.mean())
    write_mrc(Path("counts.mrc"), 40 + image - image.mean())
    for name in ("zero", "counts"):
        assert cryoden("denoise", f"{name}.mrc", "--output", name).status == 0
    np.testing.assert_allclose(read_mrc(Path("zero/zero.mrc")) + 40, read_mrc(Path("counts/counts.mrc")), atol=1e-3)


def test_a_few_pixels_are_denoised_and_spoken_of(general_model: Path, cryoden: Callable) -> None:
    write_mrc(Path("mic.mrc"), particles(-1.0, 2.0)[:20, :30])
    assert cryoden("denoise", "mic.mrc", "--output", "out").status == 0
    assert json.loads(Path("out/log.jsonl").read_text())["warning"] == TINY
    assert mrcfile.open("out/mic.mrc", header_only=True).header.nx == 30
