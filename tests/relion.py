"""A project of RELION without its window, and our executables as an installation would make them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List

import pytest

from tests.helpers import ROOT

needs_relion = pytest.mark.skipif(
    shutil.which("relion_pipeliner") is None, reason="RELION (relion_pipeliner) is missing"
)

ENTRY = re.compile(r'"(relion_cryoden_\w+) = ([\w.]+):(\w+)"')

EXECUTABLE = """#!{python}
import sys
sys.path.insert(0, {root!r})
from {module} import {function}
sys.exit({function}())
"""


def write_executables(folder: Path) -> List[str]:
    """Write what setup.py lists for RELION; return the names."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = ENTRY.findall((ROOT / "setup.py").read_text())
    for name, module, function in entries:
        path = folder / name
        path.write_text(EXECUTABLE.format(python=sys.executable, root=str(ROOT), module=module, function=function))
        path.chmod(0o755)
    return [name for name, _, _ in entries]


class Project:
    """A RELION project in a folder.

    Parameters
    ----------
    folder
        Of the project; made with the executables in `bin`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        write_executables(folder / "bin")
        places = [str(folder / "bin"), os.environ["PATH"]]
        self._environment = dict(os.environ, PATH=os.pathsep.join(places), PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
        (folder / "default_pipeline.star").write_text("\ndata_pipeline_general\n\n_rlnPipeLineJobCounter 1\n\n")

    def add(self, kind: str, **options: Any) -> str:
        """Schedule a job; return its name."""
        pipeline = (self.folder / "default_pipeline.star").read_text()
        number = int(re.search(r"_rlnPipeLineJobCounter\s+(\d+)", pipeline)[1])  # type: ignore[index]
        said = ";".join(f"{name} == {value}" for name, value in options.items())
        self._pipeliner("--addJob", kind, "--addJobOptions", said)
        return f"{kind}/job{number:03d}/"

    def add_external(self, program: str, inputs: Dict[str, str], **labels: Any) -> str:
        """Schedule one of our jobs."""
        options: Dict[str, Any] = {"fn_exe": program, **inputs}
        for number, (label, value) in enumerate(labels.items(), 1):
            options[f"param{number}_label"], options[f"param{number}_value"] = label, value
        return self.add("External", **options)

    def run(self, job: str) -> None:
        """Run a job, or continue it, and wait until it has ended."""
        self._pipeliner("--RunJobs", job, "--schedule", f"run{time.time_ns()}", "--sec_wait_after", "1")

    def start(self, job: str) -> subprocess.Popen[bytes]:
        """Run a job without waiting."""
        words = ["relion_pipeliner", "--RunJobs", job, "--schedule", f"run{time.time_ns()}", "--sec_wait_after", "1"]
        return subprocess.Popen(words, cwd=str(self.folder), env=self._environment, stdout=-3, stderr=-3)

    def edges(self) -> str:
        """Return which job made what, and which used it, as RELION has it."""
        return (self.folder / "default_pipeline.star").read_text()

    def file(self, name: str) -> Path:
        return self.folder / name

    def _pipeliner(self, *words: str) -> None:
        done = subprocess.run(
            ["relion_pipeliner", *words], cwd=str(self.folder), env=self._environment, capture_output=True, text=True,
            timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
