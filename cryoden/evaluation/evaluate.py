"""Halves and denoisers in, numbers out: every denoiser is applied to both halves of every micrograph and compared."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence, Set, Tuple

import numpy as np

from cryoden.config import GIB, EvaluateConfig
from cryoden.data.half_sources import list_halves
from cryoden.data.pairs import HalfPair, check_correlation, find_pairs
from cryoden.data.rescale import fourier_crop
from cryoden.errors import (
    CryodenError,
    ExistingResultsError,
    NothingDoneError,
    PairError,
    PixelError,
    Remedy,
    problem_of,
)
from cryoden.evaluation.contenders import (
    TOPAZ,
    Contender,
    absent_topaz,
    facts_of,
    model_contenders,
    silent_models,
    topaz_contender,
    unseen_rows,
    working_rate,
)
from cryoden.evaluation.halves import Halves, Rows
from cryoden.evaluation.score_table import tabulate
from cryoden.evaluation.truths import read_truth
from cryoden.formats import outputs
from cryoden.formats.files import make_folder, write_json
from cryoden.formats.general_model import model_path
from cryoden.formats.images import read_micrograph
from cryoden.formats.outcome import Outcome
from cryoden.formats.output_folder import fills_folder, require_own_folder
from cryoden.formats.progress_log import ProgressLog, write_above_bar
from cryoden.formats.run_record import Result, RunRecord
from cryoden.metrics import sanity_checks as checks
from cryoden.metrics.measurement import Measurement, NoiseResponse, measure
from cryoden.metrics.model_weaknesses import training_weaknesses, worse_than_filter
from cryoden.metrics.psnr_ssim import centre
from cryoden.metrics.working_rate import spread_pairs
from cryoden.model.denoiser import Denoiser, NetworkDenoiser
from cryoden.model.devices import pick_device
from cryoden.model.filters import WienerFilter
from cryoden.model.inspection import inspect_network, save_inside
from cryoden.model.pipeline import overlapped
from cryoden.model.topaz import TopazError
from cryoden.report.evaluation_table import Absent, EvaluationTable
from cryoden.report.measurement_file import load_measurement, measurement_path, save_measurement
from cryoden.report.pictures import picture_names
from cryoden.report.tables import write_tables
from cryoden.system.progress import Tell, part_of
from cryoden.wording import counted

log = logging.getLogger(__name__)

RECORDED = ("odd", "even", "truth", "sampling_rate", "scored", "quality")
"""Options that change what is measured."""

TABLES = (outputs.METRICS, outputs.METRICS_CSV, outputs.METRICS_STAR, outputs.REPORT)

AHEAD_BYTES = GIB
"""Memory for halves of micrographs that are handed to a denoiser together."""


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
        self.models = [
            Denoiser.load(path, device, config.quality, config.precision, config.tile) for path in config.model
        ]
        is_with_general = any(model.card.is_general for model in self.models)
        sample = spread_pairs(config.odd, config.even) if is_with_general else []
        rate = working_rate(self.models, config, max((pair.file_rate for pair in sample), default=None))
        self.pairs, self.failures = find_pairs(config.odd, config.even, rate)
        self.n_inputs = len(self.pairs) + len(self.failures)
        self.truths = list_halves(config.truth) if config.truth else {}
        self.output = Path(config.output)
        self.contenders, self.absent = self._models_of_table()
        self._add_topaz(str(device))

        self.mismatched: Dict[str, np.ndarray] = {}
        self._record = self._new_record()
        self._is_continued, self._is_recorded = False, False
        self._proven: Set[str] = set()

    def _models_of_table(self) -> Tuple[List[Contender], List[Absent]]:
        """Return the models as they are called in the table, and which ones one would miss there."""
        return model_contenders(self.models), []

    def _add_topaz(self, device: str) -> None:
        if self.config.topaz == "no":
            self.absent.append(absent_topaz(self.config))
            return
        try:
            self.contenders.append(topaz_contender(self.config, self.output / TOPAZ, device))
        except TopazError as error:
            self.absent.append(absent_topaz(self.config, error))

    def run(self) -> EvaluationTable:
        """Measure every micrograph that was not measured before, and return the table.

        Raises
        ------
        CryodenError
            If no micrograph could be measured.
        """
        if not self.config.overwrite:
            require_own_folder(self.output, outputs.EVALUATE_RECORD, (*TABLES, *picture_names()), [outputs.INSIDE])
        done = self._finished()
        make_folder(self.output / outputs.MEASUREMENTS)
        if done:
            log.info("%d of %s measured before.", len(done), counted(len(self.pairs), "micrograph"))
        self._is_continued = bool(done)

        try:
            for measurement in self._measured([pair for pair in self.pairs if pair.name not in done]):
                done.add(measurement.name)
        finally:
            for contender in self.contenders:
                contender.denoiser.close()

        measurements = [load_measurement(self._path_of(pair)) for pair in self.pairs if pair.name in done]
        self._name_swapped(measurements)
        if not measurements:
            raise NothingDoneError("micrograph", "evaluated", self.n_inputs, self.failures)
        return self._table(measurements)

    # ------------------------------------------------------------------ one micrograph
    def _measured(self, pairs: Sequence[HalfPair]) -> Iterator[Measurement]:
        """Yield measurements: one thread reads ahead, one computes covariances and writes behind the denoisers."""
        log_path = self.output / outputs.LOG
        with ProgressLog(log_path, len(pairs), "micrograph", "Evaluating", is_made_at_once=False) as progress:
            results = overlapped(
                pairs,
                self._load,
                lambda pair, halves: self._predict(halves, lambda share: progress.part(pair.name, share)),
                self._keep,
                look_ahead=self._look_ahead,
                n_ahead=self._n_ahead(pairs),
            )
            for pair, outcome in results:
                if isinstance(outcome, Exception):
                    problem = self.failures[pair.name] = problem_of(outcome, pair.name)
                    progress.report_failure(pair.name, problem, outcome, micrograph=pair.name)
                else:
                    progress.report(pair.name, micrograph=pair.name, status="measured")
                    yield outcome

    def _n_ahead(self, pairs: Sequence[HalfPair]) -> int:
        """Return of how many micrographs the halves are in memory when the first of them is denoised."""
        wanted = max([1, *(contender.denoiser.n_ahead for contender in self.contenders)])
        largest = max([1, *(2 * 4 * pair.file_shape[0] * pair.file_shape[1] for pair in pairs)])
        return max(1, min(wanted, AHEAD_BYTES // largest))

    def _load(self, pair: HalfPair) -> Halves:
        images = (read_micrograph(pair.odd)[0], read_micrograph(pair.even)[0])
        truth = read_truth(pair, self.truths, self.config.truth) if self.config.truth else None
        return Halves(pair, images, truth, self._unseen_rows(pair))

    def _unseen_rows(self, pair: HalfPair) -> Rows:
        """Return the rows of a micrograph that count."""
        return unseen_rows([model.card for model in self.models], pair.name)

    def _look_ahead(self, loaded: Sequence[Halves]) -> None:
        """Let denoisers that take many images at once have those that come next.

        One that fails at its first images is left out: it is not there, or does not work here. One that has worked goes
        on image by image, and fails with the micrograph that it cannot bear.

        Raises
        ------
        CryodenError
            If one fails with which other micrographs were measured in an earlier run.
        """
        for contender in [contender for contender in self.contenders if contender.denoiser.n_ahead > 1]:
            images: Dict[str, Tuple[np.ndarray, float]] = {}
            for halves in loaded:
                try:
                    images.update(halves.given_to(contender.denoiser).by_name(halves.pair.name))
                except CryodenError:
                    continue  # it will be named when its turn comes
            if not images:
                continue

            try:
                contender.denoiser.denoise_ahead(images)
            except CryodenError as error:
                if contender.key not in self._proven:
                    self._leave_out(contender, error)
                continue
            self._proven.add(contender.key)

        if not self._is_recorded:  # only now it is known with what the micrographs are going to be measured
            self._record.begin()
            self._is_recorded = True

    def _leave_out(self, contender: Contender, error: CryodenError) -> None:
        if self._is_continued:
            reason = error.problem.message.rstrip(".")
            raise TopazError(
                f"{reason}; it worked in the run that this one continues.", subject=contender.key
            ) from error
        log.warning("%s is left out: %s", contender.label, error)
        self.contenders.remove(contender)
        self._record = self._new_record()
        self._record.finished([self._result_of(pair) for pair in self.pairs])
        self.absent.append(Absent(contender.key, contender.label, contender.kind, error.problem))

    def _predict(self, halves: Halves, tell: Tell) -> Tuple[Any, ...]:
        """Return the arguments of `_keep`: both halves standardised, with every denoiser's predictions."""
        pair, compared = halves.pair, halves.compared()
        standard = [scale.standardize(image) for scale, image in zip(compared.scales, compared.images)]
        try:
            check_correlation(pair.name, np.stack(standard))
        except PairError:
            self.mismatched[pair.name] = np.stack([checks.thumbnail(image, pair.sampling_rate) for image in standard])
            raise

        predictions: List[List[np.ndarray]] = []
        noise_responses: List[NoiseResponse] = []
        for number, contender in enumerate(self.contenders):
            denoised, response = self._denoised(halves, contender, part_of(tell, number, len(self.contenders)))
            noise_responses.append(response)
            predictions.append([])
            for image, scale in zip(denoised, compared.scales):
                resized = fourier_crop(image, pair.shape)
                predictions[-1].append((resized - np.float32(scale.mean)) / np.float32(scale.deviation))

        data_range = (compared.scales[0].data_range + compared.scales[1].data_range) / 2
        positive = float(np.mean([(image[:: max(1, len(image) // 256)] > 0).mean() for image in compared.images]))
        return halves, standard, predictions, noise_responses, data_range, positive

    def _denoised(self, halves: Halves, contender: Contender, tell: Tell) -> Tuple[List[np.ndarray], NoiseResponse]:
        """Return both halves denoised, in their own grey scales, and what the denoiser makes of noise alone."""
        denoiser, given = contender.denoiser, halves.given_to(contender.denoiser)
        try:
            scales = given.scales_for(denoiser)
        except PixelError as error:
            reason = error.problem.message
            raise PixelError(
                f"'{halves.pair.name}' cannot be given to {contender.label}: {reason}", subject=halves.pair.name
            ) from error
        rate = given.sampling_rate
        denoised: List[np.ndarray] = []
        for image, scale in zip(given.images, scales):
            denoised.append(denoiser.denoise(image, rate, scale))
            tell(len(denoised) / len(scales))

        # Near the edges of a cut-out its prediction is not that of the micrograph: they are not compared.
        noise = denoiser.denoise(given.noise, rate, scales[0])
        side = min(given.noise.shape)
        inner = side - 2 * min(denoiser.edge_px, side // 4)
        return denoised, NoiseResponse(centre(noise, inner), centre(denoised[0], inner), rate)

    def _keep(
        self,
        halves: Halves,
        standard: List[np.ndarray],
        predictions: List[List[np.ndarray]],
        noise_responses: List[NoiseResponse],
        data_range: float,
        positive_share: float,
    ) -> Measurement:
        """Measure and write, on the rows that count."""
        pair, truth = halves.pair, halves.truth
        is_seen = halves.rows is None
        first, last = halves.rows or (0.0, 1.0)
        if self.config.scored == "all":
            is_seen = is_seen or (first, last) != (0.0, 1.0)
            first, last = 0.0, 1.0

        rows = slice(round(first * pair.shape[0]), round(last * pair.shape[0]))
        result = measure(
            pair.name, [image[rows] for image in standard], [[image[rows] for image in both] for both in predictions],
            noise_responses, data_range, positive_share, pair.sampling_rate, is_seen,
            truth[rows] if truth is not None else None,
        )  # fmt: skip
        wrong = checks.filtered_half(pair.name, result.rings)
        if wrong:
            raise PairError(wrong, subject=pair.name)
        with self._record.making(self._result_of(pair)):
            save_measurement(self._path_of(pair), result)
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

    def _table(self, measurements: Sequence[Measurement]) -> EvaluationTable:
        table = self._tabulated(measurements)
        return replace(
            table,
            absent=self.absent,
            warnings=[*silent_models(self.models), *self._weaknesses(table), *table.warnings],
            failures=self.failures,
            models=[facts_of(model) for model in self.models],
        )

    def _tabulated(self, measurements: Sequence[Measurement]) -> EvaluationTable:
        return tabulate(measurements, self.contenders, self.config)

    def _weaknesses(self, table: EvaluationTable) -> List[str]:
        """Return what speaks against the models, first of all what was measured here."""
        band = table.bands[0]
        wiener = table.row(WienerFilter.KIND).bands[band].r2.value
        found = [
            problem
            for row in table.rows
            if row.kind == "network"
            for problem in worse_than_filter(row.label, row.bands[band].r2.value, wiener)
        ]
        for contender in self.contenders:
            if isinstance(contender.denoiser, NetworkDenoiser):
                found += training_weaknesses(contender.denoiser.card, contender.label)
        return [problem.text() for problem in found]

    # ------------------------------------------------------------------ what was measured before
    def _new_record(self) -> RunRecord:
        """Return the record of the folder, for what the micrographs are measured with now."""
        config = self.config
        options = {key: getattr(config, key) for key in RECORDED}
        options["model"] = [{"network": model.card.network, "training": model.card.training} for model in self.models]
        has_topaz = any(contender.key == TOPAZ for contender in self.contenders)
        options["topaz"] = {"is_there": has_topaz, "network": config.topaz_network if has_topaz else None}
        path = self.output / outputs.EVALUATE_RECORD
        files = {"model": [model_path(path) for path in config.model]}
        return RunRecord(path, options, files, config.overwrite, renamed={"models": "model"})

    def _finished(self) -> Set[str]:
        """Return the micrographs that were measured before, with the same denoisers and options.

        Raises
        ------
        ExistingResultsError
            If one was measured otherwise.
        """
        try:
            return self._record.finished([self._result_of(pair) for pair in self.pairs])
        except ExistingResultsError as error:
            then, _ = error.problem.differences.get("topaz", (None, None))
            if list(error.problem.differences) != ["topaz"] or then["is_there"]:
                raise
            raise ExistingResultsError(
                f"{self.output} holds an evaluation without Topaz-Denoise, which was not there or failed.",
                subject=str(self.output),
                remedy=Remedy("set_to", "topaz", "no"),
            ) from error

    def _result_of(self, pair: HalfPair) -> Result:
        """Return the measurement of a micrograph as it is recorded."""
        truth = self.truths.get(pair.name)
        return Result(pair.name, (self._path_of(pair),), (pair.odd, pair.even, *([truth] if truth else [])))

    def _path_of(self, pair: HalfPair) -> Path:
        return measurement_path(self.output, pair.name)


@fills_folder("evaluate", lambda done: done[1].failures)
def evaluate(config: EvaluateConfig) -> Tuple[EvaluationTable, Outcome]:
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
    table = write_evaluation(evaluation)
    _inspect(evaluation, table)
    return table, Outcome(evaluation.n_inputs, evaluation.failures)


def write_evaluation(evaluation: Evaluation) -> EvaluationTable:
    """Measure, and write the numbers into the folder; raises as `evaluate`."""
    table = evaluation.run()
    write_json(evaluation.output / outputs.METRICS, table.to_dict())
    write_tables(evaluation.output, table)
    return table


def _inspect(evaluation: Evaluation, table: EvaluationTable) -> None:
    """Write what is inside the networks, for which a large one takes a minute on a CPU."""
    cut = load_measurement(measurement_path(evaluation.output, table.order[0])).half_cuts()[0]
    for contender in evaluation.contenders:
        if isinstance(contender.denoiser, NetworkDenoiser):
            inside = inspect_network(contender.denoiser.predictor.network, cut)
            save_inside(evaluation.output / outputs.inspection_of(contender.key), inside)
