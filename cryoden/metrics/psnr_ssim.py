"""PSNR and SSIM against the noisy half: asked for by the specification, and misleading alone.

The half is noisy itself, so that even the clean image scores low. Each number therefore comes with three rows: the
ceiling (a perfect denoiser), a constant image, and the unprocessed other half (identity).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Dict, List, Optional, Tuple, TypeVar

import numpy as np
from skimage.metrics import structural_similarity

from cryoden.metrics.ring_covariance import FA, FB, A, B, psnr

Pixels = TypeVar("Pixels", bound=Any)
"""A NumPy array or a PyTorch tensor: both can be sliced."""

SSIM_SIDE = 512
"""Side in pixels of the central cut-out on which SSIM is computed."""

_LINES: Dict[str, Dict[str, Tuple[float, float]]] = {
    "PSNR": {"> 18 dB": (18.0, np.inf), "20-21 dB": (20.0, 21.0), "> 21 dB": (21.0, np.inf)},
    "SSIM": {"> 0.8": (0.8, np.inf), "> 0.85": (0.85, np.inf)},
}
"""Verdicts that the specification asks for: words, above which value, up to which."""


def psnr_rows(covariance: np.ndarray, data_range: float) -> Dict[str, float]:
    """Return PSNR in dB of the denoiser, the ceiling, a constant image and the identity.

    Parameters
    ----------
    covariance
        `(4, 4)` covariance matrix of (a, b, f(a), f(b)) over all frequencies.
    data_range
        In the units of the images.
    """
    c = covariance
    noise = (c[A, A] + c[B, B] - 2 * c[A, B]) / 2
    errors = {
        "denoised": (c[FA, FA] - 2 * c[FA, B] + c[B, B] + c[FB, FB] - 2 * c[FB, A] + c[A, A]) / 2,
        "ceiling": noise,
        "constant": (c[A, A] + c[B, B]) / 2,
        "identity": 2 * noise,
    }
    return {name: psnr(error, data_range) for name, error in errors.items()}


def ssim_rows(odd: np.ndarray, even: np.ndarray, denoised_odd: np.ndarray, data_range: float) -> Dict[str, float]:
    """Return SSIM against the even half of the denoised odd half, the ceiling, a constant image and the identity.

    Images are `(y, x)`; the central `SSIM_SIDE` pixels are used.
    """
    a, b, f = (centre(image, SSIM_SIDE).astype(np.float64) for image in (odd, even, denoised_odd))
    denoised, ceiling = ssim_and_ceiling(a, b, f, data_range)
    constant, identity = ssim_of_constant_and_identity(a, b, data_range)
    return {"denoised": denoised, "ceiling": ceiling, "constant": constant, "identity": identity}


def ssim_and_ceiling(a: np.ndarray, b: np.ndarray, f: np.ndarray, data_range: float) -> Tuple[float, float]:
    """Return SSIM of the prediction `f` (of half `a`) with half `b`, and the ceiling.

    The ceiling is what the prediction would score if it were the truth: its SSIM with itself plus noise of the variance
    that the halves have.
    """
    deviation = np.sqrt(np.mean((a - b - np.mean(a - b)) ** 2) / 2)
    noisy_prediction = f + np.random.default_rng(0).normal(0.0, deviation, f.shape).astype(f.dtype)
    return (
        float(structural_similarity(f, b, data_range=data_range)),
        float(structural_similarity(f, noisy_prediction, data_range=data_range)),
    )


def ssim_of_constant_and_identity(a: np.ndarray, b: np.ndarray, data_range: float) -> Tuple[float, float]:
    """Return SSIM with half `b` of its own mean everywhere, and of half `a`."""
    return (
        float(structural_similarity(np.full_like(b, b.mean()), b, data_range=data_range)),
        float(structural_similarity(a, b, data_range=data_range)),
    )


def centre(image: Pixels, side: int) -> Pixels:
    """Return the central cut-out of `side` pixels, smaller where the image `(..., y, x)`, NumPy or PyTorch, is."""
    rows, columns = (slice(max(0, (n - side) // 2), max(0, (n - side) // 2) + side) for n in image.shape[-2:])
    return image[..., rows, columns]


@dataclass(frozen=True)
class Verdict:
    """One line of the specification: what is wanted, what was reached, and what the noise allows.

    Attributes
    ----------
    quantity, wanted
        `PSNR` or `SSIM`; the line's words.
    value, ceiling, constant
        Of the denoiser, of a perfect one, and of a constant image.
    is_reached, is_possible
        Whether the denoiser, and whether any denoiser, lies where it is wanted.
    text
        The same as a sentence.
    """

    quantity: str
    wanted: str
    value: float
    ceiling: float
    constant: float
    is_reached: bool
    is_possible: bool
    text: str

    @property
    def is_exceeded(self) -> bool:
        """Whether the denoiser lies above what is wanted."""
        return self.value > _LINES[self.quantity][self.wanted][1]


def verdicts(psnr_dB: Optional[Dict[str, float]], ssim: Optional[Dict[str, float]]) -> List[Verdict]:
    """Return the specification's lines: each with its threshold, what was reached, and what the noise allows.

    Parameters
    ----------
    psnr_dB, ssim
        Rows of `psnr_rows` and `ssim_rows`; None where there is no data range (zero-mean micrographs).
    """
    found = []
    for quantity, rows in (("PSNR", psnr_dB), ("SSIM", ssim)):
        for wanted, (low, high) in _LINES[quantity].items():
            if rows is None:
                continue
            numbers = (rows["denoised"], rows["ceiling"], rows["constant"])
            is_reached, is_possible = low < rows["denoised"] <= high, rows["ceiling"] > low
            line = Verdict(quantity, wanted, *numbers, bool(is_reached), bool(is_possible), "")
            found.append(replace(line, text=_sentence(line)))
    return found


def _sentence(line: Verdict) -> str:
    unit, digits = (" dB", 2) if line.quantity == "PSNR" else ("", 3)
    value, ceiling, constant = (f"{number:.{digits}f}{unit}" for number in (line.value, line.ceiling, line.constant))
    verdict = "reached" if line.is_reached else "exceeded" if line.is_exceeded else "not reached"
    if not line.is_possible:
        allows = f"no denoiser can: the noise of the half allows {ceiling} at most"
    elif line.constant > line.value:
        allows = f"the noise allows {ceiling}; a constant image scores {constant}, more than this denoiser"
    else:
        allows = f"the noise allows {ceiling}; a constant image scores {constant}"
    return f"{line.quantity} {line.wanted}: {verdict} ({value}); {allows}."
