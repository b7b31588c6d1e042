"""How `scipion3 installb cryoden` makes an environment for the denoiser: one shell command."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shlex
import subprocess
import sys
from functools import lru_cache
from typing import List, Optional, Tuple

from cryoden_scipion.constants import DISTRIBUTION
from cryoden_scipion.environment import BUILT, READY

MINOR_VERSIONS = (12, 11, 10, 9)
"""Of Python 3, the best first. NumPy 1.26, which Scipion needs, has no wheels for newer ones."""

CONDA_MINOR_VERSION = 11
"""Of the Python that conda installs."""


@lru_cache(maxsize=None)
def newestPython() -> Optional[Tuple[str, int]]:
    """Return the newest Python that can make an environment and its minor version; None if there is none."""
    names = [f"python3.{minor}" for minor in MINOR_VERSIONS] + ["python3", sys.executable]
    versions = {name: _minorVersion(name) for name in names}
    for minor in MINOR_VERSIONS:
        for name in names:
            if versions[name] == minor:
                return name, minor
    return None


def _minorVersion(python: str) -> Optional[int]:
    """Return the minor version of a Python 3 that can make environments; None for what is none."""
    words = [python, "-c", "import ensurepip, sys, venv; print(sys.version_info[1])"]
    try:
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return int(done.stdout) if done.returncode == 0 else None


def torchPackage(minor: int) -> str:
    """Return the PyTorch that pip installs for Python 3.`minor` where nobody chose another."""
    return "torch==2.13.0" if minor >= 10 else "torch==2.8.0"  # the last one for Python 3.9


def denoiserPackage(root: str, version: str) -> List[str]:
    """Return what pip is told to install this denoiser with PyTorch.

    Parameters
    ----------
    root
        Folder that holds the packages of the plugin: its checkout, or the site-packages of Scipion.
    version
        Of the plugin.
    """
    if all(os.path.exists(os.path.join(root, name)) for name in ("setup.py", "pyproject.toml")):
        return ["--editable", f"{root}[torch]"]
    url = _installedFrom()
    return [f"{DISTRIBUTION}[torch] @ {url}" if url else f"{DISTRIBUTION}[torch]=={version}"]


def _installedFrom() -> Optional[str]:
    """Return from where pip installed the plugin (PEP 610); None for an index, or for a folder that is gone."""
    try:
        text = importlib.metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return None
    origin = json.loads(text) if text else {}
    url: str = origin.get("url", "")
    if "vcs_info" in origin:
        return f"{origin['vcs_info']['vcs']}+{url}@{origin['vcs_info']['commit_id']}"
    isThere = not url.startswith("file://") or os.path.exists(url[len("file://") :])
    return url if url and isThere else None


def buildCommand(python: str, condaHook: str, torch: Tuple[str, str], denoiser: List[str]) -> str:
    """Return the shell command that makes the environment in the folder where it is run.

    Parameters
    ----------
    python
        That makes it where there is no conda.
    condaHook
        What makes `conda activate` known to a shell, with `&&` at its end; empty where there is no conda.
    torch
        What pip is told, and its further index (or nothing).
    denoiser
        What pip is told.
    """
    package, index = torch
    if condaHook:
        make = [f"{condaHook}conda create --yes --prefix ./{BUILT} python=3.{CONDA_MINOR_VERSION}"]
        make += [f"conda activate ./{BUILT}"]
    else:
        make = [f"{shlex.quote(python)} -m venv {BUILT}", f". {BUILT}/bin/activate"]

    # PyTorch first and alone: its further index is asked for nothing else.
    further = f" --extra-index-url {shlex.quote(index)}" if index else ""
    install = [
        "python -m pip install --upgrade pip",  # that of Python 3.9 may be too old for a checkout
        f"python -m pip install --no-deps {shlex.quote(package)}{further}",
        f"python -m pip install {' '.join(map(shlex.quote, denoiser))}",
    ]
    # Scipion links its empty archive here where it has none yet.
    tidy = "if [ -L ../void.tgz ]; then rm ../void.tgz; fi"
    return " && ".join(["unset PYTHONPATH", f"rm -rf {BUILT}", *make, *install, tidy, f"touch {READY}"])
