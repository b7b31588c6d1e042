"""Every picture; matplotlib is imported inside, torch never."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple, cast

import numpy as np
import scipy.fft

from cryoden.data.rescale import fourier_crop
from cryoden.errors import FileError
from cryoden.formats.files import PathLike, whole_file
from cryoden.formats.images import read_micrograph

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GREY_PERCENTILES = (0.5, 99.5)
"""Grey range of displayed images: what looks right without touching anything."""

DISPLAY_SIDE = 1024
"""Longest side in pixels at which images are drawn: a screen shows no more."""


def read_log(path: PathLike) -> List[Dict[str, Any]]:
    """Return the records of a training's `log.jsonl`, one for each epoch.

    Raises
    ------
    FileError
        If the log is not there or damaged.
    """
    try:
        return [json.loads(line) for line in Path(path).read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise FileError(f"Training log {path} cannot be read ({error}); has the first epoch ended?") from error


def draw_curves(records: Sequence[Dict[str, Any]], path: PathLike) -> None:
    """Write the loss and R2 curves of a training as PNG."""
    _save(lambda figure: plot_curves(figure, records), (9, 4), path)


def plot_curves(figure: Figure, records: Sequence[Dict[str, Any]]) -> None:
    """Draw the losses on the left and the held-out R2 on the right, the best epoch marked."""
    epochs = [record["epoch"] for record in records]
    losses, quality = cast(Any, figure.subplots(1, 2))
    losses.plot(epochs, [record["loss"] for record in records], "o-", ms=3, label="training")
    losses.plot(epochs, [record["validation_loss"] for record in records], "o-", ms=3, label="held out")
    losses.set(xlabel="epoch", ylabel="mean squared error (half against half)", title="Loss: mostly noise")
    losses.legend()
    r2 = [record["r2"] for record in records]
    best = int(np.argmax(r2))
    quality.plot(epochs, r2, "o-", ms=3, color="tab:green")
    quality.plot(
        epochs[best],
        r2[best],
        "*",
        ms=14,
        color="tab:red",
        label=f"best: {r2[best]:.3f}, epoch {epochs[best]}",
    )
    low = min(r2)
    quality.set(xlabel="epoch", ylabel="$R^2$ on held-out micrographs", title="Explained signal, 300-8 A")
    quality.set_ylim(max(low, min(0.0, r2[best]) - 1.0) - 0.02, max(r2[best] * 1.15, 0.02))
    quality.legend(loc="lower right")
    for axes in (losses, quality):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)


def draw_files(first: PathLike, second: PathLike, names: Tuple[str, str], path: PathLike, title: str = "") -> None:
    """Write two micrograph files side by side, their difference and power spectra as PNG; see `plot_files`."""
    _save(lambda figure: plot_files(figure, first, second, names, title), (15, 9.5), path)


def plot_files(figure: Figure, first: PathLike, second: PathLike, names: Tuple[str, str], title: str = "") -> None:
    """Draw two micrograph files as `plot_comparison` does, the first brought to the pixels of the second.

    Raises
    ------
    CryodenError
        If a file cannot be read.
    """
    (image, _), (reference, sampling_rate) = read_micrograph(first), read_micrograph(second)
    shape = (reference.shape[0], reference.shape[1])
    plot_comparison(figure, fourier_crop(image, shape), reference, sampling_rate or 1.0, title, names)


def plot_comparison(
    figure: Figure,
    first: np.ndarray,
    second: np.ndarray,
    sampling_rate: float,
    title: str = "",
    names: Tuple[str, str] = ("raw", "denoised"),
) -> None:
    """Draw first | second | difference above both power spectra and their radial profiles.

    Parameters
    ----------
    figure
        An empty matplotlib figure.
    first, second
        Images of one shape `(y, x)`, in one grey scale.
    sampling_rate
        A/px of both.
    title
        Of the whole figure.
    names
        What the images are.
    """
    axes: Any = figure.subplots(2, 3)
    extent = (0.0, first.shape[1] * sampling_rate / 10, 0.0, first.shape[0] * sampling_rate / 10)
    for place, image, name in zip(axes[0], (first, second, first - second), (*names, " - ".join(names))):
        _show(place, image, name, extent)
    profiles = []
    for place, image, name in zip(axes[1], (first, second), names):
        spectrum, frequency, profile = power_spectrum(image, sampling_rate)
        nyquist = 0.5 / sampling_rate
        place.imshow(
            spectrum, cmap="gray", origin="lower", extent=(-nyquist, nyquist, -nyquist, nyquist),
            **_grey_range(spectrum, (1, 99.7)),
        )  # fmt: skip
        place.set(title=f"power spectrum, {name} (log)", xlabel="1/A", ylabel="1/A")
        profiles.append((name, frequency, profile))
    for name, frequency, profile in profiles:
        axes[1, 2].semilogy(frequency[1:], profile[1:], label=name)
    axes[1, 2].set(title="radial mean of the power", xlabel="spatial frequency (1/A)", ylabel="power")
    axes[1, 2].grid(alpha=0.3)
    axes[1, 2].legend()
    if title:
        figure.suptitle(title)


def power_spectrum(image: np.ndarray, sampling_rate: float) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the smoothed logarithm of the power spectrum, and its radial mean.

    The spectrum is the mean over half-overlapping windows (Welch 1967), without which Thon rings drown in speckle.

    Returns
    -------
    log_power
        `(side, side)`, zero frequency in the centre.
    frequency
        1/A, `(side // 2,)`.
    profile
        Mean power at these frequencies.
    """
    side = min(256, *image.shape)
    window = np.outer(np.hanning(side), np.hanning(side)).astype(np.float32)
    power = np.zeros((side, side))
    for y in _starts(image.shape[0], side):
        for x in _starts(image.shape[1], side):
            cut = image[y : y + side, x : x + side]
            power += np.abs(scipy.fft.fft2((cut - cut.mean()) * window)) ** 2
    power = scipy.fft.fftshift(power)
    coordinate = np.arange(side) - side // 2
    ring = np.rint(np.hypot(coordinate[:, None], coordinate[None, :])).astype(int).ravel()
    profile = np.bincount(ring, power.ravel())[: side // 2] / np.bincount(ring)[: side // 2]
    return np.log10(power + 1e-30), np.arange(side // 2) / (side * sampling_rate), profile


def _starts(length: int, side: int) -> List[int]:
    return list(range(0, length - side + 1, max(side // 2, 1)))


def _show(axes: Any, image: np.ndarray, title: str, extent: Tuple[float, float, float, float]) -> None:
    longest = max(image.shape)
    if longest > DISPLAY_SIDE:
        rows, columns = (2 * max(1, round(side * DISPLAY_SIDE / longest / 2)) for side in image.shape)
        image = fourier_crop(image, (rows, columns))
    axes.imshow(image, cmap="gray", origin="lower", extent=extent, **_grey_range(image, GREY_PERCENTILES))
    axes.set(title=title, xlabel="nm", ylabel="nm")


def _grey_range(image: np.ndarray, percentiles: Tuple[float, float]) -> Dict[str, Optional[float]]:
    low, high = np.percentile(image, percentiles)
    return {"vmin": float(low), "vmax": float(high)}


def _save(plot: Any, size_inches: Tuple[float, float], path: PathLike) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size_inches, layout="constrained")
    FigureCanvasAgg(figure)
    plot(figure)
    with whole_file(path) as temporary:
        figure.savefig(str(temporary), format="png", dpi=110)
