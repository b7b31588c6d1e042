"""Micrographs in, denoised micrographs out: reading, computing and writing overlap."""

from __future__ import annotations

import json
import logging
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from tqdm import tqdm

from cryoden.config import DenoiseConfig
from cryoden.data.halves import Outcome
from cryoden.data.normalize import Normalization, measure_scale
from cryoden.data.pairs import list_halves
from cryoden.data.rescale import SAME_RATE_TOLERANCE, to_sampling_rate
from cryoden.errors import CryodenError, FileError, ModelError, PairError, PixelError
from cryoden.formats.files import make_folder, mrc_name, read_json, whole_file, write_json
from cryoden.formats.images import ENDINGS, open_stack, read_micrograph
from cryoden.formats.model_file import ModelCard
from cryoden.formats.mrc import write_image
from cryoden.formats.star import ImageTable, new_table, read_table, star_path, write_table
from cryoden.model.predictor import Predictor, load_predictor

log = logging.getLogger(__name__)

RECORD_NAME = "denoise.json"
"""Says, in the output folder, how its micrographs were denoised."""


@dataclass(frozen=True)
class Job:
    """One micrograph to denoise: its file, its halves where they are given, and its name in the output folder."""

    row: int
    path: str
    halves: Optional[Tuple[str, str]]
    output: Path
    sampling_rate: Optional[float]


@dataclass
class Work:
    """What travels through the pipeline: images read, then predicted."""

    job: Job
    images: List[np.ndarray]
    rate: float


def denoise_micrographs(config: DenoiseConfig) -> Outcome:
    """Denoise every micrograph and write `micrographs.star`; finished ones are skipped.

    Raises
    ------
    CryodenError
        If nothing can be done: no model, no device, no micrograph that can be denoised.
    """
    card, predictor = load_predictor(config.model, config)
    table, jobs, failures = _list_jobs(config)
    output = make_folder(config.output)
    record = _record(config, card)
    is_continued = _guard_options(output, config, record)
    rates: Dict[int, float] = {}
    n_inputs = len(jobs) + len(failures)
    todo = []
    for job in jobs:
        if is_continued and job.output.is_file():
            rates[job.row] = open_stack(job.output).sampling_rate or card.sampling_rate
        else:
            todo.append(job)
    if len(todo) < len(jobs):
        log.info("%d of %d micrographs were finished before.", len(jobs) - len(todo), len(jobs))
    for job, result in _pipeline(todo, predictor, card, config.dtype):
        if isinstance(result, CryodenError):
            failures[job.path] = str(result)
            log.error("%s", result)
        else:
            if not rates:
                write_json(output / RECORD_NAME, record)
            rates[job.row] = result
    if not rates:
        reason = next(iter(failures.values()), "the list is empty.")
        raise FileError(f"None of {n_inputs} micrographs could be denoised; the first reason: {reason}")
    done = [job for job in jobs if job.row in rates]
    names, pixel_sizes = [star_path(job.output) for job in done], [rates[job.row] for job in done]
    if table is None:
        table = new_table([job.path for job in jobs], pixel_sizes[0], 300.0, 2.7, 0.1)
    write_table(output / "micrographs.star", table.with_images([job.row for job in done], names, pixel_sizes))
    return Outcome(n_inputs, failures)


def _pipeline(
    jobs: Sequence[Job], predictor: Predictor, card: ModelCard, dtype: str
) -> Iterator[Tuple[Job, Union[float, CryodenError]]]:
    """Yield (job, sampling rate or error) in input order: one thread reads ahead, one writes behind."""
    normalization = card_normalization(card)
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        reading: List[Future] = [reader.submit(_read, job, card.sampling_rate) for job in jobs[:2]]
        writing: List[Tuple[Job, Future]] = []
        for position, job in enumerate(tqdm(jobs, unit="micrograph", desc="Denoising", disable=None)):
            read = reading.pop(0)
            if position + 2 < len(jobs):
                reading.append(reader.submit(_read, jobs[position + 2], card.sampling_rate))
            try:
                work = read.result()
                written = writer.submit(_write, work, _predict(work, predictor, normalization), dtype)
            except CryodenError as error:
                written = Future()
                written.set_exception(error)
            writing.append((job, written))
            if len(writing) > 2:
                yield _collect(*writing.pop(0))
        for job, written in writing:
            yield _collect(job, written)


def card_normalization(card: ModelCard) -> Normalization:
    """Return how a model wants its micrographs standardised.

    Raises
    ------
    ModelError
        If this version does not know it.
    """
    try:
        return Normalization(**card.normalization)
    except TypeError as error:
        raise ModelError(f"The model's normalisation {card.normalization} is unknown here; update cryoden.") from error


def _collect(job: Job, result: Future) -> Tuple[Job, Union[float, CryodenError]]:
    try:
        return job, result.result()
    except CryodenError as error:
        return job, error


def _read(job: Job, model_rate: float) -> Work:
    images, rate = [], 0.0
    for path in job.halves or (job.path,):
        image, header_rate = read_micrograph(path)
        from_rate = job.sampling_rate or header_rate
        if not from_rate:
            raise FileError(f"{path} does not say its pixel size; give it with --sampling-rate (A/px).")
        if from_rate > model_rate * (1 + SAME_RATE_TOLERANCE):
            raise ModelError(
                f"{path} has {from_rate:.4g} A/px, coarser than the {model_rate:.4g} A/px of the model; "
                "train a model at this or a coarser sampling rate."
            )
        image, rate = to_sampling_rate(image, from_rate, model_rate)
        images.append(image)
    if len({image.shape for image in images}) > 1:
        raise PairError(f"The halves of {job.path} differ in size; split its movie again.")
    return Work(job, images, rate)


def _predict(work: Work, predictor: Predictor, normalization: Normalization) -> np.ndarray:
    results = []
    for image in work.images:
        try:
            scale = measure_scale(image, normalization)
        except PixelError as error:
            raise PixelError(f"{work.job.path} cannot be used: {error}") from error
        predicted = predictor(torch.from_numpy(scale.standardize(image))).cpu().numpy()
        results.append(scale.restore(predicted))
    return results[0] if len(results) == 1 else np.mean(results, axis=0, dtype=np.float32)


def _write(work: Work, image: np.ndarray, dtype: str) -> float:
    if dtype == "float16" and np.abs(image).max() > np.finfo(np.float16).max:
        raise PixelError(f"{work.job.path} has values above 65504, too large for float16; write float32.")
    with whole_file(work.job.output) as temporary:
        write_image(temporary, image, work.rate, dtype)
    return work.rate


def _list_jobs(config: DenoiseConfig) -> Tuple[Optional[ImageTable], List[Job], Dict[str, str]]:
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
    failures: Dict[str, str] = {}
    written: Dict[str, str] = {}
    for row, path in enumerate(paths):
        name = mrc_name(path)
        if name in written:
            raise FileError(f"{written[name]} and {path} would both be written as {name}; rename one of them.")
        written[name] = path
        target = Path(config.output) / name
        halves = None
        if config.odd:
            stem = Path(path).stem
            if stem not in odd or stem not in even:
                where = config.odd if stem not in odd else config.even
                failures[path] = (
                    f"'{stem}' has no half in {where}; split its movie again, or leave out --odd and --even."
                )
                log.error("%s", failures[path])
                continue
            halves = (odd[stem], even[stem])
        for source in (path, *(halves or ())):
            if target.resolve() == Path(source).resolve():
                raise FileError(f"{source} would be overwritten by its denoised image; choose another --output folder.")
        rate = config.sampling_rate or (table.sampling_rate(row) if table else None)
        jobs.append(Job(row, path, halves, target, rate))
    return table, jobs, failures


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
    record: Dict[str, object] = {
        key: getattr(config, key) for key in ("odd", "even", "quality", "dtype", "sampling_rate")
    }
    record["model"] = {"network": card.network, "training": card.training}
    return record


def _guard_options(output: Path, config: DenoiseConfig, record: Dict[str, object]) -> bool:
    """Refuse to mix micrographs denoised in different ways in one folder; return whether a run is continued."""
    path = output / RECORD_NAME
    if config.overwrite or not path.is_file():
        return False
    if read_json(path) != json.loads(json.dumps(record)):
        raise FileError(
            f"{output} holds micrographs denoised with another model or other options ({path}); "
            "choose another --output folder, or give --overwrite."
        )
    return True
