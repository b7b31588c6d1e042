"""The pictures of a training, drawn from its folder; matplotlib is imported inside, torch never."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Sequence, cast

import numpy as np

from cryoden.errors import Problem
from cryoden.formats import outputs
from cryoden.formats.files import PathLike
from cryoden.formats.model_file import read_card
from cryoden.formats.training_folder import read_log, read_samples
from cryoden.metrics.model_weaknesses import weaknesses
from cryoden.report.figures import save_figure, show_image

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
    best = max(range(len(records)), key=lambda i: records[i]["r2"])

    _plot_losses(losses, records)
    _plot_quality(quality, records, best)
    _plot_micrographs(spread, records[best]["r2_per_micrograph"])

    title = "\n".join(problem.text() for problem in _weaknesses_of(folder))
    if title:
        figure.suptitle(title, color="tab:red", fontsize=10, parse_math=False)

    model = Path(folder) / outputs.MODEL
    nm_per_px = read_card(model).sampling_rate / 10 if samples and model.exists() else None
    name, cuts = next(iter(samples.items()), ("", np.empty((0, 0, 0))))
    for column, (image, title) in enumerate(zip(cuts, SAMPLE_TITLES)):
        axes: Any = figure.add_subplot(grid[1, 2 * column : 2 * column + 2])
        show_image(axes, image, f"{name}, {title}", nm_per_px and image.shape[1] * nm_per_px)


def _weaknesses_of(folder: PathLike) -> List[Problem]:
    """Return what speaks against the model of a training that is over."""
    path = Path(folder)
    if (path / outputs.TRAINING_STATUS).exists() or not (path / outputs.MODEL).exists():
        return []
    return weaknesses(read_card(path / outputs.MODEL))


def _plot_losses(axes: Any, records: Sequence[Dict[str, Any]]) -> None:
    epochs = [record["epoch"] for record in records]
    trained = [(record["epoch"], record["loss"]) for record in records if record["epoch"]]  # epoch 0 is the start
    axes.plot(*zip(*trained) if trained else ((), ()), "o-", ms=3, label="training")
    axes.plot(epochs, [record["validation_loss"] for record in records], "o-", ms=3, label="held out")
    axes.set(xlabel="epoch", ylabel="prediction against the other half", title="Loss (mean squared error)")
    axes.legend()
    _mark_epochs(axes)


def _plot_quality(axes: Any, records: Sequence[Dict[str, Any]], best: int) -> None:
    epochs = [record["epoch"] for record in records]
    r2 = [record["r2"] for record in records]
    axes.plot(epochs, r2, "o-", ms=3, color="tab:green")
    label = f"best: {r2[best]:.3f}, epoch {epochs[best]}"
    wiener = records[-1].get("wiener_r2")  # not in version 0.1
    if wiener is not None:
        axes.axhline(wiener, color="tab:brown", linestyle="--", label=f"Wiener filter: {wiener:.3f}")
    axes.plot(epochs[best], r2[best], "*", ms=14, color="tab:red", label=label)
    axes.set(xlabel="epoch", ylabel="R² on held-out micrographs", title="Explained signal (R², 300-8 Å)")

    # The first epochs can be far below 0, where nothing is to be seen of the others.
    lowest = max(min(r2), min(0.0, r2[best]) - 1.0)
    axes.set_ylim(lowest - 0.02, max(r2[best] * 1.15, 1.1 * (wiener or 0.0), 0.02))
    axes.legend(loc="lower right")
    _mark_epochs(axes)


def _plot_micrographs(axes: Any, r2: Dict[str, float]) -> None:
    each = sorted(r2.items(), key=lambda entry: entry[1])
    if len(each) <= MAX_BARS:
        axes.barh(range(len(each)), [value for _, value in each], height=0.5, color="tab:green")
        axes.set_yticks(range(len(each)), [name for name, _ in each], parse_math=False)  # names may hold a $
        axes.set_ylim(-1, max(len(each), 3))
    else:
        axes.hist([value for _, value in each], bins=30, color="tab:green")
    axes.set(xlabel="R²", title="Held-out micrographs (R², best epoch)")


def _mark_epochs(axes: Any) -> None:
    axes.grid(alpha=0.3)
    axes.xaxis.get_major_locator().set_params(integer=True)
