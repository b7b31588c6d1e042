"""Change the pixel size of a micrograph by cropping its Fourier transform."""

from __future__ import annotations

from typing import Optional, Tuple

import numpy as np
import scipy.fft

from cryoden.errors import OptionError

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
        raise OptionError(
            [
                f"The wanted sampling rate {to_rate:g} A/px is finer than the micrograph's {from_rate:g} A/px; "
                "it must be equal or coarser."
            ]
        )
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
    return _fourier_resized(image, shape, shape)


def fourier_pad(image: np.ndarray, shape: Tuple[int, int]) -> np.ndarray:
    """Return a float32 image of more pixels over the same area, mean kept: nothing is added beyond its Nyquist.

    Parameters
    ----------
    image
        `(y, x)`, rows and columns even.
    shape
        Rows and columns of the result, at least those of the image.
    """
    return _fourier_resized(image, shape, (image.shape[0], image.shape[1]))


def _fourier_resized(image: np.ndarray, shape: Tuple[int, int], kept: Tuple[int, int]) -> np.ndarray:
    """Return the image at another size; `kept` is the smaller of both."""
    if image.shape == tuple(shape):
        return image.astype(np.float32, copy=False)
    spectrum = scipy.fft.rfft2(image.astype(np.float32, copy=False), workers=-1)
    half, columns = kept[0] // 2, kept[1] // 2
    resized = np.zeros((shape[0], shape[1] // 2 + 1), dtype=spectrum.dtype)
    resized[:half, :columns] = spectrum[:half, :columns]
    resized[shape[0] - half + 1 :, :columns] = spectrum[image.shape[0] - half + 1 :, :columns]
    result = scipy.fft.irfft2(resized, s=shape, workers=-1)
    return (result * (shape[0] * shape[1] / image.size)).astype(np.float32)


def to_sampling_rate(image: np.ndarray, from_rate: float, to_rate: Optional[float]) -> Tuple[np.ndarray, float]:
    """Return the image at a coarser sampling rate and the rate that this gives exactly (A/px along x)."""
    shape = rescaled_shape((image.shape[0], image.shape[1]), from_rate, to_rate or from_rate)
    if shape == image.shape:
        return image, from_rate
    return fourier_crop(image, shape), from_rate * image.shape[1] / shape[1]
