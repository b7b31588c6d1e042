"""PSNR and SSIM against the noisy half: asked for by the specification, and misleading alone.

The half is noisy itself, so that even the clean image scores low. Each number therefore comes with three rows: the
ceiling (a perfect denoiser), a constant image, and the unprocessed other half (identity).
"""

from __future__ import annotations

from typing import Dict

import numpy as np
from skimage.metrics import structural_similarity

from cryoden.quality.metrics import FA, FB, A, B

SSIM_SIDE = 512
"""Side in pixels of the central cut-out on which SSIM is computed."""


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
    return {name: float(-10 * np.log10(error / data_range**2)) for name, error in errors.items()}


def ssim_rows(odd: np.ndarray, even: np.ndarray, denoised_odd: np.ndarray, data_range: float) -> Dict[str, float]:
    """Return SSIM against the even half of the denoised odd half, the ceiling, a constant image and the identity.

    The ceiling is what the prediction would score if it were the truth: its SSIM with itself plus noise of the measured
    variance. Images are `(y, x)`; the central `SSIM_SIDE` pixels are used.
    """
    place = tuple(
        slice(max(0, (side - SSIM_SIDE) // 2), max(0, (side - SSIM_SIDE) // 2) + SSIM_SIDE) for side in odd.shape
    )
    a, b, f = (image[place].astype(np.float64) for image in (odd, even, denoised_odd))
    deviation = np.sqrt(np.mean((a - b - np.mean(a - b)) ** 2) / 2)
    noisy_prediction = f + np.random.default_rng(0).normal(0.0, deviation, f.shape)
    pairs = {
        "denoised": (f, b),
        "ceiling": (f, noisy_prediction),
        "constant": (np.full_like(b, b.mean()), b),
        "identity": (a, b),
    }
    return {name: float(structural_similarity(x, y, data_range=data_range)) for name, (x, y) in pairs.items()}
