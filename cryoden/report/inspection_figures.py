"""Pictures of the inside of a network, drawn from what was saved of it; matplotlib is imported inside, torch never."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict

import numpy as np

from cryoden.formats.arrays import opened_arrays
from cryoden.formats.files import PathLike
from cryoden.report.figures import GREY_PERCENTILES, grey_range, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_inside(figure: Figure, arrays: Dict[str, np.ndarray], title: str = "") -> None:
    """Draw what `cryoden.model.inspection` found in a network: first weights, activation maps, receptive field."""
    levels = sorted(name for name in arrays if name.startswith("level "))
    parts = figure.subfigures(1, 2, width_ratios=(1, 1.5))

    upper, lower = parts[0].subfigures(2, 1)
    _plot_weights(upper, arrays["weights"])
    _plot_gradient(lower, arrays)

    n_columns = max(len(arrays[name]) for name in levels)
    axes: Any = parts[1].subplots(len(levels), n_columns, squeeze=False)
    for row, name in zip(axes, levels):
        for place in row:
            place.set_axis_off()
        for place, image in zip(row, arrays[name].astype(np.float32)):
            place.imshow(image, cmap="magma", origin="lower", **grey_range(image, GREY_PERCENTILES))
        shape = arrays[name].shape
        row[0].set_title(f"{name[9:]}: {shape[2]} x {shape[1]} px", fontsize=9, loc="left")
    parts[1].suptitle("activation maps of one cut-out, the most active channels")
    if title:
        figure.suptitle(plain(title))


def _plot_weights(figure: Any, weights: np.ndarray) -> None:
    n_columns = min(8, len(weights))
    axes: Any = figure.subplots(-(-len(weights) // n_columns), n_columns, squeeze=False)
    limit = float(np.abs(weights).max())
    for place in axes.ravel():
        place.set_axis_off()
    for place, kernel in zip(axes.ravel(), weights):
        place.imshow(kernel, cmap="RdBu_r", vmin=-limit, vmax=limit)
    figure.suptitle(f"weights of the first layer, {len(weights)} x {weights.shape[1]} x {weights.shape[2]}")


def _plot_gradient(figure: Any, arrays: Dict[str, np.ndarray]) -> None:
    gradient, radii = arrays["gradient"], arrays["radii"]
    image, profile = figure.subplots(1, 2)
    reach = gradient.shape[0] // 2
    shown = np.log10(gradient / gradient.max() + 1e-6)
    image.imshow(shown, cmap="viridis", vmin=-5, vmax=0, origin="lower", extent=(-reach, reach, -reach, reach))
    image.set(title="|d output / d input|, log", xlabel="px", ylabel="px")

    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    ring = np.rint(np.hypot(y, x)).astype(int).ravel()
    mean = np.bincount(ring, gradient.ravel()) / np.maximum(np.bincount(ring), 1)
    profile.semilogy(np.maximum(mean[: reach + 1] / mean.max(), 1e-9))
    for radius, label, style in zip(radii, ("by construction", "measured", "90 % of it"), ("k--", "r:", "g-")):
        profile.axvline(radius, color=style[0], ls=style[1:], label=f"{label}: {radius:.0f} px")
    profile.set(xlabel="distance (px)", ylim=(1e-6, 2))
    profile.legend(fontsize=8)
    figure.suptitle(f"receptive field, measured by gradient{_of_places(arrays)}")


def _of_places(arrays: Dict[str, np.ndarray]) -> str:
    """Return at how many places the gradient was taken, where the file says it."""
    if "n_gradients" not in arrays:
        return ""
    n = int(arrays["n_gradients"])
    return " at one place (a large network)" if n == 1 else f", mean of {n} places"


def read_inside(path: PathLike) -> Dict[str, np.ndarray]:
    """Read what `cryoden.model.inspection.save_inside` wrote.

    Raises
    ------
    FileError
        If the file is missing or damaged.
    """
    with opened_arrays(path, "evaluate again; what was measured is kept") as file:
        return {name: file[name] for name in file.files}
