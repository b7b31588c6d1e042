"""Images in, denoised images out: reading, computing and writing overlap, in input order and bounded memory."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Deque, Generator, Iterator, Optional, Sequence, Tuple, TypeVar, Union

import numpy as np
import torch
from torch.nn import functional

from cryoden.data.gpu_transfer import GpuTransfer, ready
from cryoden.data.loader_choice import free_bytes
from cryoden.data.normalize import GreyScale, Normalization, measure_scale, sample_rows
from cryoden.data.rescale import SAME_RATE_TOLERANCE, kept_frequencies, rescaled_rate, rescaled_shape
from cryoden.errors import CryodenError, DeviceError, FileError, ModelError, PairError, PixelError
from cryoden.formats.files import make_folder, whole_file
from cryoden.formats.images import open_micrograph
from cryoden.formats.mrc import MrcWriter, PixelStatistics
from cryoden.formats.pixels import file_context, require_image
from cryoden.formats.thumbnails import thumbnail_factor, thumbnail_path, write_thumbnail
from cryoden.model.predictor import Predictor

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
    output
        File to write.
    sampling_rate
        A/px where it is known better than from the header.
    """

    row: int
    path: str
    halves: Optional[Tuple[str, str]]
    output: Path
    sampling_rate: Optional[float]


@dataclass(frozen=True)
class Result:
    """How results are written.

    Attributes
    ----------
    dtype
        `float32` or `float16`.
    is_standardised
        Whether grey values stay as the network gives them: background 0, noise of the input 1.
    is_full_size
        Whether the image is Fourier-padded back to the pixel size of the input.
    thumbnails
        `none`, `png` or `jpeg`.
    """

    dtype: str = "float32"
    is_standardised: bool = False
    is_full_size: bool = False
    thumbnails: str = "none"


@dataclass(frozen=True)
class WrittenImage:
    """A result on disk: its pixel size in A/px, and the rows and columns of the micrograph that it was made from."""

    sampling_rate: float
    input_shape: Tuple[int, int]


@dataclass(frozen=True)
class _Image:
    """One image on its way: pixels on the device, at the model's pixel size, and their grey scale."""

    pixels: torch.Tensor
    scale: GreyScale


@dataclass(frozen=True)
class _LoadedMicrograph:
    """A micrograph on its way: its full image, or both halves; `shape` and `file_rate` are those of its file."""

    images: Tuple[_Image, ...]
    rate: float
    shape: Tuple[int, int]
    file_rate: float


def denoised(
    jobs: Sequence[Job], predictor: Predictor, model_rate: float, normalization: Normalization, result: Result
) -> Generator[Tuple[Job, Union[WrittenImage, CryodenError]], None, None]:
    """Denoise and write every micrograph; yield (job, what was written or why not) in input order.

    Parameters
    ----------
    jobs
        What to denoise. Folders are made as needed.
    predictor
        The network.
    model_rate
        A/px at which it was trained; micrographs are Fourier-cropped to it.
    normalization
        How it wants images standardised.
    result
        How results are written.
    """
    transfer = GpuTransfer(predictor.device)

    def compute(job: Job, micrograph: _LoadedMicrograph) -> Tuple[Any, ...]:
        with _enough_memory(job):
            prediction = _predict(micrograph, predictor, result)
        return job, micrograph, prediction, ready(prediction), result, transfer

    yield from overlapped(
        jobs,
        lambda job: _read(job, model_rate, normalization, transfer),
        compute,
        _write,
        threads_for(jobs, predictor.device),
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
        n_images = len(job.halves or (job.path,)) + 1  # read, and predicted
        n_bytes = free_bytes(device) * IN_HAND_SHARE
        return int(min(max(n_bytes // (4 * n_rows * n_columns * n_images) - 1, 1), N_THREADS))
    return 1


def overlapped(
    items: Sequence[Item],
    read: Callable[[Item], Loaded],
    compute: Callable[[Item, Loaded], Tuple[Any, ...]],
    write: Callable[..., Done],
    n_threads: int = 1,
) -> Generator[Tuple[Item, Union[Done, CryodenError]], None, None]:
    """Yield (item, what came of it or why nothing did) in order; reading, computing and writing overlap.

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
        For reading, and for writing; so many items, and one more, are held on either side.
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
            for _ in range(n_threads + 1):
                read_next()
            for item in items:
                loading = reading.popleft()
                wait([loading])
                read_next()
                try:
                    written = writers.submit(write, *compute(item, loading.result()))
                except CryodenError as error:
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
    """Let a micrograph fail, not the whole list, if it is too large for the GPU."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise DeviceError(
            f"The memory of the GPU does not suffice for {job.path}; free it and start again (finished micrographs are "
            "kept), or compute with --device cpu."
        ) from error


def _outcome(item: Item, written: Future) -> Tuple[Item, Union[Any, CryodenError]]:
    try:
        return item, written.result()
    except CryodenError as error:
        return item, error


# ---------------------------------------------------------------------- in the readers' threads
def _read(job: Job, model_rate: float, normalization: Normalization, transfer: GpuTransfer) -> _LoadedMicrograph:
    images, shapes, rate, from_rate = [], [], 0.0, 0.0
    for path in job.halves or (job.path,):
        stack = open_micrograph(path)
        if not (job.sampling_rate or stack.sampling_rate):
            raise FileError(f"{path} does not say its pixel size; give it with --sampling-rate (A/px).")
        from_rate = float(job.sampling_rate or stack.sampling_rate or 0)
        if from_rate > model_rate * (1 + SAME_RATE_TOLERANCE):
            raise ModelError(
                f"{path} has {from_rate:.4g} A/px, coarser than the {model_rate:.4g} A/px of the model; "
                "train a model at this or a coarser sampling rate."
            )
        shapes.append(stack.shape)
        shape = rescaled_shape(stack.shape, from_rate, model_rate)
        rate = rescaled_rate(stack.shape, from_rate, shape)
        with _enough_memory(job), transfer.stream(), file_context(path):
            pixels = transfer.upload(stack)
            require_image(*(float(extreme) for extreme in pixels.aminmax()))
            scale = _measured(pixels, normalization)  # saturated pixels are no longer equal at another pixel size
            if shape != stack.shape:
                pixels = fourier_resized(pixels, shape)
                scale = _measured(pixels, normalization)
        images.append(_Image(transfer.synchronize(pixels), scale))
    if len(set(shapes)) > 1:
        raise PairError(f"The halves of {job.path} differ in size; split its movie again.")
    return _LoadedMicrograph(tuple(images), rate, shapes[0], from_rate)


def _measured(pixels: torch.Tensor, normalization: Normalization) -> GreyScale:
    return measure_scale(pixels[:: sample_rows(_shape(pixels)).step].cpu().numpy(), normalization)


# ---------------------------------------------------------------------- between them
def _predict(micrograph: _LoadedMicrograph, predictor: Predictor, result: Result) -> torch.Tensor:
    total: Optional[torch.Tensor] = None
    for image in micrograph.images:
        prediction = predictor(image.scale.standardize(image.pixels))
        if not result.is_standardised:
            prediction = image.scale.restore(prediction)
        total = prediction if total is None else total + prediction
    assert total is not None
    return total / len(micrograph.images)


# ---------------------------------------------------------------------- in the writers' threads
def _write(
    job: Job,
    micrograph: _LoadedMicrograph,
    prediction: torch.Tensor,
    is_ready: Optional[torch.cuda.Event],
    result: Result,
    transfer: GpuTransfer,
) -> WrittenImage:
    make_folder(job.output.parent)
    shape, rate = _shape(prediction), micrograph.rate
    if result.is_full_size:
        shape, rate = micrograph.shape, micrograph.file_rate
    with _enough_memory(job), transfer.stream(is_ready):
        if result.thumbnails != "none":
            small = functional.avg_pool2d(prediction[None], thumbnail_factor(_shape(prediction)))[0]
            write_thumbnail(thumbnail_path(job.output, result.thumbnails), small.cpu().numpy())
        image = fourier_resized(prediction, shape)
        statistics = _statistics(image)
        if result.dtype == "float16":
            if max(-statistics.low, statistics.high) > np.finfo(np.float16).max:
                raise PixelError(f"{job.path} has values above 65504, too large for float16; write float32.")
            image = image.half()
        with whole_file(job.output) as file, MrcWriter(file, shape, rate, result.dtype, 1, statistics) as writer:
            for band in transfer.download(image):
                writer.write_rows(band)
    return WrittenImage(rate, micrograph.shape)


def _statistics(image: torch.Tensor) -> PixelStatistics:
    low, high = image.aminmax()
    variance, mean = torch.var_mean(image, correction=0)
    return PixelStatistics(float(low), float(high), float(mean), float(variance) ** 0.5)


def fourier_resized(image: torch.Tensor, shape: Tuple[int, int]) -> torch.Tensor:
    """Return an image `(y, x)` with fewer or more pixels over the same area; see `cryoden.data.rescale`."""
    if _shape(image) == shape:
        return image
    spectrum = torch.fft.rfft2(image)
    resized = spectrum.new_zeros((shape[0], shape[1] // 2 + 1))
    for to, source in kept_frequencies(_shape(image), shape):
        resized[to] = spectrum[source]
    return torch.fft.irfft2(resized, s=shape) * (shape[0] * shape[1] / image.numel())


def _shape(image: torch.Tensor) -> Tuple[int, int]:
    return int(image.shape[0]), int(image.shape[1])
