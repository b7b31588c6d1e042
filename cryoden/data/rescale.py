"""Change the pixel size of a micrograph by cropping or padding its Fourier transform."""

from __future__ import annotations

from typing import Any, Callable, Iterator, Tuple, TypeVar

import numpy as np

from cryoden.errors import OptionError, option_problem

Block = Tuple[slice, slice]
"""Rows and columns."""

Pixels = TypeVar("Pixels", bound=Any)
"""A NumPy array or a PyTorch tensor."""

SAME_RATE_TOLERANCE = 0.01
"""Sampling rates that differ by less than 1 % count as equal (a magnification is not known better)."""


def _rfft2(image: np.ndarray) -> np.ndarray:
    import scipy.fft  # when it is asked for: it takes as long to load as a micrograph to denoise

    return scipy.fft.rfft2(image, workers=-1)


def _irfft2(spectrum: np.ndarray, s: Tuple[int, int]) -> np.ndarray:
    import scipy.fft

    return scipy.fft.irfft2(spectrum, s=s, workers=-1)


def rescaled_shape(shape: Tuple[int, int], from_rate: float, to_rate: float) -> Tuple[int, int]:
    """Return rows and columns (even numbers) of an image brought from one sampling rate to a coarser one.

    Parameters
    ----------
    shape
        Rows and columns at `from_rate`.
    from_rate, to_rate
        A/px.

    Raises
    ------
    OptionError
        If the wanted pixels are finer than those of the image.
    """
    if to_rate < from_rate * (1 - SAME_RATE_TOLERANCE):
        finer = f"is {to_rate:g} Å/px, finer than the micrograph's {from_rate:g} Å/px; it must be equal or coarser."
        raise OptionError([option_problem("sampling_rate", finer)])
    if to_rate <= from_rate * (1 + SAME_RATE_TOLERANCE):
        return shape
    rows, columns = (2 * max(1, round(n * from_rate / to_rate / 2)) for n in shape)
    return rows, columns


def fourier_crop(image: np.ndarray, shape: Tuple[int, int]) -> np.ndarray:
    """Return a micrograph, float32, with fewer pixels over the same area; see `fourier_resized`."""
    return fourier_resized(image.astype(np.float32, copy=False), shape)


def fourier_resized(
    image: Pixels,
    shape: Tuple[int, int],
    rfft2: Callable[..., Any] = _rfft2,
    irfft2: Callable[..., Any] = _irfft2,
) -> Pixels:
    """Return an image with fewer or more pixels over the same area, mean kept.

    Parameters
    ----------
    image
        `(y, x)`, an array, or a tensor with the transforms of PyTorch.
    shape
        Rows and columns of the result. Those of the smaller of both are even, and its Nyquist frequencies are empty.
    rfft2, irfft2
        The Fourier transform and its inverse.
    """
    from_shape = (int(image.shape[0]), int(image.shape[1]))
    if from_shape == tuple(shape):
        return image

    spectrum = rfft2(image)
    half_plane = (shape[0], shape[1] // 2 + 1)
    is_array = isinstance(spectrum, np.ndarray)
    resized = np.zeros(half_plane, spectrum.dtype) if is_array else spectrum.new_zeros(half_plane)
    for to, source in kept_frequencies(from_shape, shape):
        resized[to] = spectrum[source]

    # The transforms divide by the number of pixels: by that of the result on the way back.
    result = irfft2(resized, s=shape)
    result *= shape[0] * shape[1] / (from_shape[0] * from_shape[1])
    return result


def kept_frequencies(from_shape: Tuple[int, int], to_shape: Tuple[int, int]) -> Iterator[Tuple[Block, Block]]:
    """Yield which blocks of an image's half spectrum (that of `rfft2`) become which blocks of another size's.

    Parameters
    ----------
    from_shape, to_shape
        Rows and columns of both images; those of the smaller one are even, and its Nyquist frequencies are left out.

    Yields
    ------
    to, source
        Where to write, and what.
    """
    half, columns = (min(sides) // 2 for sides in zip(from_shape, to_shape))
    yield (slice(half), slice(columns)), (slice(half), slice(columns))
    to, source = (slice(n_rows - half + 1, n_rows) for n_rows in (to_shape[0], from_shape[0]))
    yield (to, slice(columns)), (source, slice(columns))


def rescaled_rate(shape: Tuple[int, int], from_rate: float, new_shape: Tuple[int, int]) -> float:
    """Return the A/px (along x) of an image that has another shape over the same area."""
    return from_rate * shape[1] / new_shape[1]
