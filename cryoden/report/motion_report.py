"""How well movies were aligned: one HTML file that opens offline, the worst movie first."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from cryoden import __version__
from cryoden.errors import CryodenError
from cryoden.formats import outputs
from cryoden.formats.file_errors import reading_errors
from cryoden.formats.files import PathLike, whole_file
from cryoden.report.alignment_table import AlignedMovie, doubt_lines, drift_sentence, headline, read_alignments
from cryoden.report.figures import save_figure
from cryoden.report.html_report import rendered
from cryoden.report.motion_figures import MOTION_INCHES, OVERVIEW_INCHES, plot_motion, plot_overview

TEMPLATE_NAME = "motion.html.jinja"

MOST_PICTURES = 6
"""Of the worst movies; beside them the median one and the best."""

MOST_DOUBTS = 8
"""Movies that are named above the table, which has them all."""

WAY_SIDE = 44
"""Pixels of a way in the table."""


@dataclass(frozen=True)
class MovieLine:
    """A line of the table: the movie, and its way as the points of an SVG polyline, early and late."""

    movie: AlignedMovie
    early: str
    late: str


def write_motion_report(folder: PathLike) -> Optional[Path]:
    """Write the report about the movies of a folder of halves; None where none was aligned.

    Pictures of the worst, the median and the best movie are drawn; those of earlier reports are used again.

    Raises
    ------
    CryodenError
        If the log cannot be read, or nothing can be written.
    """
    movies, folder = read_alignments(folder), Path(folder)
    if not movies:
        return None
    overview = folder / outputs.MOTION_PICTURE
    save_figure(partial(plot_overview, movies=movies), OVERVIEW_INCHES, overview)

    when = datetime.now()
    named = "/".join(folder.resolve().parts[-2:]).lstrip("/")
    html = rendered(
        TEMPLATE_NAME,
        facts=[named, f"{when.day} {when:%B %Y, %H:%M}", f"cryoden {__version__}"],
        headline=headline(movies),
        drift=drift_sentence(movies),
        doubts=doubt_lines(movies, MOST_DOUBTS),
        overview=_encoded(overview),
        pictures=_pictures(folder, movies),
        lines=[_line(movie) for movie in movies],
        side=WAY_SIDE,
    )  # fmt: skip
    path = folder / outputs.MOTION_REPORT
    with whole_file(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def _pictures(folder: Path, movies: Sequence[AlignedMovie]) -> List[Dict[str, str]]:
    """Return caption and picture of the movies that are shown; one whose files are gone is said to be."""
    shown = {movie.name: f"{number + 1}. {movie.name}" for number, movie in enumerate(movies[:MOST_PICTURES])}
    for word, movie in (("median", movies[len(movies) // 2]), ("best", movies[-1])):
        shown.setdefault(movie.name, f"{movie.name} ({word})")

    pictures = []
    for movie in movies:
        if movie.name not in shown:
            continue
        try:
            image = _encoded(_picture(folder, movie))
        except (CryodenError, OSError) as error:
            pictures.append({"caption": f"{shown[movie.name]}: {error}", "image": ""})
        else:
            pictures.append({"caption": shown[movie.name], "image": image})
    return pictures


def _picture(folder: Path, movie: AlignedMovie) -> Path:
    """Return the picture of a movie, drawn unless it is newer than what it shows."""
    path = folder / outputs.MOTION / f"{movie.name}.png"
    star = path.with_suffix(".star")
    with reading_errors(star):
        is_old = not path.exists() or path.stat().st_mtime < star.stat().st_mtime
    if is_old:
        save_figure(partial(plot_motion, folder=folder, movie=movie), MOTION_INCHES, path)
    return path


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")


def _line(movie: AlignedMovie) -> MovieLine:
    n_early = max(1, (len(movie.places) - 1) // 4)
    xs, ys = zip(*movie.places)
    width = max(max(xs) - min(xs), max(ys) - min(ys), 1e-3)
    middle = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2

    def points(places: Sequence[Tuple[float, float]]) -> str:
        scale = 0.85 * WAY_SIDE / width
        at = ((scale * (x - middle[0]), scale * (middle[1] - y)) for x, y in places)
        return " ".join(f"{WAY_SIDE / 2 + x:.1f},{WAY_SIDE / 2 + y:.1f}" for x, y in at)

    return MovieLine(movie, points(movie.places[: n_early + 1]), points(movie.places[n_early:]))
