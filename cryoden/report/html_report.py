"""The report that people look at: one HTML file that opens offline, and a PNG of each of its pictures."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import jinja2

from cryoden import __version__
from cryoden.formats import outputs
from cryoden.formats.files import PathLike, whole_file
from cryoden.report.evaluation_result import Evaluated, read_evaluation
from cryoden.report.evaluation_table import Number, Row
from cryoden.report.figures import save_figure
from cryoden.report.inspection_figures import plot_inside, read_inside
from cryoden.report.pictures import EXAMPLE_WORDS, EXAMPLES, INSIDE_INCHES, OVERALL, Picture
from cryoden.report.tables import with_error

TEMPLATE_NAME = "report.html.jinja"


@dataclass(frozen=True)
class ShownPicture:
    """A picture of one report: section, file name, what it shows, how it is drawn and how large."""

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
        for kind in EXAMPLES:
            (evaluated.folder / kind.file_name(word)).unlink(missing_ok=True)

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
        number=with_error,
        ratio=_ratio,
        micrographs=micrograph_table(evaluated),
        pictures=shown,
        version=__version__,
    )
    path = evaluated.folder / outputs.REPORT
    with whole_file(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def list_pictures(evaluated: Evaluated) -> List[ShownPicture]:
    """Return the pictures of a report in their order."""
    n_scored = len(evaluated.table.order)
    pictures = [
        ShownPicture(
            "overall", kind.name, kind.caption, partial(kind.draw, evaluated=evaluated), kind.size(n_scored, 0)
        )
        for kind in OVERALL
    ]
    for word, name in chosen_micrographs(evaluated):
        pictures += _pictures_of(evaluated, word, name)
    for row in evaluated.rows():
        path = evaluated.folder / outputs.inspection_of(row.key)
        if path.is_file():
            drawn = partial(plot_inside, arrays=read_inside(path), title=row.label)
            caption = f"{row.label}: weights of the first layer, receptive field, activation maps."
            pictures.append(ShownPicture("inside", path.stem, caption, drawn, INSIDE_INCHES))
    return pictures


def _pictures_of(evaluated: Evaluated, word: str, name: str) -> List[ShownPicture]:
    """Return the pictures of one micrograph, and the word for which it was chosen."""
    has_truth = evaluated.measurement(name).has_truth
    n_images = len(evaluated.rows()) + int(has_truth)
    pictures = []
    for kind in EXAMPLES:
        if kind.is_of_truth and not has_truth:
            continue
        caption = f"{word.capitalize()} micrograph, {name}: {kind.caption}."

        def drawn(figure: Any, kind: Picture = kind) -> None:
            kind.draw(figure, evaluated, name)

        pictures.append(ShownPicture("examples", f"{word}_{kind.name}", caption, drawn, kind.size(1, n_images)))
    return pictures


def chosen_micrographs(evaluated: Evaluated) -> List[Tuple[str, str]]:
    """Return the best, median and worst scored micrograph by the leader's R2, without repetition."""
    order = evaluated.table.order
    if len(order) == 1:
        return [("only", order[0])]
    chosen: Dict[str, str] = {}
    for word, place in {"best": 0, "median": len(order) // 2, "worst": len(order) - 1}.items():
        if order[place] not in chosen.values():
            chosen[word] = order[place]
    return list(chosen.items())


@dataclass(frozen=True)
class MicrographLine:
    """A line of the report's list: name, whether it is scored, the leader's error, and R2 by the denoisers' keys."""

    name: str
    is_scored: bool
    r2_error: Optional[float]
    r2: Dict[str, Optional[float]]


def micrograph_table(evaluated: Evaluated) -> List[MicrographLine]:
    """Return a line for each micrograph, the best of the leader first."""
    leader, scored = evaluated.leader(), set(evaluated.table.scored)

    def badness(name: str) -> float:
        r2 = leader.micrographs[name].r2
        return math.inf if r2 is None else -r2

    return [
        MicrographLine(
            name, name in scored, leader.micrographs[name].r2_error,
            {row.key: row.micrographs[name].r2 for row in evaluated.rows()},
        )
        for name in sorted(leader.micrographs, key=badness)
    ]  # fmt: skip


def _ratio(number: Number, unit: Number) -> str:
    """Return a number in units of another one, a dash where one of them is none."""
    return "-" if number.value is None or not unit.value else f"{number.value / unit.value:.3f}"


def _best_filter(evaluated: Evaluated) -> Optional[Row]:
    """Return the row of the linear filter with the highest R2."""
    main = evaluated.table.bands[0]

    def r2(row: Row) -> float:
        value = row.bands[main].r2.value
        return -math.inf if value is None else value

    return max((row for row in evaluated.rows() if row.kind == "baseline" and row.key != "raw"), key=r2)
