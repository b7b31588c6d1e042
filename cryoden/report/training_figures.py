"""The pictures of a training, drawn from its folder; matplotlib is imported inside, torch never."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Sequence, cast

import numpy as np

from cryoden.formats import outputs
from cryoden.formats.files import PathLike
from cryoden.formats.training_folder import read_log, read_samples
from cryoden.report.figures import GREY_PERCENTILES, grey_range, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLE_TITLES = ("input (odd)", "output", "target (even)")

MAX_BARS = 20
"""Held-out micrographs that are drawn as named bars; more become a histogram."""


def draw_training(folder: PathLike, path: PathLike) -> None:
    """Write the curves and samples of the training in a folder as PNG; see `plot_training`."""
    records = read_log(Path(folder) / outputs.LOG)
    save_figure(lambda figure: plot_training(figure, records, folder), (13, 8.5), path)


def plot_training(figure: Figure, records: Sequence[Dict[str, Any]], folder: PathLike) -> None:
    """Draw losses, held-out R2 (the best epoch marked) and R2 of each held-out micrograph above a sample of the best.

    Parameters
    ----------
    figure
        An empty matplotlib figure.
    records
        The training's log, as `read_log` returns it.
    folder
        Where `samples.npz` lies; without it only the curves are drawn.
    """
    samples = read_samples(folder)
    grid = figure.add_gridspec(2 if samples else 1, 6)
    losses, quality, spread = cast(Any, [figure.add_subplot(grid[0, 2 * i : 2 * i + 2]) for i in range(3)])
    epochs = [record["epoch"] for record in records]
    losses.plot(epochs, [record["loss"] for record in records], "o-", ms=3, label="training")
    losses.plot(epochs, [record["validation_loss"] for record in records], "o-", ms=3, label="held out")
    losses.set(xlabel="epoch", ylabel="mean squared error (half against half)", title="Loss: mostly noise")
    losses.legend()
    r2 = [record["r2"] for record in records]
    best = int(np.argmax(r2))
    quality.plot(epochs, r2, "o-", ms=3, color="tab:green")
    label = f"best: {r2[best]:.3f}, epoch {epochs[best]}"
    quality.plot(epochs[best], r2[best], "*", ms=14, color="tab:red", label=label)
    quality.set(xlabel="epoch", ylabel="$R^2$ on held-out micrographs", title="Explained signal, 300-8 A")
    quality.set_ylim(max(min(r2), min(0.0, r2[best]) - 1.0) - 0.02, max(r2[best] * 1.15, 0.02))
    quality.legend(loc="lower right")
    each = sorted(records[best]["r2_per_micrograph"].items(), key=lambda entry: entry[1])
    if len(each) <= MAX_BARS:
        spread.barh([name for name, _ in each], [value for _, value in each], height=0.5, color="tab:green")
        spread.set_ylim(-1, max(len(each), 3))
    else:
        spread.hist([value for _, value in each], bins=30, color="tab:green")
    spread.set(xlabel="$R^2$", title="Held-out micrographs, best epoch")
    for curves in (losses, quality):
        curves.grid(alpha=0.3)
        curves.xaxis.get_major_locator().set_params(integer=True)
    name, cuts = next(iter(samples.items()), ("", np.empty((0, 0, 0))))
    for column, (image, title) in enumerate(zip(cuts, SAMPLE_TITLES)):
        axes: Any = figure.add_subplot(grid[1, 2 * column : 2 * column + 2])
        axes.imshow(image, cmap="gray", origin="lower", **grey_range(image, GREY_PERCENTILES))
        axes.set_title(f"{name}, {title}")
        axes.set_axis_off()
