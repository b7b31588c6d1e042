"""Prove that the requirements of setup.py resolve, with wheels only, on the given Python versions.

Usage: python .ci/resolve_pythons.py 3.8 3.9 3.10 3.11
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import List
from unittest import mock

import setuptools

SHOWN = ("numpy", "torch", "mrcfile", "tifffile", "imagecodecs", "pandas", "safetensors", "tyro")


def requirements() -> List[str]:
    """Return what setup.py asks pip for."""
    with mock.patch.object(setuptools, "setup") as setup:
        source = Path(__file__).resolve().parent.parent / "setup.py"
        exec(compile(source.read_text(), str(source), "exec"), {"__file__": str(source)})
    return list(setup.call_args.kwargs["install_requires"])


def resolve(version: str) -> str:
    """Return the versions that pip would install on one Python version; fails if there are none."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--python-version", version, "--only-binary=:all:", "--target", folder, "--report", str(report)]
        subprocess.run([*command, *requirements()], check=True)
        chosen = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    return " ".join(f"{item['name']}=={item['version']}" for item in chosen if item["name"] in SHOWN)


for python in sys.argv[1:]:
    print(f"Python {python}: {resolve(python)}", flush=True)
