"""Halves of images that are no movies: of counted electrons that are dealt, of a full image and a difference."""

from __future__ import annotations

import zlib
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Dict, List, Optional

import numpy as np

from cryoden.config import HalvesConfig
from cryoden.errors import CryodenError, PairError
from cryoden.formats.files import mrc_name
from cryoden.formats.images import open_micrograph, read_micrograph
from cryoden.movies.full_and_difference import SUM, full_kind
from cryoden.movies.parallel_jobs import affordable
from cryoden.movies.thinning import counts_of, thin

BYTES_PER_PIXEL = 64
"""About as much memory an image takes while it is looked at and dealt."""


@dataclass(frozen=True, eq=False)
class ImageHalves:
    """Both halves of one image.

    Attributes
    ----------
    odd, even
        float32, `(y, x)`; the full sum is odd + even.
    sampling_rate
        A/px, None where the file does not say.
    facts
        What was found about the image, JSON types.
    """

    odd: np.ndarray
    even: np.ndarray
    sampling_rate: Optional[float]
    facts: Dict[str, Any]


def thinned_halves(path: str, config: HalvesConfig) -> ImageHalves:
    """Deal the electrons of an exposure to two halves at random; its name and the seed say how.

    Raises
    ------
    CryodenError
        If the file cannot be read or does not hold counts.
    """
    stack = open_micrograph(path)
    counts, statistics = counts_of(stack.read_rows(0, 0, stack.shape[0]), path)
    stack.verify()

    rng = np.random.default_rng([config.seed, zlib.crc32(mrc_name(path).encode("utf-8", "surrogateescape"))])
    odd, even = (np.float32(statistics.step) * part.astype(np.float32) for part in thin(counts, 2, rng))
    facts = {
        "step": statistics.step,
        "mean_count": statistics.mean_count,
        "variance_over_mean": statistics.variance_over_mean,
        "flatness": statistics.flatness,
    }
    return ImageHalves(odd, even, stack.sampling_rate, facts)


def halves_of_difference(path: str, difference_path: Optional[str], config: HalvesConfig) -> ImageHalves:
    """Make both halves from a full image and the difference of its halves.

    Raises
    ------
    CryodenError
        If there is no difference, a file cannot be read, they differ in size, or nothing tells what the full image is.
    """
    if difference_path is None:
        message = f"{path} has no difference of its name in {config.difference}; add it, or leave this image out."
        raise PairError(message, subject=path)
    full, rate = read_micrograph(path)
    difference, _ = read_micrograph(difference_path)
    if full.shape != difference.shape:
        sizes = [f"{image.shape[1]} x {image.shape[0]} px" for image in (full, difference)]
        raise PairError(
            f"{path} is {sizes[0]} but the difference {difference_path} is {sizes[1]}; both must come from one movie.",
            subject=path,
        )

    kind = full_kind(full, difference, path) if config.full_is == "auto" else config.full_is
    mean = np.float32(0.5 if kind == SUM else 1.0) * full
    return ImageHalves(mean + difference / np.float32(2), mean - difference / np.float32(2), rate, {"full_is": kind})


def image_halves(path: str, difference_path: Optional[str], config: HalvesConfig) -> ImageHalves:
    """Return the halves of one image as the options say; raises as `thinned_halves` and `halves_of_difference`."""
    return thinned_halves(path, config) if config.thin else halves_of_difference(path, difference_path, config)


def affordable_images(config: HalvesConfig, paths: List[str]) -> int:
    """Return how many images may be worked on in parallel, from the size of the first that can be opened."""
    n_jobs = min(config.jobs, len(paths))
    for path in paths if n_jobs > 1 else ():
        with suppress(CryodenError):  # it is that image's failure, which is named when its turn comes
            rows, columns = open_micrograph(path).shape
            return affordable(config, n_jobs, BYTES_PER_PIXEL * rows * columns, "images")
    return n_jobs
