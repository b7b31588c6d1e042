"""Which denoiser is best on these micrographs: candidates in, measured R2 and one model file out."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from cryoden.config import ChooseConfig, EvaluateConfig
from cryoden.config.shared import GENERAL
from cryoden.data.half_sources import list_halves
from cryoden.data.pairs import HalfPair, find_pairs
from cryoden.errors import ExistingResultsError, PairError, Problem
from cryoden.evaluation.candidates import FittedFilters
from cryoden.evaluation.contenders import Contender, model_contenders, unseen_rows
from cryoden.evaluation.division import Division, divide, divided_as_before, read_covariances, require_some
from cryoden.evaluation.evaluate import Evaluation, write_evaluation
from cryoden.evaluation.halves import Rows
from cryoden.evaluation.nominees import OWN, Nominee, filter_nominees, fine_tuned, fit_filters, nominate_models, tried
from cryoden.evaluation.score_table import tabulate
from cryoden.formats import outputs
from cryoden.formats.files import write_json
from cryoden.formats.general_model import has_general_model, model_path
from cryoden.formats.model_file import copy_model, read_card
from cryoden.formats.outcome import read_failures, write_failures
from cryoden.formats.output_folder import fills_folder, require_own_folder
from cryoden.formats.run_record import Result, RunRecord
from cryoden.formats.star import write_names
from cryoden.metrics.electing import elect, paired_error
from cryoden.metrics.measurement import Measurement
from cryoden.metrics.ring_covariance import RingCovariance
from cryoden.model.devices import pick_device
from cryoden.model.filters import WienerFilter
from cryoden.report.election_result import CandidateResult, Election, read_election, write_election
from cryoden.report.evaluation_table import Absent, EvaluationTable, Number, Row

log = logging.getLogger(__name__)

RECORDED = (
    "odd", "even", "seconds", "topaz", "topaz_network", "band", "margin", "held_out", "at_most", "quality", "bootstrap",
    "seed",
)  # fmt: skip
"""Options that change which denoiser is elected, or what is said of it."""

LISTS = (outputs.FITTING_ODD, outputs.FITTING_EVEN, outputs.HELD_OUT_ODD, outputs.HELD_OUT_EVEN)

RESULTS = (outputs.MODEL, outputs.ELECTION, outputs.ELECTION_TEXT)

FOLDERS = (outputs.CANDIDATES, outputs.EVALUATION_FOLDER)


class ElectionEvaluation(Evaluation):
    """The evaluation by which an election is decided: one table of all candidates, on nothing but held-out pixels.

    Parameters
    ----------
    config
        The options; its models are those of the nominees that take part.
    nominees
        All that a model file holds.
    filters
        The linear filters, which are candidates too.
    division
        The micrographs of the election.
    order
        Keys of the candidates, the simplest first.
    margin
        See `cryoden.metrics.electing.elect`.
    """

    def __init__(
        self,
        config: EvaluateConfig,
        nominees: Sequence[Nominee],
        filters: FittedFilters,
        division: Division,
        order: Sequence[str],
        margin: float,
    ) -> None:
        self._nominees, self._filters, self._division = nominees, filters, division
        self._order, self._margin = order, margin
        super().__init__(config)

    def _models_of_table(self) -> Tuple[List[Contender], List[Absent]]:
        present = [nominee for nominee in self._nominees if nominee.takes_part]
        contenders = [
            replace(contender, key=nominee.key, label=nominee.label)
            for contender, nominee in zip(model_contenders(self.models), present)
        ]
        absent = [Absent(n.key, n.label, "network", n.problem) for n in self._nominees if n.problem is not None]
        return contenders, absent

    def _unseen_rows(self, pair: HalfPair) -> Rows:
        rows = unseen_rows([model.card for model in self.models], pair.name)
        first, last = self._division.unseen[pair.name]
        return None if rows is None else (max(first, rows[0]), min(last, rows[1]))

    def _tabulated(self, measurements: Sequence[Measurement]) -> EvaluationTable:
        return tabulate(measurements, self.contenders, self.config, self._filters, self._elected)

    def _weaknesses(self, table: EvaluationTable) -> List[str]:
        return []  # that others are better is what the election says

    def _elected(self, rows: Sequence[Row]) -> Row:
        """Return the row of the elected candidate; of the Wiener filter where none has a number."""
        by_key = {row.key: row for row in rows}
        result = elect(r2_of(rows), self._order, self._margin)
        return by_key[result[0] if result else WienerFilter.KIND]


def r2_of(rows: Sequence[Row]) -> Dict[str, Optional[float]]:
    """Return the R2 of every row in the score band, by its key."""
    return {row.key: next(iter(row.bands.values())).r2.value for row in rows}


class Choosing:
    """One election on its way.

    Parameters
    ----------
    config
        The options.

    Raises
    ------
    CryodenError
        If nothing can be done: no device, no pair of halves.
    """

    def __init__(self, config: ChooseConfig) -> None:
        self._config, self._output = config, Path(config.output)
        self._device = pick_device(config.device)
        self._pairs, self._failures = find_pairs(config.odd, config.even)
        self._file_rate = self._pairs[0].sampling_rate

    @property
    def _candidates(self) -> Path:
        return self._output / outputs.CANDIDATES

    @property
    def _lists(self) -> List[Path]:
        return [self._output / name for name in LISTS]

    def run(self) -> Election:
        """Elect, or return the election that was held before with the same options. Raises as `choose`."""
        record = self._own_record()
        listed, elected = self._results()
        finished = record.finished([listed, elected])
        if elected.name in finished:
            log.info("This election was held before.")
            return read_election(self._output)

        record.begin()
        models = nominate_models(self._config, self._pairs, self._file_rate, self._device)
        cards = [nominee.card for nominee in models if nominee.takes_part and nominee.card is not None]
        rate = max([self._file_rate, *(card.sampling_rate for card in cards)])
        self._pairs = find_pairs(self._config.odd, self._config.even, rate)[0]

        covariances: Dict[str, RingCovariance] = {}
        if listed.name in finished:
            self._failures.update(read_failures(self._output))
            names = [list(list_halves(str(path))) for path in self._lists]
            division = divided_as_before(self._pairs, names[0], names[2])
        else:
            division, covariances = self._divide(cards)
            with record.making(listed):
                self._write_lists(division)
            record.finished([self._results()[1]])  # only now it is known from which halves it is made
        filters = self._fit(division, covariances)

        tuned = fine_tuned(self._config, models[0], self._lists[:2], self._file_rate, self._failures)
        nominees = tried([*models, tuned], division.held_out, self._config, self._device)
        own = [nominee for nominee in nominees if nominee.key.startswith(OWN)]
        self._failures.update({nominee.path: nominee.problem for nominee in own if nominee.problem is not None})
        evaluation, table = self._evaluate(nominees, filters, division, rate)
        self._failures.update(evaluation.failures)
        nominees = [*filter_nominees(self._candidates), *nominees]
        election = self._election(table, nominees)
        with record.making(self._results()[1]):
            self._write(election, table, nominees)
        return election

    # ------------------------------------------------------------------ what was done before
    def _own_record(self) -> RunRecord:
        """Return the record of the folder; what an election that is to be replaced made is removed."""
        path, config = self._output / outputs.CHOOSE_RECORD, self._config
        inside = [f"{name}/*" for name in FOLDERS]
        require_own_folder(self._output, outputs.CHOOSE_RECORD, (*LISTS, *RESULTS), inside)
        if config.overwrite and path.exists():
            for name in FOLDERS:
                shutil.rmtree(str(self._output / name), ignore_errors=True)
            for name in (*LISTS, *RESULTS):
                (self._output / name).unlink(missing_ok=True)
        options = {name: getattr(config, name) for name in RECORDED}
        files = [path for path in config.model if Path(model_path(path)).is_file()]
        by_content: Dict[str, Any] = {"model": files}
        if has_general_model():
            by_content["general"] = model_path(GENERAL)
        return RunRecord(path, {**options, "model": list(config.model)}, by_content, config.overwrite)

    def _results(self) -> Tuple[Result, Result]:
        """Return the lists, and the elected model with its table, as they are recorded."""
        listed = Result(LISTS[0], tuple(self._lists))
        halves = [file for path in self._lists if path.is_file() for file in list_halves(str(path)).values()]
        files = tuple(self._output / name for name in RESULTS)
        return listed, Result(outputs.MODEL, files, tuple(dict.fromkeys(halves)))

    # ------------------------------------------------------------------ the steps
    def _divide(self, cards: Sequence[Any]) -> Tuple[Division, Dict[str, RingCovariance]]:
        """Return which micrographs are held out, and covariances of those that were read to know that they are good."""
        config = self._config
        covariances: Dict[str, RingCovariance] = {}
        usable = self._pairs
        if len(usable) <= 2 * config.at_most:  # a bad one among few would leave nothing to fit or to measure on
            covariances = read_covariances(usable, None, self._failures, "Reading halves")
            require_some(covariances, self._failures)
            usable = [pair for pair in usable if pair.name in covariances]
        division = divide(usable, cards, config.held_out, config.at_most, np.random.default_rng(config.seed))
        return division, {} if division.is_of_rows else covariances

    def _write_lists(self, division: Division) -> None:
        write_failures(self._output, self._failures)
        for part, paths in ((division.fitting, self._lists[:2]), (division.held_out, self._lists[2:])):
            write_names(paths[0], {pair.name: pair.odd for pair in part})
            write_names(paths[1], {pair.name: pair.even for pair in part})

    def _fit(self, division: Division, covariances: Mapping[str, RingCovariance]) -> FittedFilters:
        """Fit the linear filters on at most so many micrographs as are held out at most."""
        known = {pair.name: covariances[pair.name] for pair in division.fitting if pair.name in covariances}
        if not known:
            order = np.random.default_rng(self._config.seed).permutation(len(division.fitting))
            shuffled = [division.fitting[i] for i in order]
            known = read_covariances(shuffled, self._config.at_most, self._failures, "Fitting filters")
        require_some(known, self._failures)
        return fit_filters(division, known, self._config, self._candidates)

    def _evaluate(
        self, nominees: Sequence[Nominee], filters: FittedFilters, division: Division, rate: float
    ) -> Tuple[ElectionEvaluation, EvaluationTable]:
        """Measure all candidates; what was measured with the same ones before is kept."""
        order = [nominee.key for nominee in (*filter_nominees(self._candidates), *nominees)]
        paths = tuple(nominee.path for nominee in nominees if nominee.takes_part)
        folder = str(self._output / outputs.EVALUATION_FOLDER)
        config = self._config.evaluation(str(self._lists[2]), str(self._lists[3]), paths, folder, rate)
        try:
            evaluation = ElectionEvaluation(config, nominees, filters, division, order, self._config.margin)
            return evaluation, write_evaluation(evaluation)
        except ExistingResultsError:  # other candidates took part when this election was stopped
            config = replace(config, overwrite=True)
            evaluation = ElectionEvaluation(config, nominees, filters, division, order, self._config.margin)
            return evaluation, write_evaluation(evaluation)

    def _election(self, table: EvaluationTable, nominees: Sequence[Nominee]) -> Election:
        """Return who is elected.

        Raises
        ------
        PairError
            If no candidate has a number.
        """
        order = [nominee.key for nominee in nominees]
        r2 = r2_of(table.rows)
        result = elect(r2, order, self._config.margin)
        if result is None:
            raise PairError(
                f"The held-out halves have no common signal at {table.bands[0]} Å: no candidate can be measured. Check "
                "the halves and their pixel size."
            )
        elected, best = result
        others = [row.key for row in table.rows if row.kind == "external"]
        better = [key for key in others if (r2[key] or -np.inf) > (r2[best] or -np.inf)]
        labels = {nominee.key: nominee.label for nominee in nominees}
        labels.update({row.key: row.label for row in table.rows if row.kind == "external"})
        labels.update({absent.key: absent.label for absent in table.absent})
        problems = {absent.key: absent.reason for absent in table.absent}
        places = {key: place for place, key in enumerate(order, 1)}
        keys = [*order, *others, *(key for key in problems if key not in order)]
        return Election(
            band=table.bands[0],
            sampling_rate=table.sampling_rate,
            margin=self._config.margin,
            held_out=tuple(table.scored),
            fitted_on=tuple(read_card(nominees[0].path).training["trained_on"]),
            candidates=tuple(
                _candidate(key, labels[key], places.get(key), table, best, problems.get(key)) for key in keys
            ),
            elected=elected,
            best=best,
            outsider=max(better, key=lambda key: r2[key] or -np.inf) if better else None,
            failures=dict(self._failures),
            warnings=tuple(table.warnings),
        )

    def _write(self, election: Election, table: EvaluationTable, nominees: Sequence[Nominee]) -> None:
        """Write the table, also for the report, and the elected model with what was measured of it."""
        said = [election.headline(), *election.reasons()]
        metrics = self._output / outputs.EVALUATION_FOLDER / outputs.METRICS
        write_json(metrics, replace(table, election=said).to_dict())
        write_election(self._output, election)

        source = next(nominee.path for nominee in nominees if nominee.key == election.elected)
        card = read_card(source)
        training = {name: value for name, value in card.training.items() if name != "r2_before"}  # was another R2
        r2, r2_corr = election.winner.r2, election.winner.r2_corr
        training.update(
            r2=r2.value if r2 else None,
            r2_error=r2.error if r2 else None,
            r2_corr=r2_corr.value if r2_corr else None,
            wiener_r2=election.candidate(WienerFilter.KIND).value,
            score_band_A=list(self._config.band),
            elected={"held_out": list(election.held_out), "r2": {c.label: c.value for c in election.candidates}},
        )
        copy_model(source, self._output / outputs.MODEL, replace(card, training=training))


def _candidate(
    key: str, label: str, place: Optional[int], table: EvaluationTable, best: str, problem: Optional[Problem]
) -> CandidateResult:
    if problem is not None:
        return CandidateResult(key, label, place, problem=problem)
    row, first, band = table.row(key), table.row(best), table.bands[0]
    numbers, highest = row.bands[band], first.bands[band]
    behind = None
    if numbers.r2.value is not None and highest.r2.value is not None:
        error = paired_error(*([one.micrographs[name].r2 for name in table.scored] for one in (first, row)))
        behind = Number.of(highest.r2.value - numbers.r2.value, error if key != best else None)
    return CandidateResult(key, label, place, numbers.r2, numbers.r2_corr, behind)


@fills_folder("choose", lambda election: election.failures)
def choose(config: ChooseConfig) -> Election:
    """Elect the denoiser that is best on these micrographs, and write it as `model.safetensors` with its table.

    Raises
    ------
    CryodenError
        If nothing can be done: no usable halves, none that could be held out.
    """
    return Choosing(config).run()
