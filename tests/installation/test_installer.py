"""Installations from nothing, over the network: Scipion by its official installer, and what the containers run.

Minutes each and several GB while they run; `make test-long` runs them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from pathlib import Path
from typing import Dict, List

import pytest

from cryoden import __version__
from tests.helpers import ROOT
from tests.installation.scipion import copy_checkout, protocols_of
from tests.installation.test_installp import DENOISING, N_PROTOCOLS

pytestmark = pytest.mark.long

CPU_BUILD = "torch==2.13.0"
"""Where pip has builds for CPUs alone; elsewhere the default of the plugin is as good."""


def clean_environment(**variables: str) -> Dict[str, str]:
    """Return the environment variables without those that point to other installations."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SCIPION", "CRYODEN"))}
    return {**kept, **variables}


def shell(command: str, cwd: Path, **variables: str) -> str:
    """Run what a user types; return what is printed."""
    environment = clean_environment(**variables)
    done = subprocess.run(
        command, shell=True, cwd=str(cwd), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout + done.stderr


def test_official_installer(tmp_path: Path) -> None:
    """All that docs/installation.md says, in an empty folder."""
    venv.create(str(tmp_path / "boot"), with_pip=True)
    path = f"{tmp_path / 'boot' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    python = f"python3.{sys.version_info[1]}"
    shell("python -m pip install scipion-installer virtualenv", tmp_path, PATH=path)
    installer = f"python -m scipioninstaller -venv -noAsk -n .scipion3 -python {python}"
    shell(f"{installer} {tmp_path / 'scipion'}", tmp_path, PATH=path)

    checkouts = tmp_path / "checkouts"
    checkouts.mkdir()
    copy_checkout(checkouts / "cryoden")
    scipion = tmp_path / "scipion" / "scipion3"
    of_user = {"SCIPION_USER_DATA": str(tmp_path / "data"), "SCIPION_NOTIFY": "False", "SCIPION_LOCAL_CONFIG": "none"}
    said = shell(f"{scipion} installp -p cryoden --devel", checkouts, **of_user)
    assert "torch" not in said.lower()
    assert len(protocols_of(shell(f"{scipion} protocols", checkouts, **of_user))) == N_PROTOCOLS
    assert "error" not in shell(f"{scipion} inspect cryoden_scipion", checkouts, **of_user)

    said = shell(f"{scipion} installb cryoden", checkouts, CRYODEN_TORCH=CPU_BUILD, **of_user)
    folder = tmp_path / "scipion" / "software" / "em" / f"cryoden-{__version__}"
    assert sorted(path.name for path in folder.iterdir()) == ["ENVIRONMENT_READY", "env"]
    assert not os.path.lexists(folder.parent / "void.tgz")
    said = shell(f"{scipion} tests {DENOISING}", checkouts, **of_user)
    assert "FAILED" not in said, said[-4000:]

    shell(f"{scipion} uninstallp -p cryoden", checkouts, **of_user)
    assert list(folder.parent.glob("*cryoden*")) == []
    assert list((tmp_path / "scipion").rglob("*cryoden*")) == []


def steps_of(name: str) -> List[str]:
    """Return the shell commands that build an image; an argument is a variable."""
    text = (ROOT / name).read_text()
    if name == "Dockerfile":
        return re.findall(r"^(?:RUN|ARG) (.+)$", text, re.MULTILINE)
    section = text.split("%post\n")[1].split("\n%")[0]
    return [line.strip() for line in section.splitlines() if line.strip()]


@pytest.mark.parametrize("name", ["Dockerfile", "cryoden.def"])
def test_commands_of_the_images(tmp_path: Path, name: str) -> None:
    """What builds an image makes a working command line in a bare environment, too."""
    checkout = copy_checkout(tmp_path / "cryoden")
    venv.create(str(tmp_path / "env"), with_pip=True)
    variables = {"PATH": f"{tmp_path / 'env' / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    steps = steps_of(name)
    assert sum("pip install" in step for step in steps) == 2
    shell(" && ".join(steps).replace("/opt/cryoden", str(checkout)), tmp_path, **variables)

    assert shell("cryoden --version", tmp_path, **variables).strip() == __version__
    shell("cryoden simulate pairs --output pairs --pairs 8 --size 128 128", tmp_path, **variables)
    train = "cryoden train --odd pairs/odd --even pairs/even --output model --network cnn3 --minutes 0.1 --device cpu"
    shell(f"{train} --crop 64", tmp_path, **variables)
    shell(
        "cryoden denoise pairs/odd --model model/model.safetensors --output denoised --device cpu",
        tmp_path,
        **variables,
    )
    assert len(list((tmp_path / "denoised").glob("*.mrc"))) == 8
