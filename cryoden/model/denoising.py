"""The command that denoises a list of micrographs: what to do, what was done before, and what came out."""

from __future__ import annotations

import json
import logging
import os
import time
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Dict, Generator, Iterator, List, Optional, Sequence, Tuple, Union

import torch

from cryoden.config import DenoiseConfig
from cryoden.data.pairs import list_halves
from cryoden.errors import NOT_REACHED, FileError, FullDiskError, NothingDoneError, PairError, Problem, problem_of
from cryoden.formats.files import LOG_NAME, make_folder, mrc_name, read_json, write_json
from cryoden.formats.images import ENDINGS, open_stack
from cryoden.formats.model_file import ModelCard
from cryoden.formats.outcome import Outcome
from cryoden.formats.output_folder import failures_of, fills_folder
from cryoden.formats.progress_log import ProgressLog, write_above_bar
from cryoden.formats.star import ImageTable, new_table, read_table, star_path, write_table
from cryoden.formats.thumbnails import thumbnail_path
from cryoden.model.denoiser import Denoiser
from cryoden.model.devices import try_kernels
from cryoden.model.pipeline import Job, Result, WrittenImage, denoised
from cryoden.model.processes import all_gather, process_group

log = logging.getLogger(__name__)

RECORD_NAME = "denoise.json"
"""Says, in the output folder, how its micrographs were denoised."""

RECORDED = ("odd", "even", "quality", "dtype", "scale", "full_size", "sampling_rate")
"""Options that change the results."""

LONGEST_WAIT = timedelta(days=7)
"""For the other processes of a torchrun at the end of a list."""


@fills_folder("denoise", failures_of)
def denoise_micrographs(config: DenoiseConfig) -> Outcome:
    """Denoise every micrograph and write `micrographs.star`; finished ones are skipped.

    Under torchrun every process takes its share of the list; the first one writes the STAR file.

    Raises
    ------
    CryodenError
        If nothing can be done: no model, no device, no micrograph that can be denoised.
    """
    denoiser = Denoiser.load(config.model, config.device, config.quality, config.precision, config.tile)
    table, jobs, failures = _list_jobs(config)
    output = make_folder(config.output)
    record = _record(config, denoiser.card)
    is_continued = _guard_options(output, config, record, jobs)
    finished = [job for job in jobs if is_continued and _is_finished(job, config)]
    rates = {job.row: open_stack(job.output).sampling_rate or denoiser.sampling_rate for job in finished}
    todo = [job for job in jobs if job.row not in rates]
    if finished:
        log.info("%d of %d micrographs were finished before.", len(finished), len(jobs))
    result = Result(config.dtype, config.scale == "standard", config.full_size, config.thumbnails)
    with ExitStack() as stack:
        shard = stack.enter_context(process_group(torch.device("cpu"), LONGEST_WAIT))
        if todo:  # before the first result: a kill must not leave one of which nobody knows how it was made
            write_json(output / RECORD_NAME, record)
        mine = todo[shard.rank :: shard.n_ranks]
        try_kernels(len(mine) * denoiser.n_views * (2 if config.odd else 1))
        log_path = output / (LOG_NAME if shard.rank == 0 else f"log_{shard.rank}.jsonl")
        progress = stack.enter_context(ProgressLog(log_path, len(mine), "micrograph", "Denoising"))
        results = denoised(mine, denoiser, result)
        for job, rate in _successes(mine, results, progress, failures):
            rates[job.row] = rate
        for other_rates, other_failures in all_gather([(rates, failures)], shard):
            rates.update(other_rates)
            failures.update(other_failures)
        is_first = shard.rank == 0
    n_inputs = len(jobs) + len([path for path in failures if path not in {job.path for job in jobs}])
    if not rates:
        raise NothingDoneError("micrographs", "denoised", n_inputs, failures)
    if is_first:
        _write_star(output / "micrographs.star", table, jobs, rates)
    return Outcome(n_inputs, failures)


def _successes(
    jobs: Sequence[Job],
    results: Generator[Tuple[Job, Union[WrittenImage, Exception]], None, None],
    progress: ProgressLog,
    failures: Dict[str, Problem],
) -> Iterator[Tuple[Job, float]]:
    """Yield (job, A/px) of what was written; note the rest in `failures`, and all that follows a full disk."""
    shapes: List[Tuple[int, int]] = []
    begun = time.monotonic()
    for number, (job, outcome) in enumerate(results, 1):
        seconds, begun = round(time.monotonic() - begun, 3), time.monotonic()
        if isinstance(outcome, Exception):
            failures[job.path] = problem_of(outcome, job.path)
            progress.report_failure(failures[job.path], outcome, micrograph=job.path)
            if isinstance(outcome, FullDiskError):
                failures.update({later.path: NOT_REACHED for later in jobs[number:]})
                results.close()
                return
            continue
        facts = {"micrograph": job.path, "status": "denoised", "seconds": seconds}
        if outcome.input_shape not in shapes:
            shapes.append(outcome.input_shape)
            if len(shapes) > 1:
                size, first = (f"{columns} x {rows} px" for rows, columns in (shapes[-1], shapes[0]))
                facts["warning"] = f"{job.path} is {size}, the first one {first}: do they belong together?"
                log.warning("%s", facts["warning"])
        progress.report(sampling_rate=outcome.sampling_rate, **facts)
        yield job, outcome.sampling_rate


def _is_finished(job: Job, config: DenoiseConfig) -> bool:
    """Return whether an earlier run wrote the image, and its thumbnail where one is wanted."""
    is_complete = config.thumbnails == "none" or thumbnail_path(job.output, config.thumbnails).is_file()
    return is_complete and job.output.is_file()


def _write_star(path: Path, table: Optional[ImageTable], jobs: Sequence[Job], rates: Dict[int, float]) -> None:
    done = [job for job in jobs if job.row in rates]
    names, pixel_sizes = [star_path(job.output) for job in done], [rates[job.row] for job in done]
    if table is None:
        table = new_table([job.path for job in jobs], pixel_sizes[0], 300.0, 2.7, 0.1)
    write_table(path, table.with_images([job.row for job in done], names, pixel_sizes))


def _list_jobs(config: DenoiseConfig) -> Tuple[Optional[ImageTable], List[Job], Dict[str, Problem]]:
    """Return the STAR table (if one was given), the jobs, and why some micrographs cannot become jobs."""
    table = None
    if len(config.micrographs) == 1 and config.micrographs[0].endswith(".star"):
        table = read_table(config.micrographs[0])
        paths = table.paths
    else:
        paths = [path for source in config.micrographs for path in _files_of(source)]
    odd = list_halves(config.odd, "odd") if config.odd else {}
    even = list_halves(config.even, "even") if config.even else {}
    jobs: List[Job] = []
    failures: Dict[str, Problem] = {}
    written: Dict[str, str] = {}
    for row, (path, folder) in enumerate(zip(paths, _folders(paths, config.folders == "kept"))):
        name = str(folder / mrc_name(path))
        if name in written:
            raise FileError(f"{written[name]} and {path} would both be written as {name}; rename one of them.")
        written[name] = path
        target = Path(config.output) / name
        halves = None
        if config.odd:
            stem = Path(path).stem
            if stem not in odd or stem not in even:
                where = config.odd if stem not in odd else config.even
                failures[path] = PairError(
                    f"'{stem}' has no half in {where}; split its movie again, or denoise without halves.", subject=path
                ).problem
                write_above_bar(failures[path].text())
                continue
            halves = (odd[stem], even[stem])
        for source in (path, *(halves or ())):
            if target.resolve() == Path(source).resolve():
                raise FileError(f"{source} would be overwritten by its denoised image; choose another --output folder.")
        rate = config.sampling_rate or (table.sampling_rate(row) if table else None)
        jobs.append(Job(row, path, halves, target, rate))
    return table, jobs, failures


def _folders(paths: Sequence[str], is_kept: bool) -> List[Path]:
    """Return in which sub-folder of the output each micrograph's result goes."""
    folders = [os.path.dirname(os.path.abspath(path)) for path in paths]
    if not is_kept or len(set(folders)) < 2:
        return [Path()] * len(paths)
    common = os.path.commonpath(folders)
    return [Path(os.path.relpath(folder, common)) for folder in folders]


def _files_of(source: str) -> List[str]:
    path = Path(source)
    if not path.is_dir():
        return [source]
    files = [str(file) for file in sorted(path.iterdir()) if file.suffix.lower() in ENDINGS]
    if not files:
        raise FileError(f"Folder {source} holds no micrograph ({', '.join(ENDINGS)}); check the path.")
    return files


def _record(config: DenoiseConfig, card: ModelCard) -> Dict[str, object]:
    """Return what the denoised micrographs of one folder have in common."""
    record: Dict[str, object] = {key: getattr(config, key) for key in RECORDED}
    record["model"] = {"network": card.network, "training": card.training}
    return record


def _guard_options(output: Path, config: DenoiseConfig, record: Dict[str, object], jobs: Sequence[Job]) -> bool:
    """Refuse to mix micrographs denoised in different ways in one folder; return whether a run is continued."""
    path = output / RECORD_NAME
    if config.overwrite or not path.is_file() or not any(job.output.is_file() for job in jobs):
        return False
    if read_json(path) != json.loads(json.dumps(record)):
        raise FileError(
            f"{output} holds micrographs denoised with another model or other options ({path}); "
            "choose another --output folder, or give --overwrite."
        )
    return True
