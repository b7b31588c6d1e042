"""Patch files as pairs to train on: the same plan, the same loaders, the same batches as for micrographs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from cryoden.data.normalize import OUTLIER_DEVIATIONS, STANDARD, GreyScale, Normalization
from cryoden.data.pairs import HalfPair, check_correlation
from cryoden.data.rescale import SAME_RATE_TOLERANCE
from cryoden.errors import PairError, PixelError, Remedy
from cryoden.formats.images import Stack
from cryoden.formats.patch_file import PatchFiles, PatchFolder, PatchImage, open_patches

MAX_HELD_OUT = 64
"""Test patches that every validation looks at, spread evenly; as many pixels as in one large micrograph."""

UNSCALED = GreyScale(0.0, 1.0, (-OUTLIER_DEVIATIONS, OUTLIER_DEVIATIONS), 1.0)
"""Of values that are standardised already."""

SAMPLED_PATCHES = 32
"""Training patches from which grey scale and correlation are measured."""


@dataclass(frozen=True)
class PatchPair(HalfPair):
    """One patch of an input file and its target.

    Its values were normalised when it was cut, by its whole micrograph; so its grey scale is that of all patches.

    Attributes
    ----------
    number
        Of the patch in its files, from 0.
    source
        Micrograph that it is cut from, and the rows of it that its file has, as shares of the height.
    source_rows
        See `source`.
    scale
        Of all patches.
    normalization
        That a denoiser trained on them must apply to whole micrographs.
    """

    number: int = 0
    source: str = ""
    source_rows: Tuple[float, float] = (0.0, 1.0)
    scale: GreyScale = UNSCALED
    normalization: Normalization = STANDARD

    @property
    def micrograph(self) -> str:
        """Name of the micrograph that it is cut from."""
        return self.source

    @property
    def rows_share(self) -> Tuple[float, float]:
        """Rows of the micrograph that are in the same file, as shares of its height."""
        return self.source_rows

    @property
    def fixed_scale(self) -> Optional[GreyScale]:
        """Grey scale of all patches."""
        return self.scale

    def open(self) -> List[Stack]:
        """Open input and target; no pixel is read."""
        return [PatchImage(path, self.shape[0], self.number, self.file_rate) for path in (self.odd, self.even)]


def find_patch_pairs(
    folder: str, patch: Optional[int], sampling_rate: Optional[float], validation: float
) -> Tuple[List[PatchPair], List[PatchPair]]:
    """Return the patches to train on, and those held out: test files, else the last part of the training files.

    Parameters
    ----------
    patch
        Side of the patches where there is no manifest.
    sampling_rate
        A/px, where there is no manifest.
    validation
        Share that is held out where there are no test files.

    Raises
    ------
    FileError
        If the files are not what their names, sizes and manifest promise.
    PairError
        If nothing says the sampling rate, or inputs and targets do not belong together.
    PixelError
        If values are not finite or all equal.
    """
    opened = open_patches(folder, patch)
    rate = _sampling_rate(opened, sampling_rate)
    scale, normalization = _measure(opened)

    def pairs(part: str, files: PatchFiles, numbers: range) -> List[PatchPair]:
        sources = _sources(opened, part, files)
        shape = (files.patch, files.patch)
        return [
            PatchPair(
                f"{part}_{number:07d}", str(files.input), str(files.target), shape, rate, shape, None,
                number, *sources[number], scale, normalization,
            )
            for number in numbers
        ]  # fmt: skip

    train, test = opened.parts["train"], opened.parts.get("test")
    if test:
        return pairs("train", train, range(train.n)), pairs("test", test, _spread(range(test.n)))
    if train.n < 2:
        alone = f"{folder} holds one patch and no test files; training needs one more to test on."
        raise PairError(alone, subject=folder)
    cut = train.n - max(1, round(train.n * validation))
    return pairs("train", train, range(cut)), pairs("train", train, _spread(range(cut, train.n)))


def _spread(numbers: range, most: int = MAX_HELD_OUT) -> range:
    return numbers[:: max(1, -(-len(numbers) // most))]


def _sampling_rate(opened: PatchFolder, asked: Optional[float]) -> float:
    known = opened.manifest.get("sampling_rate")
    if not known and not asked:
        raise PairError(
            f"Nothing says the pixel size of the patches in {opened.path}.",
            subject=str(opened.path),
            remedy=Remedy("set", "sampling_rate"),
        )
    if known and asked and abs(asked / known - 1) > SAME_RATE_TOLERANCE:
        raise PairError(
            f"The patches in {opened.path} have {known:g} Å/px and cannot be brought to {asked:g} Å/px.",
            subject=str(opened.path),
            remedy=Remedy("leave_out", "sampling_rate"),
        )
    return float(known or asked or 0.0)


def _measure(opened: PatchFolder) -> Tuple[GreyScale, Normalization]:
    """Return the grey scale of all patches, and the normalisation of micrographs that gives the same."""
    train = opened.parts["train"]
    sample = np.stack([train.read(number) for number in _spread(range(train.n), SAMPLED_PATCHES)], axis=1)
    if not np.isfinite(sample).all():
        wrong = f"{opened.path} has values that are NaN or infinite; export the patches again."
        raise PixelError(wrong, subject=str(opened.path))
    mean = float(sample.mean(dtype=np.float64))
    deviation = float(sample.std(dtype=np.float64))
    if not deviation > 0:
        constant = f"The patches in {opened.path} are constant: every value is {mean:g}; export them again."
        raise PixelError(constant, subject=str(opened.path))
    check_correlation(str(opened.path), sample.reshape(2, -1, train.patch))

    # Patches of other programs do not say how they were scaled: values between 0 and 1 are percentiles.
    is_percentile = sample.min() >= 0 and sample.max() <= 1
    if opened.manifest.get("normalization", "p95" if is_percentile else "standard") == "p95":
        return GreyScale(mean, deviation, (0.0, 1.0), 1.0), Normalization("p95", mean, deviation)

    values = [value for record in opened.manifest.get("micrographs", ()) for value in record["scale"].values()]
    ranges = [value["percentile_95"] / value["deviation"] for value in values]
    return (replace(UNSCALED, percentile=float(np.mean(ranges))) if ranges else UNSCALED), STANDARD


def _sources(opened: PatchFolder, part: str, files: PatchFiles) -> List[Tuple[str, Tuple[float, float]]]:
    """Return, for every patch of a part, its micrograph and the micrograph's rows that are in this part."""
    records: List[Dict[str, Any]] = [r for r in opened.manifest.get("micrographs", ()) if r["part"] == part]
    if sum(record["count"] for record in records) != files.n:
        return [(files.input.name, (0.0, 1.0))] * files.n

    # Of a micrograph whose patches are in both parts, each part has other rows.
    both = {r["name"] for r in opened.manifest["micrographs"] if r["part"] != part} & {r["name"] for r in records}
    sources: List[Tuple[str, Tuple[float, float]]] = []
    for record in records:
        height = record["shape"][0]
        rows = (min(record["rows"]) / height, (max(record["rows"]) + files.patch) / height)
        sources += [(record["name"], rows if record["name"] in both else (0.0, 1.0))] * record["count"]
    return sources
