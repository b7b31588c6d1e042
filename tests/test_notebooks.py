"""The notebooks run on a tiny evaluation, draw their pictures, and are kept without output."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from cryoden.config import EvaluateConfig
from cryoden.evaluation.evaluate import evaluate
from tests.helpers import ROOT, write_halves, write_mrc

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PICTURES = {"analysis": 4, "evaluation": 10}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_kept_without_output(path: Path) -> None:
    for cell in nbformat.read(str(path), as_version=4).cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", sorted(PICTURES))
def test_notebook_runs(
    name: str, tmp_path: Path, make_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every cell, on three made-up micrographs and an untrained U-Net; pictures come out."""
    write_halves(tmp_path, n=3, shape=(96, 96), mean=20.0)
    model = make_model(network="unet", channels=(4, 8))
    write_mrc(tmp_path / "mic.mrc", np.random.default_rng(1).normal(size=(96, 96)))
    evaluate(EvaluateConfig(odd="odd", even="even", output="out", model=(str(model),), topaz="no", bootstrap=20))
    settings = {"MODEL": model, "MICROGRAPH": tmp_path / "mic.mrc", "EVALUATION": tmp_path / "out"}
    for variable, value in settings.items():
        monkeypatch.setenv(f"CRYODEN_{variable}", str(value))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(str(ROOT / "notebooks" / f"{name}.ipynb"), as_version=4)
    NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == PICTURES[name]
    assert not [output for output in outputs if output.output_type == "error"]
