"""Every picture; matplotlib is imported inside, torch never."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

import numpy as np
import scipy.fft
import scipy.ndimage

from cryoden.data.rescale import fourier_crop
from cryoden.formats.files import PathLike, whole_file
from cryoden.formats.images import read_micrograph
from cryoden.movies.fixed_pattern import FixedPattern
from cryoden.movies.hot_pixels import find_by_deviations

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GREY_PERCENTILES = (0.5, 99.5)
"""Grey range of displayed images: what looks right without touching anything."""

RING_PERCENTILES = (1.0, 99.5)
"""Grey range of power spectra: the middle may be white."""

OUTLIER_DEVIATIONS = 8.0
"""From which a pixel of a fixed pattern is circled."""

MAX_CIRCLES = 500
"""More are no circles any more."""

BARS_NM = tuple(digit * 10.0**power for power in range(-1, 4) for digit in (1, 2, 5))
"""Round lengths of scale bars."""

BAR_SHARE = 0.3
"""Of the width that a scale bar takes at most."""

PNG_LEVEL = 1
"""Of zlib: of pictures that are mostly noise, more effort leaves larger files."""

DISPLAY_SIDE = 1024
"""Longest side in pixels at which images are drawn: a screen shows no more."""


def plain(text: str) -> str:
    """Return a name as matplotlib shows it letter by letter: a pair of dollars would begin a formula."""
    return text.replace("$", r"\$")


def draw_files(first: PathLike, second: PathLike, names: Tuple[str, str], path: PathLike, title: str = "") -> None:
    """Write two micrograph files side by side, their difference and power spectra as PNG; see `plot_files`."""
    save_figure(lambda figure: plot_files(figure, first, second, names, title), (15, 9.5), path)


def plot_files(
    figure: Figure,
    first: PathLike,
    second: PathLike,
    names: Tuple[str, str],
    title: str = "",
    is_other_scale: bool = False,
) -> None:
    """Draw two micrograph files as `plot_comparison` does, the first brought to the pixels of the second.

    Where the second has another grey scale, it is first brought to that of the first.

    Raises
    ------
    CryodenError
        If a file cannot be read.
    """
    (image, _), (reference, sampling_rate) = read_micrograph(first), read_micrograph(second)
    shape = (reference.shape[0], reference.shape[1])
    image = fourier_crop(image, shape)
    if is_other_scale:
        reference = in_scale_of(image, reference)
    plot_comparison(figure, image, reference, sampling_rate or 1.0, title, names)


def in_scale_of(raw: np.ndarray, denoised: np.ndarray) -> np.ndarray:
    """Return a denoised image in the grey scale of its raw one.

    What the denoiser took away is then uncorrelated with what it left, as it is for the best estimate of a signal.
    """
    centred = denoised - denoised.mean(dtype=np.float64)
    factor = (centred * (raw - raw.mean(dtype=np.float64))).mean() / max((centred**2).mean(), 1e-30)
    return (raw.mean(dtype=np.float64) + factor * centred).astype(np.float32)


def draw_fixed_pattern(sums: PathLike, path: PathLike) -> None:
    """Write a picture of what all micrographs have in common as PNG; see `plot_fixed_pattern`."""
    save_figure(lambda figure: plot_fixed_pattern(figure, sums), (12, 5.6), path)


def plot_fixed_pattern(figure: Figure, sums: PathLike) -> None:
    """Draw the mean of all micrographs' middles: without a fixed pattern it is noise, finer with every micrograph.

    Pixels that stand out of it, hot and dead ones that were not replaced, are circled.

    Parameters
    ----------
    figure
        An empty matplotlib figure.
    sums
        What `FixedPattern.save` wrote, of at least one micrograph.
    """
    pattern = FixedPattern.load(sums)
    found = pattern.found()
    mean = pattern.mean()
    rows, columns = mean.shape
    part = tuple(slice((side - side // 8) // 2, (side + side // 8) // 2) for side in mean.shape)
    figure.suptitle(
        f"Mean of the fine detail of {found.n_micrographs} micrographs: {found.share:.0%} of what halves have in "
        "common is the same in all"
    )

    outliers = np.concatenate([find_by_deviations(image, OUTLIER_DEVIATIONS) for image in (mean, -mean)], axis=1)
    n = outliers.shape[1]
    named = "1 pixel stands out" if n == 1 else f"{n or 'no'} pixels stand out"
    axes: Any = figure.subplots(1, 2)
    titles = (f"middle, {columns} x {rows} px: {named}", f"its middle, {columns // 8} x {rows // 8} px")
    for place, image, title, origin in zip(axes, (mean, mean[part]), titles, ((0, 0), (part[0].start, part[1].start))):
        low, high = np.percentile(image, GREY_PERCENTILES)
        drawn = place.imshow(image, cmap="gray", vmin=low, vmax=high, origin="lower", interpolation="nearest")
        _circle(place, outliers - np.array(origin)[:, None], image.shape)
        place.set(title=title, xticks=[], yticks=[])
    figure.colorbar(drawn, ax=axes, shrink=0.7, label="deviations of a half's fine detail")


def _circle(axes: Any, places: np.ndarray, shape: Tuple[int, ...]) -> None:
    """Draw circles around some pixels, rows and columns `(2, n)`, as far as they are in the picture."""
    is_inside = ((places >= 0) & (places < np.array(shape)[:, None])).all(axis=0)
    rows, columns = places[:, is_inside][:, :MAX_CIRCLES]
    axes.scatter(columns, rows, s=70, facecolors="none", edgecolors="tab:orange", linewidths=1)


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
    width_nm = first.shape[1] * sampling_rate / 10
    images = {names[0]: first, names[1]: second, f"difference ({' - '.join(names)})": first - second}

    for place, (name, image) in zip(axes[0], images.items()):
        show_image(place, image, name, width_nm)
        if place is not axes[0, 0]:  # zooming into one zooms into all
            place.sharex(axes[0, 0])
            place.sharey(axes[0, 0])

    profiles = []
    for place, image, name in zip(axes[1], (first, second), names):
        spectrum, frequency, profile = power_spectrum(image, sampling_rate)
        nyquist = 0.5 / sampling_rate
        rings = flattened(spectrum, profile)
        place.imshow(
            rings, cmap="gray", origin="lower", extent=(-nyquist, nyquist, -nyquist, nyquist),
            **grey_range(rings, RING_PERCENTILES),
        )  # fmt: skip
        place.set(title=f"power spectrum, {name} (log scale, flattened)", xlabel="1/Å", ylabel="1/Å")
        profiles.append((name, frequency, profile))
    axes[1, 1].sharex(axes[1, 0])
    axes[1, 1].sharey(axes[1, 0])

    for name, frequency, profile in profiles:
        axes[1, 2].semilogy(frequency[1:], profile[1:], label=name)
    axes[1, 2].set(title="radial average of the power spectra", xlabel="spatial frequency (1/Å)", ylabel="power")
    axes[1, 2].grid(alpha=0.3)
    axes[1, 2].legend()
    if title:
        figure.suptitle(plain(title))


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


def flattened(log_power: np.ndarray, profile: np.ndarray) -> np.ndarray:
    """Return a spectrum of `power_spectrum` without its fall from low to high frequency, which hides the Thon rings.

    The smoothed logarithm of the radial mean is taken away, and speckle is smoothed.
    """
    side = len(log_power)
    slope = scipy.ndimage.gaussian_filter1d(np.log10(profile + 1e-30), side / 16, mode="nearest")
    coordinate = np.arange(side) - side // 2
    radius = np.hypot(coordinate[:, None], coordinate[None, :])
    return scipy.ndimage.gaussian_filter(log_power - np.interp(radius, np.arange(len(slope)), slope), side / 200)


def _starts(length: int, side: int) -> List[int]:
    return list(range(0, length - side + 1, max(side // 2, 1)))


def show_image(axes: Any, image: np.ndarray, title: str, width_nm: Optional[float]) -> None:
    """Draw a micrograph in grey with a scale bar; a large one is first brought to the pixels of a screen.

    Parameters
    ----------
    axes
        Of matplotlib; they become nm.
    image
        `(y, x)`.
    title
        Above it.
    width_nm
        Of the whole image; None where it is not known, which leaves out the bar.
    """
    width = width_nm or image.shape[1]
    extent = (0.0, width, 0.0, width * image.shape[0] / image.shape[1])
    longest = max(image.shape)
    if longest > DISPLAY_SIDE:
        rows, columns = (2 * max(1, round(side * DISPLAY_SIDE / longest / 2)) for side in image.shape)
        image = fourier_crop(image, (rows, columns))
    axes.imshow(image, cmap="gray", origin="lower", extent=extent, **grey_range(image, GREY_PERCENTILES))
    axes.set_title(plain(title))
    axes.set_axis_off()
    if width_nm is not None:
        add_scale_bar(axes)


def add_scale_bar(axes: Any) -> None:
    """Draw a bar of a round length into the corner of axes in nm; zooming in gives it another length."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import Normal, Stroke

    bar = Rectangle((0, 0), 0, 0, facecolor="w", edgecolor="k", lw=0.8)
    axes.add_artist(bar)
    outline = [Stroke(linewidth=2, foreground="k"), Normal()]
    label = axes.text(0, 0, "", color="w", fontsize=11, weight="bold", path_effects=outline)

    def place(_: Any = None) -> None:
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        length = max((nm for nm in BARS_NM if nm <= BAR_SHARE * (right - left)), default=BARS_NM[0])
        height = 0.014 * (top - bottom)
        start = left + 0.04 * (right - left), bottom + 0.04 * (top - bottom)
        bar.set_bounds(*start, length, height)
        label.set(x=start[0], y=start[1] + 2 * height, text=f"{length:g} nm")

    place()
    axes.callbacks.connect("xlim_changed", place)
    axes.callbacks.connect("ylim_changed", place)


def grey_range(image: np.ndarray, percentiles: Tuple[float, float]) -> Dict[str, Optional[float]]:
    """Return the values drawn black and white, as arguments of `imshow`."""
    low, high = np.percentile(image, percentiles)
    return {"vmin": float(low), "vmax": float(high)}


def save_figure(plot: Any, size_inches: Tuple[float, float], path: PathLike) -> None:
    """Write a picture as PNG, whole or not at all; `plot` draws it into an empty figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size_inches, layout="constrained")
    FigureCanvasAgg(figure)
    plot(figure)
    with whole_file(path) as temporary:
        figure.savefig(str(temporary), format="png", dpi=100, pil_kwargs={"compress_level": PNG_LEVEL})
