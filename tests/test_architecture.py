"""The map of the code names every module, and none that is not there."""

from __future__ import annotations

import re

from tests.helpers import ROOT

IN_EVERY_ROOM = {"__init__.py", "commands.py"}


def test_map_is_true() -> None:
    drawn = (ROOT / "docs" / "architecture.md").read_text().split("```")[1].split("cryoden_scipion/")[0]
    named = set(re.findall(r"\b\w+\.py\b", drawn))
    there = {path.name for path in (ROOT / "cryoden").rglob("*.py")} - IN_EVERY_ROOM
    assert named == there
