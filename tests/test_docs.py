"""What the documentation names is there: files, headings, and the figures of the specification's benchmark."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Iterator, List, Tuple

import pytest

from tests.helpers import ROOT

PAGES = sorted([ROOT / "README.md", ROOT / "benchmarks" / "README.md", *(ROOT / "docs").glob("*.md")])
SPECIFICATION = ROOT / "docs" / "specification.md"
SCRIPT = "benchmarks/specification.py"


def links(page: Path) -> Iterator[Tuple[Path, str]]:
    """Yield file and heading of each link that leads to another page, or to a heading of this one."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" not in target:
            name, _, heading = target.partition("#")
            yield (page.parent / name if name else page).resolve(), heading


def headings(page: Path) -> List[str]:
    """Return the headings of a page as links name them."""
    lines = re.findall(r"(?m)^#+ (.+)$", page.read_text())
    return [re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, heading in links(page):
        assert target.exists(), target
        if heading:
            assert heading in headings(target), f"{target}#{heading}"


def test_specification_names_what_is_there() -> None:
    named = set(re.findall(r"`([\w.]+/[\w./]+)`", SPECIFICATION.read_text()))
    assert len(named) > 20
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_each_figure_of_the_specification_has_its_command() -> None:
    tree = ast.parse((ROOT / SCRIPT).read_text())
    tables = [node.value for node in tree.body if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict)]
    (figures,) = ([key.value for key in table.keys if isinstance(key, ast.Constant)] for table in tables)
    named = re.findall(r"\| `(\w+)` \|", SPECIFICATION.read_text())
    assert set(named) == set(figures)
