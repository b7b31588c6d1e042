"""The report that people look at: one HTML file that opens offline, and a PNG of each of its pictures."""

from __future__ import annotations

import base64
import functools
import math
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import jinja2

from cryoden import __version__
from cryoden.formats.files import PathLike, whole_file
from cryoden.report import evaluation_figures as figures
from cryoden.report.evaluation_result import Evaluated, read_evaluation
from cryoden.report.figures import save_figure
from cryoden.report.inspection_figures import plot_inside, read_inside
from cryoden.report.tables import with_error

REPORT_NAME = "report.html"
TEMPLATE_NAME = "report.html.jinja"
INSIDE_NAME = "inside_{key}.npz"

EXAMPLE_WORDS, EXAMPLE_KINDS = ("best", "median", "worst", "only"), ("side_by_side", "residual", "truth")
"""Which micrographs are shown, and in which pictures: WORD_KIND.png."""


class Picture(NamedTuple):
    """A picture of the report: section, file name, what it shows, how it is drawn and how large."""

    section: str
    name: str
    caption: str
    plot: Callable[[Any], None]
    size_inches: Tuple[float, float]


def write_report(folder: PathLike) -> Path:
    """Draw every picture of an evaluation and write report.html; returns its path.

    Raises
    ------
    CryodenError
        If the folder holds no evaluation, or nothing can be written there.
    """
    evaluated = read_evaluation(folder)
    for word in EXAMPLE_WORDS:  # of an earlier report, which may have chosen other micrographs
        for kind in EXAMPLE_KINDS:
            (evaluated.folder / f"{word}_{kind}.png").unlink(missing_ok=True)
    shown: List[Dict[str, str]] = []
    for picture in list_pictures(evaluated):
        path = evaluated.folder / f"{picture.name}.png"
        save_figure(picture.plot, picture.size_inches, path)
        image = base64.b64encode(path.read_bytes()).decode("ascii")
        shown.append({"section": picture.section, "name": picture.name, "caption": picture.caption, "image": image})
    loader = jinja2.FileSystemLoader(str(Path(__file__).parent))
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    html = environment.get_template(TEMPLATE_NAME).render(
        table=evaluated.table,
        leader=evaluated.leader(),
        best_filter=_best_filter(evaluated),
        number=lambda *words: with_error(*words).replace("+-", "\u00b1"),
        micrographs=micrograph_table(evaluated),
        pictures=shown,
        version=__version__,
    )
    path = evaluated.folder / REPORT_NAME
    with whole_file(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def list_pictures(evaluated: Evaluated) -> List[Picture]:
    """Return the pictures of a report in their order."""

    def overall(name: str, caption: str, plot: Callable[..., None], size: Tuple[float, float]) -> Picture:
        return Picture("overall", name, caption, functools.partial(plot, evaluated=evaluated), size)

    n_scored = len(evaluated.table["order"])
    pictures = [
        overall("scores", "Share of the signal that each denoiser explains, and of what its error consists.",
                figures.plot_scores, (12, 4.6)),
        overall("fidelity", "How much of the prediction is true, ring by ring. The dashed line is a perfect denoiser.",
                figures.plot_fidelity, (12, 4.6)),
        overall("residual", "What is left of the other half without the prediction: ideally noise alone (1).",
                figures.plot_residual, (12, 4.2)),
        overall("spectra", "Power of one half, of the signal in it, and of every prediction.",
                figures.plot_spectra, (12, 4.6)),
        overall("micrographs", "R2 of every scored micrograph.", figures.plot_micrograph_scores,
                (12, 2.2 + 0.28 * min(n_scored, figures.MAX_BARS))),
    ]  # fmt: skip
    for word, name in chosen_micrographs(evaluated):
        pictures += _micrograph_pictures(evaluated, word, name)
    for row in evaluated.rows():
        path = evaluated.folder / INSIDE_NAME.format(key=row["key"])
        if path.is_file():
            drawn = functools.partial(plot_inside, arrays=read_inside(path), title=row["label"])
            caption = f"{row['label']}: weights of the first layer, receptive field, activation maps."
            pictures.append(Picture("inside", f"inside_{row['key']}", caption, drawn, (15, 8.5)))
    return pictures


def _micrograph_pictures(evaluated: Evaluated, word: str, name: str) -> List[Picture]:
    n_images = len(evaluated.rows()) + int(evaluated.measurement(name).has_truth)
    plots: List[Tuple[str, str, Callable[..., None], Tuple[float, float]]] = [
        ("side_by_side", "every denoiser", figures.plot_side_by_side, (13, 4.4 * -(-n_images // 3))),
        ("residual", "difference, residual and its whiteness, power spectra", figures.plot_micrograph, (16, 7.6)),
    ]
    if evaluated.measurement(name).has_truth:
        plots.append(("truth", "what was invented and what was deleted", figures.plot_truth, (16, 4.4)))
    pictures = []
    for kind, caption, plot, size in plots:
        caption = f"{word.capitalize()} micrograph, {name}: {caption}."
        drawn = functools.partial(plot, evaluated=evaluated, name=name)
        pictures.append(Picture("examples", f"{word}_{kind}", caption, drawn, size))
    return pictures


def chosen_micrographs(evaluated: Evaluated) -> List[Tuple[str, str]]:
    """Return the best, median and worst scored micrograph by the leader's R2, without repetition."""
    order = evaluated.table["order"]
    places = {"best": 0, "median": len(order) // 2, "worst": len(order) - 1}
    if len(order) == 1:
        return [("only", order[0])]
    chosen: Dict[str, str] = {}
    for word, place in places.items():
        if order[place] not in chosen.values():
            chosen[word] = order[place]
    return list(chosen.items())


def micrograph_table(evaluated: Evaluated) -> List[Dict[str, Any]]:
    """Return name, whether it is scored, and R2 of every denoiser, the best micrograph of the leader first."""
    leader, scored = evaluated.leader(), set(evaluated.table["scored"])
    names = sorted(leader["micrographs"], key=lambda name: -(leader["micrographs"][name]["r2"] or -1e9))
    return [
        {
            "name": name,
            "is_scored": name in scored,
            "r2_error": leader["micrographs"][name]["r2_error"],
            "r2": {row["key"]: row["micrographs"][name]["r2"] for row in evaluated.rows()},
        }
        for name in names
    ]


def _best_filter(evaluated: Evaluated) -> Optional[Dict[str, Any]]:
    """Return the row of the linear filter with the highest R2."""
    main = evaluated.table["bands"][0]
    filters = [row for row in evaluated.rows() if row["kind"] == "baseline" and row["key"] != "raw"]

    def r2(row: Dict[str, Any]) -> float:
        value = row["bands"][main]["r2"]["value"]
        return -math.inf if value is None else value

    return max(filters, key=r2)
