"""A missing PyTorch is one line that says what to install, on the command line too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cryoden.errors import CryodenError
from cryoden.system.packages import needing_torch
from tests.helpers import ROOT

WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from cryoden.__main__ import main; sys.exit(main())"


def test_missing_torch_is_an_error_of_ours() -> None:
    what = r"PyTorch, which trains and denoises, is not installed in .*\[torch\]"
    with pytest.raises(CryodenError, match=what), needing_torch():
        raise ModuleNotFoundError("No module named 'torch'", name="torch")


def test_other_missing_packages_stay_what_they_are() -> None:
    with pytest.raises(ModuleNotFoundError, match="another"), needing_torch():
        raise ModuleNotFoundError("No module named 'another'", name="another")


@pytest.mark.parametrize(
    "words", [["train", "--odd", ".", "--even", "."], ["denoise", ".", "--model", "m"], ["evaluate", "--odd", "."]]
)
def test_commands_without_torch_end_in_one_line(tmp_path: Path, words: list) -> None:
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    command = [sys.executable, "-c", WITHOUT_TORCH, *words, "--output", "out"]
    done = subprocess.run(command, cwd=str(tmp_path), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("cryoden: PyTorch, which trains and denoises, is not installed in ")
