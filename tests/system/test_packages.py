"""A missing PyTorch is one line that says what to install, on the command line too."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cryoden.errors import CryodenError
from cryoden.system.packages import needing_torch
from tests.helpers import ROOT, python

WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from cryoden.__main__ import main; sys.exit(main())"


def test_missing_torch_is_an_error_of_ours() -> None:
    what = rf"is not installed in .*\. Install it with '{re.escape(sys.executable)} -m pip install torch'\.$"
    with pytest.raises(CryodenError, match=what), needing_torch():
        raise ModuleNotFoundError("No module named 'torch'", name="torch")


def test_other_missing_packages_stay_what_they_are() -> None:
    with pytest.raises(ModuleNotFoundError, match="another"), needing_torch():
        raise ModuleNotFoundError("No module named 'another'", name="another")


@pytest.mark.parametrize("kind", ["ImportError", "OSError"])
def test_torch_that_cannot_be_loaded_is_one_line(tmp_path: Path, kind: str) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(f"raise {kind}('libcudart.so.12: cannot open')\n")
    result = python(["-m", "cryoden", "denoise", ".", "--model", "m", "--output", "out"], tmp_path, tmp_path)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "cannot be loaded in" in line
    assert "(libcudart.so.12: cannot open). Install the build " in line
    assert not (tmp_path / "out").exists()


def test_errors_of_other_imports_and_files_stay_what_they_are() -> None:
    for error in (ImportError("cannot import name"), OSError("stale handle")):
        with pytest.raises(type(error), match=str(error)), needing_torch():
            raise error


def test_functions_of_the_library_say_the_same(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; import cryoden; cryoden.train(odd='o', even='e', output='out')"
    result = python(["-c", code], tmp_path)
    assert "cryoden.errors.CryodenError: PyTorch, which trains and denoises, is not installed" in result.stderr


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
