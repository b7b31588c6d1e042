"""The log of a RELION job as PDF: what was asked, what became of it, and its pictures."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Iterable, List, Optional, Sequence

from cryoden.formats import outputs
from cryoden.formats.files import whole_file
from cryoden.formats.images import read_micrograph
from cryoden.formats.star import read_table
from cryoden.formats.training_folder import read_log
from cryoden.report.figures import plain, plot_files, show_image
from cryoden.report.pictures import OVERALL
from cryoden.report.training_figures import plot_training

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Page = Callable[["Figure"], object]

STAR = outputs.MICROGRAPHS_STAR

PAGE_INCHES = (15.6, 11.0)

LINES_PER_PAGE, LETTERS_PER_LINE = 46, 120

MOST_SHOWN = 3
"""Micrographs that are drawn, evenly spread over the set."""


def write_log(path: Path, lines: Sequence[str], pages: Iterable[Page]) -> None:
    """Write text and pictures; raises as the pictures do, and then leaves no file."""
    from matplotlib.backends.backend_pdf import FigureCanvasPdf, PdfPages
    from matplotlib.figure import Figure

    with whole_file(path) as temporary, PdfPages(str(temporary), metadata={"Creator": "cryoden"}) as pdf:
        for plot in [*_text_pages(lines), *pages]:
            figure = Figure(figsize=PAGE_INCHES, layout="constrained")
            FigureCanvasPdf(figure)
            plot(figure)
            pdf.savefig(figure, dpi=100)


def pages_of(command: str, folder: Path, micrographs: Optional[str]) -> List[Page]:
    """Return the pictures of what a command left.

    Parameters
    ----------
    command
        `halves`, `train`, `denoise` or `run`.
    folder
        That it filled.
    micrographs
        What was denoised: a STAR file.
    """
    if command == "halves":
        return _pages_of_halves(folder)
    if command == "train":
        return _pages_of_training(folder)
    if command == "denoise":
        return _pages_of_denoising(folder, micrographs)

    halves, model = folder / outputs.HALVES_FOLDER, folder / outputs.MODEL_FOLDER
    has_split, has_trained = ((place / name).is_file() for place, name in ((halves, STAR), (model, outputs.LOG)))
    pages = _pages_of_training(model) if has_trained else []
    denoised = folder if (folder / STAR).is_file() else folder / outputs.DENOISED_FOLDER
    pages += _pages_of_denoising(denoised, str(halves / STAR) if has_split else micrographs)
    names = [kind.file_name() for kind in OVERALL]
    pictures = [folder / outputs.EVALUATION_FOLDER / name for name in names]
    return pages + [_picture_page(path) for path in pictures if path.is_file()]


def _pages_of_halves(folder: Path) -> List[Page]:
    """Return pages with micrographs, and with their motion and what all have in common where that was drawn."""
    pages = [_micrograph_page(path) for path in _spread(read_table(folder / STAR).paths)]
    pictures = [folder / name for name in (outputs.MOTION_PICTURE, outputs.PATTERN_PICTURE)]
    return pages + [_picture_page(path) for path in pictures if path.is_file()]


def _pages_of_training(folder: Path) -> List[Page]:
    """Return a page with the curves and samples."""
    records = read_log(folder / outputs.LOG)
    return [lambda figure: plot_training(figure, records, folder)]


def _pages_of_denoising(folder: Path, micrographs: Optional[str]) -> List[Page]:
    """Return pages with micrographs before and after."""
    if micrographs is None:
        return []
    denoised = {Path(path).stem: path for path in read_table(folder / STAR).paths}
    raw = {Path(path).stem: path for path in read_table(micrographs).paths}
    return [_comparison_page(raw[name], denoised[name]) for name in _spread([name for name in raw if name in denoised])]


# ---------------------------------------------------------------------- pages
def _text_pages(lines: Sequence[str]) -> List[Page]:
    wrapped = [part for line in lines for part in textwrap.wrap(line, LETTERS_PER_LINE) or [""]]
    parts = [wrapped[first : first + LINES_PER_PAGE] for first in range(0, len(wrapped), LINES_PER_PAGE)]

    def page(part: Sequence[str]) -> Page:
        text = plain("\n".join(part))
        return lambda figure: figure.text(0.04, 0.96, text, va="top", family="monospace", fontsize=10)

    return [page(part) for part in parts]


def _micrograph_page(path: str) -> Page:
    def plot(figure: Figure) -> None:
        image, rate = read_micrograph(path)
        show_image(figure.subplots(), image, path, image.shape[1] * (rate or 10.0) / 10)

    return plot


def _comparison_page(raw: str, denoised: str) -> Page:
    return lambda figure: plot_files(figure, raw, denoised, ("raw", "denoised"), denoised, is_other_scale=True)


def _picture_page(path: Path) -> Page:
    def plot(figure: Figure) -> None:
        from matplotlib.image import imread

        axes: Any = figure.subplots()
        axes.imshow(imread(str(path)))
        axes.set_axis_off()

    return plot


def _spread(items: Sequence[Any]) -> List[Any]:
    """Return a few items, the first and the last among them."""
    n = min(len(items), MOST_SHOWN)
    return [items[round(number * (len(items) - 1) / max(n - 1, 1))] for number in range(n)]
