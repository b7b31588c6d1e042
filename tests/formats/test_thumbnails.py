from __future__ import annotations

from pathlib import Path
from typing import Callable, Tuple

import numpy as np
import pytest
from PIL import Image

from cryoden.formats.thumbnails import thumbnail_factor
from tests.helpers import Result, write_mrc


@pytest.mark.parametrize(
    ("shape", "factor"), [((1024, 1000), 1), ((1025, 1000), 2), ((4096, 5760), 6), ((2, 4001), 2), ((1, 9000), 1)]
)
def test_squares_of_a_thumbnail_fit_the_image(shape: Tuple[int, int], factor: int) -> None:
    assert thumbnail_factor(shape) == factor


@pytest.mark.parametrize("shape", [(2, 4001), (4001, 2), (64, 1500)])
def test_thumbnail_of_a_strip(
    tmp_path: Path, cryoden: Callable[..., Result], blur_model: Path, shape: Tuple[int, int]
) -> None:
    write_mrc(tmp_path / "strip.mrc", np.random.default_rng(1).normal(size=shape))
    result = cryoden("denoise", "strip.mrc", "--model", blur_model, "--output", "out", "--thumbnails", "png")
    assert result.status == 0, result.err
    factor = thumbnail_factor(shape)
    with Image.open("out/thumbnails/strip.png") as picture:
        assert picture.size == (shape[1] // factor, shape[0] // factor)
