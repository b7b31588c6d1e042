"""Look at the data before training: crops of both halves, their sum, their difference, and histograms."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Sequence, Tuple

import numpy as np

from cryoden.config import ShowConfig
from cryoden.data.normalize import measure_scale
from cryoden.data.pairs import HalfPair, find_pairs
from cryoden.data.rescale import fourier_crop
from cryoden.errors import NothingDoneError, Problem, problem_of
from cryoden.formats import outputs
from cryoden.formats.files import make_folder, write_json
from cryoden.formats.images import read_micrograph
from cryoden.formats.outcome import Outcome
from cryoden.formats.output_folder import fills_folder, require_own_folder
from cryoden.metrics.model_weaknesses import pattern_sentence
from cryoden.metrics.working_rate import working_rate
from cryoden.movies.fixed_pattern import common_detail
from cryoden.report.figures import save_figure, show_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CROPS_PER_SHEET = 4


@dataclass(frozen=True)
class HalfCrop:
    """One place of a micrograph in both halves.

    Attributes
    ----------
    name
        Of the micrograph.
    place
        First row and column, pixels at the working sampling rate.
    odd, even
        As in the files, at the working sampling rate, `(y, x)`.
    sampling_rate
        A/px.
    correlation
        Of the two halves over the whole micrograph.
    left_over
        Correlation of their difference with their sum: what the difference shows of the specimen.
    """

    name: str
    place: Tuple[int, int]
    odd: np.ndarray
    even: np.ndarray
    sampling_rate: float
    correlation: float
    left_over: float


@fills_folder("show", lambda done: done[1].failures)
def write_contact_sheets(config: ShowConfig) -> Tuple[List[Path], Outcome]:
    """Write contact sheets of crops, four to a sheet.

    Returns
    -------
    sheets
        PNG files.
    outcome
        How many micrographs were to be shown, and why some were left out.

    Raises
    ------
    CryodenError
        If there is nothing to show.
    """
    output = make_folder(config.output)
    require_own_folder(output, outputs.SHOW_RECORD, [], [outputs.CONTACT_SHEETS])
    crops, outcome = pick_crops(config)
    write_json(output / outputs.SHOW_RECORD, config.to_dict())
    sheets: List[Path] = []
    for first in range(0, len(crops), CROPS_PER_SHEET):
        shown = crops[first : first + CROPS_PER_SHEET]
        sheets.append(output / outputs.contact_sheet(len(sheets) + 1))
        save_figure(functools.partial(plot_crops, crops=shown), (15, 3.1 * len(shown)), sheets[-1])
    return sheets, outcome


def pick_crops(config: ShowConfig) -> Tuple[List[HalfCrop], Outcome]:
    """Return crops at random places of micrographs that are evenly spread over the set.

    The outcome warns of a fixed pattern, which no single crop shows.

    Raises
    ------
    CryodenError
        If no micrograph can be read.
    """
    rate = working_rate(config.sampling_rate, config.odd, config.even)
    pairs, failures = find_pairs(config.odd, config.even, rate)
    chosen = [pairs[int(i)] for i in np.unique(np.linspace(0, len(pairs) - 1, config.micrographs).round())]
    crops: List[HalfCrop] = []
    for number, pair in enumerate(chosen):
        try:
            crops += _crops_of(pair, config, np.random.default_rng([config.seed, number]))
        except Exception as error:
            failures[pair.name] = problem_of(error, pair.name)
    if not crops:
        raise NothingDoneError("micrograph", "shown", len(chosen), failures)
    found = common_detail([(pair.name, pair.odd, pair.even) for pair in pairs])
    warnings = (
        [Problem("warning", f"A fixed pattern: {pattern_sentence(found.share)}")] if found.is_fixed_pattern else []
    )
    n_inputs = len(chosen) + len(set(failures) - {pair.name for pair in chosen})
    return crops, Outcome(n_inputs, failures, tuple(warnings))


def _crops_of(pair: HalfPair, config: ShowConfig, rng: np.random.Generator) -> List[HalfCrop]:
    odd, even = (fourier_crop(read_micrograph(path)[0], pair.shape) for path in (pair.odd, pair.even))
    for half in (odd, even):
        measure_scale(half)  # refuses what training would refuse

    correlation = _correlation(odd, even)
    left_over = _correlation(odd - even, odd + even)
    side = min(config.crop, *pair.shape)
    crops = []
    for _ in range(config.crops):
        y, x = (int(rng.integers(0, n - side + 1)) for n in pair.shape)
        cut = (slice(y, y + side), slice(x, x + side))
        crops.append(HalfCrop(pair.name, (y, x), odd[cut], even[cut], pair.sampling_rate, correlation, left_over))
    return crops


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return the correlation of two images, from every second row."""
    return float(np.corrcoef(first[::2].ravel(), second[::2].ravel())[0, 1])


def plot_crops(figure: Figure, crops: Sequence[HalfCrop]) -> None:
    """Draw a row for each crop: odd, even, sum, difference, histograms of the halves and of their difference.

    What to look for stands above, with what was measured of it: the halves show the same specimen; the difference shows
    none of it; both histograms coincide.
    """
    rates = sorted({f"{crop.sampling_rate:.3g}" for crop in crops})
    figure.suptitle(f"Random crops at {' and '.join(rates)} Å/px")
    axes: Any = figure.subplots(len(crops), 5, squeeze=False)
    for row, crop in zip(axes, crops):
        width_nm = crop.odd.shape[1] * crop.sampling_rate / 10
        images: Dict[str, np.ndarray] = {
            f"{crop.name}\nodd half": crop.odd, "even half": crop.even, "sum of both": crop.odd + crop.even,
            f"the difference should show no specimen:\ncorrelation {abs(crop.left_over):.2f} with the sum":
            crop.odd - crop.even,
        }  # fmt: skip
        for place, (title, image) in zip(row, images.items()):
            show_image(place, image, title, width_nm)

        centred = [image - image.mean() for image in (crop.odd, crop.even, crop.odd - crop.even)]
        low, high = np.percentile(centred[2], (0.1, 99.9))
        edges = np.linspace(low, high, 60)
        for values, label, style in zip(centred, ("odd", "even", "difference"), ("-", "--", ":")):
            counts, _ = np.histogram(values, edges)
            row[4].plot((edges[1:] + edges[:-1]) / 2, counts, style, label=label)

        row[4].set(xlabel="grey value - mean", yticks=[])
        row[4].set_title(f"both histograms should coincide;\nthe halves correlate: {crop.correlation:.3f}")
        for place in row:
            place.title.set_fontsize(9)
        row[4].legend(fontsize=7)
