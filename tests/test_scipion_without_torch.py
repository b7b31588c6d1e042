"""Scipion's window must never load torch: every module of the plugin is imported with torch blocked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pwem", reason="Scipion (scipion-em) is not installed")

CODE = """
import importlib, pkgutil, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ImportError("torch is blocked in this test")

sys.meta_path.insert(0, Block())
import pyworkflow
import cryoden_scipion
names = [m.name for m in pkgutil.walk_packages(cryoden_scipion.__path__, "cryoden_scipion.")]
for name in names:
    importlib.import_module(name)
from cryoden.report import contact_sheet, evaluation_table
from cryoden.report import evaluation_figures, figures, inspection_figures, training_figures
plugin = pyworkflow.Config.getDomain().getPlugins()["cryoden_scipion"]
protocols = pyworkflow.Config.getDomain().getProtocols()
print(len(names), sorted(n for n in protocols if n.startswith("Cryoden")))
"""


def test_all_modules_import_without_torch(tmp_path: Path) -> None:
    environ = dict(os.environ, SCIPION_HOME=str(tmp_path), SCIPION_DOMAIN="pwem", SCIPION_NOTIFY="False")
    done = subprocess.run([sys.executable, "-c", CODE], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    n_modules, protocols = done.stdout.strip().splitlines()[-1].split(" ", 1)
    assert int(n_modules) >= 12
    for name in ("Denoise", "ExportModel", "ImportModel", "SplitHalves", "Train"):
        assert f"'CryodenProt{name}'" in protocols
