"""Images in, denoised images out: reading, computing and writing overlap, in input order and bounded memory."""

from __future__ import annotations

import traceback
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import (
    Any,
    Callable,
    ContextManager,
    Deque,
    Dict,
    Generator,
    Iterator,
    List,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
    Union,
)

import numpy as np
import torch
from torch.nn import functional

from cryoden.data.gpu_transfer import GpuTransfer, ready
from cryoden.errors import CryodenError, DeviceError, FileError, PairError, PixelError, Remedy
from cryoden.formats.files import make_folder, whole_file
from cryoden.formats.images import open_micrograph
from cryoden.formats.mrc import MrcWriter, PixelStatistics
from cryoden.formats.pixels import file_context
from cryoden.formats.run_record import Result
from cryoden.formats.thumbnails import thumbnail_factor, write_thumbnail
from cryoden.metrics.unusual_micrographs import Look, block_size, look_at
from cryoden.model.denoiser import ModelDenoiser, ScaledImage, resized, shape_of
from cryoden.model.devices import free_bytes
from cryoden.model.predictor import is_out_of_memory
from cryoden.system.progress import Tell, part_of

N_THREADS = 3
"""Micrographs that are read, and that are written, beside the one that a GPU works on; each in its own thread."""

IN_HAND_SHARE = 0.25
"""Share of the GPU's free memory for images that wait for the network or to be written."""

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
Done = TypeVar("Done")


@dataclass(frozen=True)
class Job:
    """One micrograph to denoise.

    Attributes
    ----------
    row
        Its place in the list.
    path
        Its file.
    halves
        Files of its halves: then the mean of both predictions is the result.
    name
        Of its result: its place in the output folder.
    output
        File to write.
    sampling_rate
        A/px where it is known better than from the header.
    thumbnail
        Picture to write beside it, where one is wanted.
    """

    row: int
    path: str
    halves: Optional[Tuple[str, str]]
    name: str
    output: Path
    sampling_rate: Optional[float]
    thumbnail: Optional[Path] = None

    @property
    def inputs(self) -> Tuple[str, ...]:
        """Files that are denoised."""
        return self.halves or (self.path,)

    @property
    def result(self) -> Result:
        """What it leaves, as it is recorded."""
        files = (self.output,) if self.thumbnail is None else (self.output, self.thumbnail)
        return Result(self.name, files, self.inputs)


@dataclass(frozen=True)
class OutputFormat:
    """How results are written.

    Attributes
    ----------
    dtype
        `float32` or `float16`.
    is_standardised
        Whether grey values stay as the network gives them: background 0, noise of the input 1.
    is_full_size
        Whether the image is Fourier-padded back to the pixel size of the input.
    """

    dtype: str = "float32"
    is_standardised: bool = False
    is_full_size: bool = False


@dataclass(frozen=True)
class WrittenImage:
    """A result on disk.

    Attributes
    ----------
    sampling_rate
        A/px.
    input_shape
        Rows and columns of the micrograph that it was made from.
    look
        What there is to see of it, where the general model denoised it.
    """

    sampling_rate: float
    input_shape: Tuple[int, int]
    look: Optional[Look] = None


@dataclass(frozen=True)
class _LoadedMicrograph:
    """A micrograph on its way: its full image, or both halves; `shape` and `file_rate` are those of its file."""

    images: Tuple[ScaledImage, ...]
    shape: Tuple[int, int]
    file_rate: float


def denoised(
    jobs: Sequence[Job],
    denoiser: ModelDenoiser,
    output_format: OutputFormat,
    recording: Callable[[Job], ContextManager[Dict[str, Any]]] = lambda job: nullcontext({}),
    tell: Callable[[Job, float], None] = lambda job, share: None,
) -> Generator[Tuple[Job, Union[WrittenImage, Exception]], None, None]:
    """Denoise and write every micrograph; yield (job, what was written or why not) in input order.

    Parameters
    ----------
    jobs
        What to denoise. Folders are made as needed.
    denoiser
        Of a model file. Micrographs are Fourier-cropped to its pixel size.
    output_format
        How results are written.
    recording
        Returns the context in which a result is written; it gives a dictionary for what is known of the result then.
    tell
        Is called with how much of a micrograph is denoised, 0 to 1.
    """
    transfer = GpuTransfer(denoiser.device)
    folders = lru_cache(maxsize=None)(make_folder)  # a folder is proved to be writable once

    def compute(job: Job, micrograph: _LoadedMicrograph) -> Tuple[Any, ...]:
        with _enough_memory(job):
            prediction = _predict(micrograph, denoiser, output_format, partial(tell, job))
        return job, micrograph, prediction, ready(prediction), denoiser, output_format, transfer

    def write(job: Job, *arguments: Any) -> WrittenImage:
        folders(job.output.parent)
        with recording(job) as facts:
            image = _write(job, *arguments)
            facts["sampling_rate"] = image.sampling_rate
        return image

    yield from overlapped(
        jobs,
        lambda job: _read(job, denoiser, transfer),
        compute,
        write,
        threads_for(jobs, denoiser.device),
    )


def threads_for(jobs: Sequence[Job], device: torch.device) -> int:
    """Return how many threads read, and how many write: fewer where the GPU cannot hold what they have in hand."""
    if device.type != "cuda":
        return 1
    for job in jobs:
        try:
            n_rows, n_columns = open_micrograph(job.path).shape
        except CryodenError:
            continue  # it will be named when its turn comes
        n_images = len(job.inputs) + 1  # read, and predicted
        n_bytes = free_bytes(device) * IN_HAND_SHARE
        return int(min(max(n_bytes // (4 * n_rows * n_columns * n_images) - 1, 1), N_THREADS))
    return 1


def overlapped(
    items: Sequence[Item],
    read: Callable[[Item], Loaded],
    compute: Callable[[Item, Loaded], Tuple[Any, ...]],
    write: Callable[..., Done],
    n_threads: int = 1,
    look_ahead: Optional[Callable[[List[Loaded]], None]] = None,
    n_ahead: int = 1,
) -> Generator[Tuple[Item, Union[Done, Exception]], None, None]:
    """Yield (item, what came of it or why nothing did) in order; reading, computing and writing overlap.

    Whatever goes wrong with an item, foreseen or not, is that item's failure, and the others go on.

    Parameters
    ----------
    items
        What to work on.
    read
        Loads an item; runs ahead, in threads.
    compute
        Makes the arguments of `write` of an item and what was loaded; runs in the thread that iterates.
    write
        Runs behind, in threads; what it returns is yielded.
    n_threads
        For reading, and for writing; so many items, and `n_ahead` more, are held on either side.
    look_ahead
        Is shown what was loaded of the next `n_ahead` items before the first of them is computed. What it raises ends
        everything.
    """
    reading: Deque[Future] = deque()
    writing: Deque[Tuple[Item, Future]] = deque()
    coming = iter(items)

    def read_next() -> None:
        for item in coming:
            reading.append(readers.submit(read, item))
            return

    with ThreadPoolExecutor(n_threads) as readers, ThreadPoolExecutor(n_threads) as writers:
        try:
            for _ in range(n_threads + n_ahead):
                read_next()

            for number, item in enumerate(items):
                if look_ahead is not None and number % n_ahead == 0:
                    next_ones = list(islice(reading, n_ahead))
                    wait(next_ones)
                    look_ahead([loading.result() for loading in next_ones if loading.exception() is None])
                    del next_ones

                loading = reading.popleft()
                wait([loading])
                read_next()
                try:
                    written = writers.submit(write, *compute(item, loading.result()))
                except Exception as error:
                    written = Future()
                    written.set_exception(error)
                del loading

                writing.append((item, written))
                if len(writing) > n_threads:
                    yield _outcome(*writing.popleft())
            while writing:
                yield _outcome(*writing.popleft())
        finally:
            for future in reading:
                future.cancel()


@contextmanager
def _enough_memory(job: Job) -> Iterator[None]:
    """Let a micrograph fail, not the whole list, if it is too large for the memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold images, for which the next micrograph has a use
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise DeviceError(
                f"The memory of the GPU does not suffice for {job.path}; free some, or compute on the CPU.",
                subject=job.path,
                remedy=Remedy("set_to", "device", "cpu"),
            ) from error
        raise DeviceError(
            f"The memory does not suffice for {job.path}; free some.", subject=job.path, remedy=Remedy("continue")
        ) from error


def _outcome(item: Item, written: Future) -> Tuple[Item, Union[Any, Exception]]:
    try:
        return item, written.result()
    except Exception as error:
        return item, error


# ---------------------------------------------------------------------- in the readers' threads
def _read(job: Job, denoiser: ModelDenoiser, transfer: GpuTransfer) -> _LoadedMicrograph:
    images: List[ScaledImage] = []
    shapes = []
    rate = 0.0
    for path in job.inputs:
        stack = open_micrograph(path)
        if not (job.sampling_rate or stack.sampling_rate):
            raise FileError(f"{path} does not say its pixel size.", subject=path, remedy=Remedy("set", "sampling_rate"))
        rate = float(job.sampling_rate or stack.sampling_rate or 0)
        denoiser.require_rate(path, rate)
        shapes.append(stack.shape)

        with _enough_memory(job), transfer.stream(), file_context(path):
            image = denoiser.scaled(transfer.upload(stack), rate)
            transfer.synchronize(image.pixels)
        images.append(image)
    if len(set(shapes)) > 1:
        raise PairError(f"The halves of {job.path} differ in size; split its movie again.", subject=job.path)
    return _LoadedMicrograph(tuple(images), shapes[0], rate)


# ---------------------------------------------------------------------- between them
def _predict(
    micrograph: _LoadedMicrograph, denoiser: ModelDenoiser, output_format: OutputFormat, tell: Tell
) -> torch.Tensor:
    total: Optional[torch.Tensor] = None
    for number, image in enumerate(micrograph.images):
        told = part_of(tell, number, len(micrograph.images))
        prediction = denoiser.predict(image, output_format.is_standardised, told)
        total = prediction if total is None else total + prediction
    assert total is not None
    return total / len(micrograph.images)


# ---------------------------------------------------------------------- in the writers' threads
def _write(
    job: Job,
    micrograph: _LoadedMicrograph,
    prediction: torch.Tensor,
    is_ready: Optional[torch.cuda.Event],
    denoiser: ModelDenoiser,
    output_format: OutputFormat,
    transfer: GpuTransfer,
) -> WrittenImage:
    shape, rate = shape_of(prediction), micrograph.images[0].sampling_rate
    if output_format.is_full_size:
        shape, rate = micrograph.shape, micrograph.file_rate

    with _enough_memory(job), transfer.stream(is_ready):
        look = _look_at(micrograph.images[0], prediction, output_format) if denoiser.card.is_general else None
        image = resized(prediction, shape)
        statistics = _statistics(image)
        denoiser.require_finite(job.path, statistics.low, statistics.high, statistics.mean, statistics.deviation)

        if job.thumbnail is not None:
            small = functional.avg_pool2d(prediction[None], thumbnail_factor(shape_of(prediction)))[0]
            write_thumbnail(job.thumbnail, small.cpu().numpy())

        if output_format.dtype == "float16":
            if max(-statistics.low, statistics.high) > np.finfo(np.float16).max:
                raise PixelError(
                    f"{job.path} has values above 65504, too large for float16.",
                    subject=job.path,
                    remedy=Remedy("set_to", "dtype", "float32"),
                )
            image = image.half()
        with whole_file(job.output) as file, MrcWriter(file, shape, rate, output_format.dtype, 1, statistics) as writer:
            for band in transfer.download(image):
                writer.write_rows(band)
    return WrittenImage(rate, micrograph.shape, look)


def _look_at(image: ScaledImage, prediction: torch.Tensor, output_format: OutputFormat) -> Look:
    standard = image.scale.standardize(image.pixels)
    denoised = prediction if output_format.is_standardised else image.scale.standardize(prediction)
    block = min(block_size(image.sampling_rate), *standard.shape)
    coarse, coarsely_denoised = (
        functional.avg_pool2d(pixels[None], block)[0].cpu().numpy() for pixels in (standard, denoised)
    )
    variances = float(denoised.var()), float(standard.var())
    return look_at(coarse, coarsely_denoised, image.sampling_rate, variances)


def _statistics(image: torch.Tensor) -> PixelStatistics:
    low, high = image.aminmax()
    variance, mean = torch.var_mean(image, correction=0)
    return PixelStatistics(float(low), float(high), float(mean), float(variance) ** 0.5)
