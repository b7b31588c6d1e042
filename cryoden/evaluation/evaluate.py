"""Halves and denoisers in, numbers out: every denoiser is applied to both halves of every micrograph and compared."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
from tqdm import tqdm

from cryoden.config import EvaluateConfig
from cryoden.data.normalize import STANDARD, measure_scale
from cryoden.data.pairs import HalfPair, check_correlation, find_pairs, list_halves
from cryoden.data.rescale import fourier_crop
from cryoden.errors import FileError, NothingDoneError, PairError, problem_of
from cryoden.evaluation.contenders import (
    Contender,
    NoiseResponse,
    absent_networks,
    network_candidates,
    silent_networks,
    unseen_rows,
    working_rate,
)  # fmt: skip
from cryoden.evaluation.score_table import tabulate
from cryoden.evaluation.topaz_row import TopazRow
from cryoden.formats.files import make_folder, read_json, write_json
from cryoden.formats.images import read_micrograph
from cryoden.formats.outcome import Outcome
from cryoden.formats.output_folder import fills_folder
from cryoden.formats.pixels import file_context
from cryoden.formats.progress_log import write_above_bar
from cryoden.metrics import sanity_checks as checks
from cryoden.metrics.ground_truth import read_truth
from cryoden.metrics.measurement import (
    FOLDER,
    NOISE_SIDE,
    Measurement,
    load_measurement,
    measure,
    measurement_path,
    save_measurement,
)  # fmt: skip
from cryoden.metrics.psnr_ssim import centre
from cryoden.model.denoiser import Denoiser, NetworkDenoiser
from cryoden.model.devices import pick_device
from cryoden.model.inspection import inspect_network, save_inside
from cryoden.model.pipeline import overlapped
from cryoden.report.html_report import INSIDE_NAME
from cryoden.report.tables import METRICS_NAME, write_tables

log = logging.getLogger(__name__)

RECORD_NAME = "evaluate.json"
"""Says, in the output folder, with what its micrographs were measured."""


@dataclass(frozen=True)
class Halves:
    """Both halves of a micrograph in memory.

    Attributes
    ----------
    pair
        Where they come from.
    images
        Float32, as in the files.
    truth
        The clean image, at the working sampling rate.
    region
        Rows that count, as shares of the height; None if a model was trained on all of it.
    """

    pair: HalfPair
    images: Tuple[np.ndarray, np.ndarray]
    truth: Optional[np.ndarray]
    region: Optional[Tuple[float, float]]

    def at(self, shape: Tuple[int, int]) -> List[np.ndarray]:
        """Return both halves, Fourier-cropped to a shape."""
        return [fourier_crop(image, shape) for image in self.images]


class Evaluation:
    """One evaluation: its denoisers, its micrographs, and what became of them.

    Parameters
    ----------
    config
        The options.

    Raises
    ------
    CryodenError
        If nothing can be done: a model cannot be read, no pair of halves is usable.
    """

    def __init__(self, config: EvaluateConfig) -> None:
        self.config = config
        device = pick_device(config.device)
        self.networks = [
            Contender(Denoiser.load(path, device, config.quality, config.precision, config.tile))
            for path in config.model
        ]
        rate = working_rate(self.networks, config)
        self.pairs, self.failures = find_pairs(config.odd, config.even, rate)
        self.n_inputs = len(self.pairs) + len(self.failures)
        self.truths = list_halves(config.truth) if config.truth else {}
        self.output = make_folder(config.output)
        self.topaz = TopazRow(config, self.output, str(device))
        self.mismatched: Dict[str, np.ndarray] = {}

    def run(self) -> Dict[str, Any]:
        """Measure every micrograph that was not measured before, and return the table.

        Raises
        ------
        CryodenError
            If no micrograph could be measured.
        """
        make_folder(self.output / FOLDER)
        is_continued = self._guard_options()
        paths = {pair.name: measurement_path(self.output, pair.name) for pair in self.pairs}
        done = {name for name, path in paths.items() if is_continued and path.is_file()}
        if done:
            log.info("%d of %d micrographs were measured before.", len(done), len(self.pairs))
        todo = [pair for pair in self.pairs if pair.name not in done]
        try:
            self.topaz.prepare(todo, self._load, self.failures, must_work=bool(done))
            write_json(self.output / RECORD_NAME, self._record())
            for measurement in self._measured([pair for pair in todo if pair.name not in self.failures]):
                done.add(measurement.name)
        finally:
            self.topaz.clean()
        measurements = [load_measurement(paths[pair.name]) for pair in self.pairs if pair.name in done]
        self._name_swapped(measurements)
        if not measurements:
            raise NothingDoneError("micrographs", "evaluated", self.n_inputs, self.failures)
        return self._table(measurements)

    # ------------------------------------------------------------------ one micrograph
    def _measured(self, pairs: Sequence[HalfPair]) -> Iterator[Measurement]:
        """Yield measurements: one thread reads ahead, one computes covariances and writes behind the networks."""
        results = overlapped(pairs, self._load, lambda pair, halves: self._predict(halves), self._keep)
        for pair, outcome in tqdm(results, total=len(pairs), unit="micrograph", desc="Evaluating", disable=None):
            if isinstance(outcome, Exception):
                self.failures[pair.name] = problem_of(outcome, pair.name)
                write_above_bar(str(self.failures[pair.name]))
            else:
                yield outcome

    def _load(self, pair: HalfPair) -> Halves:
        images = (read_micrograph(pair.odd)[0], read_micrograph(pair.even)[0])
        truth = read_truth(pair, self.truths, self.config.truth) if self.config.truth else None
        return Halves(pair, images, truth, unseen_rows(self.networks, pair.name))

    def _predict(self, halves: Halves) -> Tuple[Any, ...]:
        """Return the arguments of `_keep`: both halves standardised, with every denoiser's predictions."""
        pair = halves.pair
        images = halves.at(pair.shape)
        scales = []
        for path, image in zip((pair.odd, pair.even), images):
            with file_context(path):
                scales.append(measure_scale(image, STANDARD))
        standard = [scale.standardize(image) for scale, image in zip(scales, images)]
        try:
            check_correlation(pair.name, np.stack(standard))
        except PairError:
            self.mismatched[pair.name] = np.stack([checks.thumbnail(image, pair.sampling_rate) for image in standard])
            raise
        predictions: List[np.ndarray] = []
        noise_predictions: List[NoiseResponse] = []
        for network in self.networks:
            shape = network.shape_of(pair)
            denoised, response = network.denoise(pair, images if shape == pair.shape else halves.at(shape))
            noise_predictions.append(response)
            for image, scale in zip(denoised, scales):
                predictions.append(
                    (fourier_crop(image, pair.shape) - np.float32(scale.mean)) / np.float32(scale.deviation)
                )
        if self.topaz.is_there:
            topaz, noise = self.topaz.predictions(pair, scales)
            predictions += topaz
            noise_predictions.append((noise, centre(topaz[0], NOISE_SIDE), pair.sampling_rate))
        data_range = (scales[0].data_range + scales[1].data_range) / 2
        positive = float(np.mean([(image[:: max(1, len(image) // 256)] > 0).mean() for image in images]))
        return halves, standard, predictions, noise_predictions, data_range, positive

    def _keep(
        self,
        halves: Halves,
        standard: List[np.ndarray],
        predictions: List[np.ndarray],
        noise_predictions: List[NoiseResponse],
        data_range: float,
        positive_share: float,
    ) -> Measurement:
        """Measure and write, on the rows that count."""
        pair, truth = halves.pair, halves.truth
        is_seen = halves.region is None
        first, last = halves.region or (0.0, 1.0)
        if self.config.scored == "all":
            is_seen, first, last = is_seen or (first, last) != (0.0, 1.0), 0.0, 1.0
        rows = slice(round(first * pair.shape[0]), round(last * pair.shape[0]))
        result = measure(
            pair.name, [image[rows] for image in standard], [image[rows] for image in predictions], noise_predictions,
            data_range, positive_share, pair.sampling_rate, is_seen, truth[rows] if truth is not None else None,
        )  # fmt: skip
        wrong = checks.filtered_half(pair.name, result.rings)
        if wrong:
            raise PairError(wrong)
        save_measurement(measurement_path(self.output, pair.name), result)
        return result

    # ------------------------------------------------------------------ all of them
    def _name_swapped(self, measurements: Sequence[Measurement]) -> None:
        """Say of halves that do not correlate to which other micrograph they belong, where that can be seen."""
        images = {**{m.name: m.thumbnails.astype(np.float32) for m in measurements}, **self.mismatched}
        shape = next(iter(self.mismatched.values())).shape if self.mismatched else None
        names = [name for name in images if images[name].shape == shape][-checks.MAX_COMPARED :]
        if len(names) < 2:
            return
        belongs = checks.swapped_halves(names, checks.correlations([images[name] for name in names]))
        for name in self.mismatched:
            if name in belongs:
                self.failures[name] = PairError(
                    f"The halves of '{name}' are swapped with those of '{belongs[name]}': they correlate with that "
                    "micrograph's halves, not with each other. Rename the files so that both halves of a micrograph "
                    "have its name.",
                    subject=name,
                ).problem
                write_above_bar(self.failures[name].text())

    def _table(self, measurements: Sequence[Measurement]) -> Dict[str, Any]:
        present, absent = network_candidates(self.networks), absent_networks(self.networks)
        (present if self.topaz.is_there else absent).append(self.topaz.candidate())
        table = tabulate(measurements, present, absent, self.config)
        table["warnings"] = [*silent_networks(self.networks), *table["warnings"]]
        table["failures"] = {name: problem.text() for name, problem in self.failures.items()}
        table["models"] = [network.facts() for network in self.networks]
        return table

    def _record(self) -> Dict[str, Any]:
        """Return what the measurements of one folder have in common."""
        config = self.config
        record = {key: getattr(config, key) for key in ("odd", "even", "truth", "sampling_rate", "scored", "quality")}
        record["models"] = [{"network": net.card.network, "training": net.card.training} for net in self.networks]
        record["topaz"] = self.topaz.record
        return json.loads(json.dumps(record))

    def _guard_options(self) -> bool:
        path = self.output / RECORD_NAME
        if self.config.overwrite or not path.is_file():
            return False
        before, now = read_json(path), self._record()
        if before == {**now, "topaz": {"is_there": False, "network": None}} != now:
            raise FileError(
                f"{self.output} holds an evaluation without Topaz-Denoise, which was not there or failed ({path}); "
                "give --topaz no to go on without it, or --overwrite to measure everything with it."
            )
        if before != now:
            raise FileError(
                f"{self.output} holds an evaluation of other micrographs, models or options ({path}); choose another "
                "--output folder, or give --overwrite."
            )
        return True


@fills_folder("evaluate", lambda done: done[1].failures)
def evaluate(config: EvaluateConfig) -> Tuple[Dict[str, Any], Outcome]:
    """Evaluate, and write the numbers: metrics.json, metrics.csv, metrics.star, and what is inside the networks.

    Returns
    -------
    table
        What metrics.json holds.
    outcome
        How many micrographs, and why some were left out.

    Raises
    ------
    CryodenError
        If nothing can be done.
    """
    evaluation = Evaluation(config)
    table = evaluation.run()
    write_json(evaluation.output / METRICS_NAME, table)
    write_tables(evaluation.output, table)
    cut = load_measurement(measurement_path(evaluation.output, table["order"][0])).cuts[0].astype(np.float32)
    for row, contender in zip(
        [row for row in table["rows"] if row["kind"] == "network" and row["bands"]], evaluation.networks
    ):
        if isinstance(contender.denoiser, NetworkDenoiser):
            inside = inspect_network(contender.denoiser.predictor.network, cut)
            save_inside(evaluation.output / INSIDE_NAME.format(key=row["key"]), inside)
    return table, Outcome(evaluation.n_inputs, evaluation.failures)
