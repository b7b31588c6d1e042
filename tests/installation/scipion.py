"""A Scipion without PyTorch and without cryoden, made in a second from the packages that are installed already."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path
from typing import Dict, Sequence

from tests.helpers import ROOT

TORCH = ("torch", "functorch", "torchgen")
OURS = ("_cryoden_scipion", "cryoden", "scipion_em_cryoden")
SCIPIONS = ("scipion", "pyworkflow", "pwem", "relion")

NO_SOURCES = ("__pycache__", ".git", ".venv", ".scipion", ".*_cache", ".hypothesis", "build", "dist", "*.egg-info")
"""In a checkout, but no part of it."""


def copy_checkout(folder: Path) -> Path:
    """Copy the project as it is now into a folder that is not there yet; return it."""
    ignore = shutil.ignore_patterns(*NO_SOURCES)
    shutil.copytree(str(ROOT), str(folder), ignore=ignore)
    shutil.rmtree(str(folder / "demo" / "data"), ignore_errors=True)
    return folder


def linked_environment(folder: Path, without: Sequence[str]) -> Path:
    """Make an environment whose packages are links to those of this one, save some; return where they lie.

    Pip may install into it: what is a link it does not touch, as long as it is not asked to change versions.
    """
    venv.create(str(folder), with_pip=False, symlinks=True)
    packages = next((folder / "lib").glob("python3.*")) / "site-packages"
    for path in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not path.name.startswith((*without, "__")):
            (packages / path.name).symlink_to(path)
    return packages


class Scipion:
    """An installation of Scipion in a folder: what `scipion3 WORDS` does in a shell.

    Parameters
    ----------
    folder
        That holds the environment, `home` and the user's data.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        (self.home / "data").mkdir(parents=True)
        self.packages = linked_environment(folder / "environment", (*OURS, *TORCH))

    def run(self, *words: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess:
        """Run one of Scipion's commands."""
        python = self.folder / "environment" / "bin" / "python"
        command = [str(python), "-m", "scipion", *map(str, words)]
        environment = {**self._environment(), **variables}
        return subprocess.run(
            command, cwd=str(cwd), env=environment, capture_output=True, text=True, timeout=100, check=False
        )

    def _environment(self) -> Dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SCIPION", "CRYODEN"))
        }
        return {
            **kept,
            "PATH": f"{self.folder / 'environment' / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "SCIPION_HOME": str(self.home),
            "SCIPION_USER_DATA": str(self.home / "data"),
            "SCIPION_TESTS_CMD": "scipion3 tests",
            "SCIPION_NOTIFY": "False",
            # Everything that the plugin needs is there; nothing is fetched.
            "PIP_NO_INDEX": "1",
            "PIP_NO_DEPS": "1",
            "PIP_NO_BUILD_ISOLATION": "0",
        }

    def traces(self) -> Sequence[str]:
        """Return what of cryoden lies in the environment and in Scipion's folder, without its logs."""
        installed = [path.name for path in self.packages.iterdir()]
        software = self.home / "software"
        installed += [path.name for path in software.rglob("*")] if software.is_dir() else []
        return [name for name in installed if "cryoden" in name]


def protocols_of(listing: str) -> Sequence[str]:
    """Return the plugin's protocols from what `scipion3 protocols` prints."""
    words = [line.split() for line in listing.splitlines()]
    return [line[1] for line in words if line[:1] == ["cryoden_scipion"]]
