"""The command that denoises a list of micrographs: what is to do, what was done before, and what came out."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any, Dict, Generator, Iterator, List, Mapping, Sequence, Set, Tuple, Union

from cryoden.config import DenoiseConfig
from cryoden.errors import NOT_REACHED, CryodenError, FullDiskError, NothingDoneError, Problem, problem_of
from cryoden.formats import outputs
from cryoden.formats.cryosparc import MICROGRAPH, write_csv, write_exposures
from cryoden.formats.general_model import model_path
from cryoden.formats.images import open_stack
from cryoden.formats.model_file import ModelCard
from cryoden.formats.outcome import Outcome
from cryoden.formats.output_folder import failures_of, fills_folder, require_own_folder
from cryoden.formats.progress_log import ProgressLog, write_above_bar
from cryoden.formats.run_record import RunRecord, deleted_file
from cryoden.formats.shared_list import SharedList
from cryoden.formats.star import require_in_project, star_path, write_results
from cryoden.metrics.model_weaknesses import NOT_MEASURED, weaknesses
from cryoden.metrics.unusual_micrographs import Looks
from cryoden.model.denoiser import Denoiser, ModelDenoiser
from cryoden.model.devices import own_device, try_kernels
from cryoden.model.micrograph_list import LISTS, MicrographList, list_micrographs
from cryoden.model.pipeline import Job, OutputFormat, WrittenImage, denoised
from cryoden.system.ranks import n_ranks, rank
from cryoden.wording import counted

log = logging.getLogger(__name__)

RECORDED = ("odd", "even", "quality", "dtype", "scale", "full_size", "sampling_rate")
"""Options that change the results."""

USUAL_OPTICS = (300.0, 2.7, 0.1)
"""Voltage (kV), spherical aberration (mm) and amplitude contrast of micrographs that come without a STAR file."""


@fills_folder("denoise", failures_of, is_shared=True)
def denoise_micrographs(config: DenoiseConfig) -> Outcome:
    """Denoise every micrograph and write `micrographs.star`; finished ones are skipped.

    Where a launcher started several processes, each takes its share of the list, and one of them writes the STAR file.

    Raises
    ------
    CryodenError
        If nothing can be done: no model, no device, no micrograph that can be denoised, or the folder holds what this
        command did not make.
    """
    device = own_device(config.device, config.gpus)
    denoiser = Denoiser.load(config.model, device, config.quality, config.precision, config.tile)
    for weakness in weaknesses(denoiser.card) if rank() == 0 else ():
        log.warning("cryoden: warning: %s", weakness)
    if denoiser.card.is_general and denoiser.card.r2 is None and rank() == 0:  # an elected one was measured
        log.info("Denoising by the general model. %s", NOT_MEASURED)
    micrographs = list_micrographs(config)
    for problem in micrographs.failures.values():
        write_above_bar(problem.text())

    output = Path(config.output)
    options = _lasting_options(config, denoiser.card)
    by_content = {"model": model_path(config.model)}
    record = RunRecord(output / outputs.DENOISE_RECORD, options, by_content, config.overwrite, rank())
    if not config.overwrite:
        require_own_folder(output, outputs.DENOISE_RECORD, LISTS)
    finished = record.finished([job.result for job in micrographs.jobs])
    if micrographs.table and not finished and rank() == 0:
        require_in_project(micrographs.table.source, [job.path for job in micrographs.jobs])
    if rank() == 0:
        record.begin()

    with SharedList(output, "cryoden denoise") as shared:
        return _denoise(micrographs, finished, denoiser, config, record, shared)


def _denoise(
    micrographs: MicrographList,
    finished: Set[str],
    denoiser: ModelDenoiser,
    config: DenoiseConfig,
    record: RunRecord,
    shared: SharedList,
) -> Outcome:
    """Denoise what is not finished; write the tables, unless another process does."""
    by_name = {job.name: job for job in micrographs.jobs}
    mine = shared.share([job.name for job in micrographs.jobs if job.name not in finished])
    if finished and rank() == 0:
        log.info("%d of %s finished before.", len(finished), counted(len(micrographs.jobs), "micrograph"))

    rates, failures = _denoise_all([by_name[name] for name in mine], denoiser, config, record)
    part = {"rates": rates, "failures": {path: problem.to_dict() for path, problem in failures.items()}}
    gathered = shared.gather(part)
    if gathered is None:
        return Outcome(micrographs.n_inputs, is_reported=False)

    for part in gathered.parts:
        rates.update({int(row): rate for row, rate in part["rates"].items()})
        failures.update({path: Problem.from_dict(problem) for path, problem in part["failures"].items()})

    # What a process denoised that ended early, or had found finished if it was the first, is there all the same.
    left = [job for job in micrographs.jobs if job.row not in rates and job.path not in failures]
    if n_ranks() > 1:
        finished = record.finished_since([job.result for job in left])
        failures.update(
            {job.path: gathered.lost[job.name] for job in left if job.name in gathered.lost.keys() - finished}
        )
    for name in finished:
        rates[by_name[name].row] = record.facts(name).get("sampling_rate") or _rate_of(by_name[name], denoiser)

    failures = {**micrographs.failures, **failures, **_deleted(micrographs.jobs, rates)}
    done = [job for job in micrographs.jobs if job.row in rates and job.path not in failures]
    if not done:
        raise NothingDoneError("micrograph", "denoised", micrographs.n_inputs, failures)
    _write_tables(micrographs, done, rates, config)
    return Outcome(micrographs.n_inputs, failures)


def _lasting_options(config: DenoiseConfig, card: ModelCard) -> Dict[str, Any]:
    """Return the options that make the denoised micrographs what they are, and what the model says of itself."""
    options = {key: getattr(config, key) for key in RECORDED}
    return {**options, "model": {"network": card.network, "training": card.training}}


def _rate_of(job: Job, denoiser: ModelDenoiser) -> float:
    """Return the A/px of a result that is there."""
    return open_stack(job.output).sampling_rate or denoiser.sampling_rate


# ---------------------------------------------------------------------- one micrograph after the other
def _denoise_all(
    jobs: Sequence[Job], denoiser: ModelDenoiser, config: DenoiseConfig, record: RunRecord
) -> Tuple[Dict[int, float], Dict[str, Problem]]:
    """Denoise this process's share of the micrographs.

    Returns
    -------
    rates
        Row -> A/px of those that are denoised.
    failures
        Micrograph -> why it could not be denoised.
    """
    rates: Dict[int, float] = {}
    failures: Dict[str, Problem] = {}
    output_format = OutputFormat(config.dtype, config.scale == "standard", config.full_size)
    try_kernels(len(jobs) * denoiser.n_views * (2 if config.odd else 1))

    log_path = Path(config.output) / outputs.log_of(rank())
    with ProgressLog(log_path, len(jobs), "micrograph", "Denoising", rank() == 0) as progress:
        results = denoised(
            jobs, denoiser, output_format, lambda job: record.making(job.result),
            lambda job, share: progress.part(job.path, share),
        )  # fmt: skip
        for job, image in _successes(jobs, results, progress, failures):
            rates[job.row] = image.sampling_rate
    return rates, failures


def _successes(
    jobs: Sequence[Job],
    results: Generator[Tuple[Job, Union[WrittenImage, Exception]], None, None],
    progress: ProgressLog,
    failures: Dict[str, Problem],
) -> Iterator[Tuple[Job, WrittenImage]]:
    """Yield what was written; note the rest in `failures`, and all that follows a full disk."""
    shapes: List[Tuple[int, int]] = []
    looks = Looks(len(jobs))
    begun = time.monotonic()
    for number, (job, result) in enumerate(results, 1):
        now = time.monotonic()
        facts: Dict[str, Any] = {"micrograph": job.path, "status": "denoised", "seconds": round(now - begun, 3)}
        begun = now

        if isinstance(result, Exception):
            failures[job.path] = problem_of(result, job.path)
            progress.report_failure(job.path, failures[job.path], result, micrograph=job.path)
            if isinstance(result, FullDiskError):
                failures.update({later.path: NOT_REACHED for later in jobs[number:]})
                results.close()
                return
            continue

        if result.input_shape not in shapes:
            shapes.append(result.input_shape)
            if len(shapes) > 1:
                size, first = (f"{columns} x {rows} px" for rows, columns in (shapes[-1], shapes[0]))
                facts["warning"] = f"{job.path} is {size}, the first one {first}: do they belong together?"
                log.warning("%s", facts["warning"])
        said = looks.add(result.look) if result.look is not None else []
        for problem in said:
            log.warning("cryoden: warning: %s", problem)
        if said:
            facts["warning"] = " ".join([*filter(None, [facts.get("warning")]), *map(str, said)])
        progress.report(job.path, sampling_rate=result.sampling_rate, **facts)
        yield job, result


# ---------------------------------------------------------------------- what came out
def _write_tables(
    micrographs: MicrographList, done: Sequence[Job], rates: Mapping[int, float], config: DenoiseConfig
) -> None:
    """Write what lists the results."""
    output = Path(config.output)
    rows, names = [job.row for job in done], [star_path(job.output) for job in done]
    pixel_sizes = [rates[row] for row in rows]
    write_results(
        output / outputs.MICROGRAPHS_STAR, micrographs.table, USUAL_OPTICS, rows, names, pixel_sizes,
        _scale_of_picks(done),
    )  # fmt: skip
    if micrographs.are_exposures:
        files = [str(job.output) for job in done]
        source = config.micrographs[0]
        write_exposures(output / outputs.EXPOSURES_CS, source, rows, {MICROGRAPH: files})
        write_csv(output / outputs.EXPOSURES_CSV, source, rows, files)


def _scale_of_picks(done: Sequence[Job]) -> str:
    """Return for people whether coordinates on the results hold for the micrographs; nothing where that is not known.

    No column of RELION's says it.
    """
    for job in done:
        try:
            before, after = open_stack(job.path).shape, open_stack(job.output).shape
        except CryodenError:  # an input that was removed since
            continue
        if before == after:
            return "The micrographs have as many pixels as those that were denoised: coordinates hold for both."
        return (
            f"The micrographs have {after[1]} x {after[0]} px, those that were denoised {before[1]} x {before[0]}: "
            f"coordinates are to be multiplied by {before[1] / after[1]:.5g} for these."
        )
    return ""


def _deleted(jobs: Sequence[Job], rates: Mapping[int, float]) -> Dict[str, Problem]:
    """Return the micrographs whose results were deleted after they were written: no STAR file may list them."""
    problems = {}
    for job in jobs:
        error = deleted_file([job.output]) if job.row in rates else None
        if error is not None:
            problems[job.path] = error.problem
    return problems
