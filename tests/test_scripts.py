"""The scripts of demo, benchmarks and training sets, which no other test runs as a whole, find what they import."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ROOMS = ("demo", "benchmarks", "training_sets")

SCRIPTS = sorted(str(path.relative_to(ROOT)) for room in ROOMS for path in ROOT.glob(f"{room}/*.py"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_find_what_they_import(script: str) -> None:
    for statement in ast.walk(ast.parse((ROOT / script).read_text())):
        if not isinstance(statement, ast.ImportFrom) or not (statement.module or "").startswith("cryoden"):
            continue
        if statement.module.startswith("cryoden_scipion"):
            pytest.importorskip("pwem", reason="Scipion (scipion-em) is not installed")
        module = importlib.import_module(statement.module)
        for name in statement.names:
            if not hasattr(module, name.name):  # a module of a package that was not loaded yet
                importlib.import_module(f"{statement.module}.{name.name}")
