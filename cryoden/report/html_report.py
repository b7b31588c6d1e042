"""The report that people look at: one HTML file that opens offline, and a PNG of each of its pictures."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import jinja2

from cryoden import __version__
from cryoden.formats import outputs
from cryoden.formats.files import PathLike, whole_file
from cryoden.formats.model_file import LABELS
from cryoden.formats.outcome import read_failures
from cryoden.report.evaluation_result import Evaluated, read_evaluation
from cryoden.report.evaluation_table import Number, Row
from cryoden.report.figures import save_figure
from cryoden.report.inspection_figures import plot_inside, read_inside
from cryoden.report.pictures import (
    BESIDE,
    EXAMPLE_WORDS,
    EXAMPLES,
    GLANCE,
    INSIDE_INCHES,
    METHODS,
    OVERALL,
    Picture,
)
from cryoden.report.tables import with_error
from cryoden.wording import counted

TEMPLATE_NAME = "report.html.jinja"

SECTIONS = ("glance", "extremes", "micrographs", "methods", "examples", "inside")
"""Where in a report a picture stands."""


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

    shown: Dict[str, List[Dict[str, str]]] = {section: [] for section in SECTIONS}
    for picture in list_pictures(evaluated):
        path = evaluated.folder / f"{picture.name}.png"
        save_figure(picture.plot, picture.size_inches, path)
        image = base64.b64encode(path.read_bytes()).decode("ascii")
        shown[picture.section].append({"name": picture.name, "caption": picture.caption, "image": image})

    html = rendered(
        TEMPLATE_NAME,
        table=evaluated.table,
        failures=read_failures(evaluated.folder) or evaluated.table.failures,
        facts=facts_line(evaluated),
        leader=evaluated.leader(),
        best_filter=_best_filter(evaluated),
        number=with_error,
        ratio=_ratio,
        micrographs=micrograph_table(evaluated),
        pictures=shown,
        counted=counted,
        labels=LABELS,
    )
    path = evaluated.folder / outputs.REPORT
    with whole_file(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def rendered(template: str, **values: Any) -> str:
    """Return a page of HTML from one of the templates beside this file."""
    loader = jinja2.FileSystemLoader(str(Path(__file__).parent))
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(template).render(values)


def facts_line(evaluated: Evaluated) -> List[str]:
    """Return what a report begins with: its run, its date, the version, and the data."""
    table, folder = evaluated.table, evaluated.folder.resolve()
    when = datetime.fromtimestamp((folder / outputs.METRICS).stat().st_mtime)
    names = sorted(table.leading_row.micrographs)
    rows, columns = evaluated.measurement(names[0]).shape
    named = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
    return [
        "/".join(folder.parts[-2:]).lstrip("/"),
        f"{when.day} {when:%B %Y, %H:%M}",
        f"cryoden {__version__}",
        f"{counted(len(names), 'micrograph')}, {named}",
        f"{columns} x {rows} px at {table.sampling_rate:.3g} Å/px",
    ]


def list_pictures(evaluated: Evaluated) -> List[ShownPicture]:
    """Return the pictures of a report in their order."""
    n_scored, chosen = len(evaluated.table.order), dict(chosen_micrographs(evaluated))
    overall = {
        kind.name: ShownPicture(
            "", kind.name, kind.caption, partial(kind.draw, evaluated=evaluated), kind.size(n_scored, 0)
        )
        for kind in OVERALL
    }
    examples = {
        word: {picture.name: picture for picture in _pictures_of(evaluated, word, name)}
        for word, name in chosen.items()
    }

    # First what everybody looks at, two by two: a usual micrograph before and after, and how good the denoisers are.
    usual = "median" if "median" in chosen else next(iter(chosen))
    pictures = [replace(examples[usual].pop(f"{usual}_{name}"), section="glance") for name in BESIDE]
    pictures += [replace(overall[name], section="glance") for name in GLANCE]
    for others in examples.values():
        beside = [name for name in others if name.endswith(tuple(f"_{kind}" for kind in BESIDE))]
        pictures += [replace(others.pop(name), section="extremes") for name in beside]

    pictures.append(replace(overall["micrographs"], section="micrographs"))
    pictures += [replace(overall[name], section="methods") for name in METHODS]
    pictures += [picture for others in examples.values() for picture in others.values()]
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
