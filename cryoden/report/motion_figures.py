"""How the specimens of movies moved, and what aligning them helped; matplotlib is imported inside, torch never."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Optional, Sequence, Tuple

import numpy as np

from cryoden.formats import outputs
from cryoden.formats.files import PathLike
from cryoden.formats.images import TIFF_ENDINGS, read_micrograph
from cryoden.formats.relion_job import read_movie_correction
from cryoden.formats.run_record import recorded_options
from cryoden.movies.motion.local_motion import LocalMotionModel
from cryoden.movies.motion.motion import GLOBAL, LOCAL, NULL, UNALIGNED
from cryoden.report.alignment_table import AlignedMovie
from cryoden.report.figures import plain, show_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOTION_INCHES = (16.0, 5.6)
OVERVIEW_INCHES = (12.0, 4.8)

EARLY, LATE = "#e8820c", "#1f77b4"
"""Colours of the first quarter of the frames and of the others."""

CURVES = {
    UNALIGNED: ("frames as they are", "0.45", "-"),
    GLOBAL: ("shifted as a whole", "#4c9f8f", "--"),
    LOCAL: ("with local motion", "#0f766e", "-"),
    NULL: ("null: halves of different things", "0.7", ":"),
}
"""Label, colour and line of each FRC curve."""

SAID_TO_A = 8.0
"""To which resolution the FRC is said in numbers."""

TRACKS_PER_SIDE = 6
"""Along the longer side of a micrograph."""

ROUND = tuple(digit * 10.0**power for power in range(-2, 5) for digit in (1, 2, 5))
"""Factors by which tracks are drawn longer, and lengths of their scale in A."""

MOST_NAMED = 3
"""Movies whose names stand beside their points."""


def plot_motion(figure: Figure, folder: PathLike, movie: AlignedMovie, title: str = "") -> None:
    """Draw a micrograph with its local motion, the way of the whole specimen, and the FRC before and after.

    Parameters
    ----------
    figure
        An empty matplotlib figure.
    folder
        Of the halves.
    movie
        Aligned there.
    title
        In place of its name.

    Raises
    ------
    CryodenError
        If its full sum or the STAR file about its motion cannot be read.
    """
    figure.suptitle(plain(title or movie.name))
    if movie.doubts:
        figure.supxlabel("; ".join(movie.doubts), color="tab:red", fontsize=10, parse_math=False)
    axes: Any = figure.subplots(1, 3, width_ratios=(1.25, 1, 1.1))
    _plot_micrograph(axes[0], Path(folder), movie)
    _plot_way(axes[1], movie)
    _plot_curves(axes[2], movie)


def _plot_micrograph(axes: Any, folder: Path, movie: AlignedMovie) -> None:
    image, rate = read_micrograph(folder / outputs.FULL / f"{movie.name}.mrc")
    model = _local_model(folder, movie, image.shape[0]) if movie.applied == LOCAL else None
    if rate is None or model is None:
        titles = {UNALIGNED: "summed unaligned", GLOBAL: "shifted as a whole", LOCAL: "with local motion"}
        show_image(axes, image, titles[movie.applied], image.shape[1] * rate / 10 if rate else None)
        return

    places, tracks = local_tracks(model, len(movie.places), (image.shape[0], image.shape[1]))
    longest = max(float(np.hypot(*np.moveaxis(tracks, -1, 0)).max()), 1e-6)
    spacing = max(image.shape) / TRACKS_PER_SIDE
    factor = max((value for value in ROUND if value * longest <= 0.8 * spacing), default=ROUND[0])
    title = f"local motion, drawn {factor:g} times as long (at most {longest * rate:.1f} Å)"
    show_image(axes, image, title, image.shape[1] * rate / 10)
    n_early = _n_early(len(movie.places))
    for place, track in zip(places, tracks):
        drawn = (place + factor * track) * rate / 10
        _draw_way(axes, drawn, n_early, width=1.8, is_on_image=True)
    axes.set_xlim(0, image.shape[1] * rate / 10)
    axes.set_ylim(0, image.shape[0] * rate / 10)


def local_tracks(model: LocalMotionModel, n_frames: int, shape: Tuple[int, int]) -> Tuple[np.ndarray, np.ndarray]:
    """Return places in pixels `(n, 2)`, x and y, and where what was there went, `(n, frames, 2)`, beside the whole.

    Parameters
    ----------
    model
        Of the local motion; its frames begin at `first_frame`.
    n_frames
        That were used.
    shape
        Rows and columns.
    """
    step = max(shape) / TRACKS_PER_SIDE
    x, y = (np.linspace(0, side, max(2, round(side / step)) + 1) for side in (shape[1], shape[0]))
    x, y = (x[1:] + x[:-1]) / 2, (y[1:] + y[:-1]) / 2
    powers_x, powers_y = (np.vander(v / side - 0.5, 3, increasing=True) for v, side in ((x, shape[1]), (y, shape[0])))

    # A frame must be moved against the way that the specimen went.
    fields = [powers_y @ model.fields(model.first_frame + frame) @ powers_x.T for frame in range(n_frames)]
    tracks = -np.stack(fields).transpose(2, 3, 0, 1).reshape(-1, n_frames, 2)
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2), tracks


def _local_model(folder: Path, movie: AlignedMovie, n_rows: int) -> Optional[LocalMotionModel]:
    """Return the local motion of a movie in the rows of its sums."""
    found = read_movie_correction(folder / outputs.MOTION / f"{movie.name}.star")
    if found.coefficients is None:
        return None
    model = LocalMotionModel.of(found)
    record = recorded_options(folder / outputs.HALVES_RECORD) or {}
    is_from_top = movie.path.lower().endswith(TIFF_ENDINGS) and not record.get("flip_tiff")
    return model.upside_down(n_rows) if is_from_top else model


def _plot_way(axes: Any, movie: AlignedMovie) -> None:
    way = np.array(movie.places)
    n_early = _n_early(len(way))
    _draw_way(axes, way, n_early, width=2.0)
    axes.plot(
        *way[: n_early + 1].T, "o", color=EARLY, ms=3.5, label=f"first quarter of the frames: {movie.early:.1f} Å"
    )
    axes.plot(*way[n_early:].T, "o", color=LATE, ms=3.5, label=f"after it: {movie.late:.1f} Å")
    axes.plot(*way[0], "o", color="k", mfc="w", ms=8, label="first frame")
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.15)
    drift = f"drift of {movie.drift:.1f} Å (± {movie.uncertainty:.1f} Å a frame)"
    axes.set(title=drift if movie.is_aligned else "found, but not applied", xlabel="x (Å)", ylabel="y (Å)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _draw_way(axes: Any, way: np.ndarray, n_early: int, width: float, is_on_image: bool = False) -> None:
    """Draw a way whose early part has another colour; on images with an outline, and a dot at its end."""
    from matplotlib.patheffects import Normal, Stroke

    outline: List[Any] = [Stroke(linewidth=width + 1.6, foreground="k"), Normal()] if is_on_image else []
    for part, colour in ((way[n_early:], LATE), (way[: n_early + 1], EARLY)):
        axes.plot(*part.T, color=colour, lw=width, path_effects=outline, solid_capstyle="round")
    if is_on_image:
        axes.plot(*way[-1], "o", color=LATE, mec="w", mew=0.7, ms=4)


def _n_early(n_frames: int) -> int:
    """Return how many steps are early, as they are measured."""
    return max(1, (n_frames - 1) // 4)


def _plot_curves(axes: Any, movie: AlignedMovie) -> None:
    for key, (label, colour, line) in CURVES.items():
        curve = movie.curves.get(key)
        if curve is None:
            continue
        frequency = (np.arange(len(curve)) + 0.5) / len(curve) * movie.curves_end
        is_applied = key == movie.applied
        suffix = " (applied)" if is_applied and key != UNALIGNED else ""
        axes.plot(frequency, curve, line, color=colour, lw=2.4 if is_applied else 1.4, label=label + suffix)
    if movie.curves_end > 1 / SAID_TO_A:
        axes.axvline(1 / SAID_TO_A, color="0.8", lw=1)
    axes.axhline(0, color="0.8", lw=0.8)

    ticks = [value for value in (40, 20, 10, 8, 6, 5, 4) if 1 / value <= movie.curves_end * 1.001]
    axes.set_xticks([1 / value for value in ticks], [f"{value}" for value in ticks])
    change = f"{movie.frc_before:.3f}" + (f" before, {movie.frc_after:.3f} after" if movie.is_aligned else "")
    title = f"FRC(odd, even) to {SAID_TO_A:g} Å: {change}"
    axes.set(title=title, xlabel="resolution (Å)", ylabel="FRC")
    axes.legend(fontsize=8)


def plot_overview(figure: Figure, movies: Sequence[AlignedMovie]) -> None:
    """Draw a point for each movie: FRC before and after, early and late motion; the worst have their names.

    Parameters
    ----------
    figure
        An empty matplotlib figure.
    movies
        The worst first; at least one.
    """
    axes: Any = figure.subplots(1, 2)
    kinds = (
        ("aligned", LATE, [movie for movie in movies if movie.is_aligned and not movie.doubts]),
        ("doubtful", EARLY, [movie for movie in movies if movie.is_aligned and movie.doubts]),
        ("kept unaligned", "tab:red", [movie for movie in movies if not movie.is_aligned]),
    )
    for label, colour, some in kinds:
        if some:
            style = {
                "marker": "o",
                "ls": "",
                "ms": 4.5,
                "color": colour,
                "alpha": 0.75,
                "label": f"{label} ({len(some)})",
            }
            axes[0].plot([m.frc_before for m in some], [m.frc_after for m in some], **style)
            if some[0].is_aligned:  # the motion of others is that of noise
                axes[1].plot([m.early for m in some], [m.late for m in some], **style)

    values = [value for movie in movies for value in (movie.frc_before, movie.frc_after)]
    ends = [min(0.0, *values), max(*values, 0.02)]
    axes[0].plot(ends, ends, color="0.6", lw=1)
    axes[0].set(
        title="what aligning helped", xlabel=f"FRC(odd, even) to {SAID_TO_A:g} Å, unaligned", ylabel="as summed"
    )
    axes[1].set(title="how far specimens moved", xlabel="first quarter of the frames (Å)", ylabel="after it (Å)")
    axes[1].set(xlim=(0, None), ylim=(0, None))
    for movie in [movie for movie in movies if movie.doubts][:MOST_NAMED]:
        points = [(axes[0], movie.frc_before, movie.frc_after), (axes[1], movie.early, movie.late)]
        for place, x, y in points if movie.is_aligned else points[:1]:
            place.annotate(plain(movie.name), (x, y), xytext=(5, 3), textcoords="offset points", fontsize=8)
    for place in axes:
        place.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
