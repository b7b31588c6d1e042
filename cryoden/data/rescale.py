"""Change the pixel size of a micrograph by cropping its Fourier transform."""

from __future__ import annotations

from typing import Iterator, Tuple

import numpy as np

from cryoden.errors import OptionError, option_problem

Block = Tuple[slice, slice]
"""Rows and columns."""

SAME_RATE_TOLERANCE = 0.01
"""Sampling rates that differ by less than 1 % count as equal (a magnification is not known better)."""


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
        finer = f"is {to_rate:g} A/px, finer than the micrograph's {from_rate:g} A/px; it must be equal or coarser."
        raise OptionError([option_problem("sampling_rate", finer)])
    if to_rate <= from_rate * (1 + SAME_RATE_TOLERANCE):
        return shape
    rows, columns = (2 * max(1, round(n * from_rate / to_rate / 2)) for n in shape)
    return rows, columns


def fourier_crop(image: np.ndarray, shape: Tuple[int, int]) -> np.ndarray:
    """Return a float32 image of fewer pixels over the same area, mean kept.

    Parameters
    ----------
    image
        `(y, x)`.
    shape
        Even rows and columns of the result, at most those of the image; its Nyquist rows are left empty.
    """
    image = image.astype(np.float32, copy=False)
    if image.shape == tuple(shape):
        return image
    import scipy.fft  # when it is asked for: it takes as long to load as a micrograph to denoise

    spectrum = scipy.fft.rfft2(image, workers=-1)
    cropped = np.zeros((shape[0], shape[1] // 2 + 1), dtype=spectrum.dtype)
    for to, source in kept_frequencies((image.shape[0], image.shape[1]), shape):
        cropped[to] = spectrum[source]
    result = scipy.fft.irfft2(cropped, s=shape, workers=-1)
    return (result * (shape[0] * shape[1] / image.size)).astype(np.float32)


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
