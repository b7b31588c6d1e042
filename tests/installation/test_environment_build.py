"""The command that `scipion3 installb cryoden` runs, for every kind of computer and of installation."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import pytest

from cryoden import __version__
from tests.helpers import ROOT

pytest.importorskip("pwem", reason="Scipion (scipion-em) is not installed")

from cryoden_scipion import Plugin
from cryoden_scipion.constants import CRYODEN_TORCH, CRYODEN_TORCH_INDEX
from cryoden_scipion.environment import READY, chooseEnvironment
from cryoden_scipion.environment_build import buildCommand, denoiserPackage, newestPython, torchPackage

HOOK = 'eval "$(conda shell.bash hook)"&& '


# --------------------------- Python ---------------------------------------
@pytest.fixture
def pythons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put made-up Pythons on an otherwise empty path; each says its minor version, or fails."""

    def put(scipions: int = 8, **versions: Optional[int]) -> None:
        for name, minor in {**versions, "scipions": scipions}.items():
            program = tmp_path / name.replace("_", ".")
            program.write_text("#!/bin/sh\n" + ("exit 1" if minor is None else f"echo {minor}") + "\n")
            program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(sys, "executable", str(tmp_path / "scipions"))
        newestPython.cache_clear()

    yield put
    newestPython.cache_clear()


def test_newest_python_is_chosen(pythons: Callable[..., None]) -> None:
    pythons(python3_9=9, python3_11=11, python3=8)
    assert newestPython() == ("python3.11", 11)


def test_python_that_cannot_make_environments_is_passed_over(pythons: Callable[..., None]) -> None:
    pythons(python3_12=None, python3_10=10)
    assert newestPython() == ("python3.10", 10)


def test_python_without_a_number_counts(pythons: Callable[..., None]) -> None:
    pythons(python3_9=9, python3=12)
    assert newestPython() == ("python3", 12)


def test_too_old_and_too_new_pythons_are_none(pythons: Callable[..., None]) -> None:
    pythons(python3=14)
    assert newestPython() is None


def test_scipions_python_is_better_than_none(pythons: Callable[..., None]) -> None:
    pythons(scipions=10)
    assert newestPython() == (sys.executable, 10)


# --------------------------- Packages -------------------------------------
@pytest.mark.parametrize(("minor", "package"), [(11, "torch==2.13.0"), (9, "torch==2.8.0")])
def test_build_of_pytorch(minor: int, package: str) -> None:
    assert torchPackage(minor) == package


def test_checkout_is_installed_as_it_is() -> None:
    assert denoiserPackage(str(ROOT), "1.2.3") == ["--editable", f"{ROOT}[torch]"]


@pytest.mark.parametrize(
    ("origin", "package"),
    [
        (None, "scipion-em-cryoden[torch]==1.2.3"),
        (
            {"url": "https://example.org/c.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "scipion-em-cryoden[torch] @ git+https://example.org/c.git@abc",
        ),
        ({"url": "file:///gone", "dir_info": {}}, "scipion-em-cryoden[torch]==1.2.3"),
        ({"url": "file:///", "dir_info": {}}, "scipion-em-cryoden[torch] @ file:///"),
        (
            {"url": "https://example.org/c.whl", "archive_info": {}},
            "scipion-em-cryoden[torch] @ https://example.org/c.whl",
        ),
    ],
)
def test_installed_plugin_is_installed_from_where_it_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: Optional[Dict[str, Any]], package: str
) -> None:
    class Distribution:
        def read_text(self, name: str) -> Optional[str]:
            assert name == "direct_url.json"
            return json.dumps(origin) if origin else None

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Distribution())
    assert denoiserPackage(str(tmp_path), "1.2.3") == [package]


def test_plugin_without_metadata_is_installed_by_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def distribution(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    assert denoiserPackage(str(tmp_path), "1.2.3") == ["scipion-em-cryoden[torch]==1.2.3"]


# --------------------------- The command ----------------------------------
def test_command_without_conda() -> None:
    command = buildCommand("/with a space/python3.11", "", ("torch==2.13.0", ""), ["--editable", "/my plugin[torch]"])
    assert command.split(" && ") == [
        "unset PYTHONPATH",
        "rm -rf env",
        "'/with a space/python3.11' -m venv env",
        ". env/bin/activate",
        "python -m pip install --upgrade pip",
        "python -m pip install --no-deps torch==2.13.0",
        "python -m pip install --editable '/my plugin[torch]'",
        "if [ -L ../void.tgz ]; then rm ../void.tgz; fi",
        f"touch {READY}",
    ]


def test_command_with_conda() -> None:
    command = buildCommand("python3", HOOK, ("torch==2.13.0+cpu", "https://example.org"), ["a"])
    assert f"{HOOK}conda create --yes --prefix ./env python=3.11 && conda activate ./env && " in command
    assert "pip install --no-deps torch==2.13.0+cpu --extra-index-url https://example.org && " in command


def test_command_stops_at_the_first_step_that_fails(tmp_path: Path) -> None:
    done = subprocess.run(buildCommand("false", "", ("t", ""), ["a"]), shell=True, cwd=str(tmp_path), check=False)
    assert done.returncode
    assert os.listdir(tmp_path) == []


CONDA = """#!/bin/sh
case "$1" in
    shell.bash) echo 'conda() { if [ "$1" = activate ]; then . "$2/bin/activate"; else command conda "$@"; fi; }' ;;
    create) mkdir -p "$4/bin" "$4/conda-meta"
        echo "PATH='$PWD/$4/bin':\\$PATH" > "$4/bin/activate"
        printf '#!/bin/sh\\necho "$*" >> "%s/calls"\\n' "$PWD" > "$4/bin/python"
        chmod +x "$4/bin/python" ;;
esac
"""


def test_command_with_a_conda_that_only_notes_what_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell of Scipion understands the whole of it: the hook, the activation, the order."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "conda").write_text(CONDA)
    (tmp_path / "bin" / "conda").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    folder = tmp_path / "cryoden-1.2.3"
    folder.mkdir()
    hook = 'eval "$(conda shell.bash hook)"&& '
    command = buildCommand("python3", hook, ("torch==2.13.0", ""), ["--editable", "/my plugin[torch]"])
    subprocess.run(command, shell=True, cwd=str(folder), check=True)
    assert (folder / "calls").read_text().splitlines() == [
        "-m pip install --upgrade pip",
        "-m pip install --no-deps torch==2.13.0",
        "-m pip install --editable /my plugin[torch]",
    ]

    chosen = chooseEnvironment("", hook, str(folder), False)
    subprocess.run(f"{chosen.activation} && python -m cryoden", shell=True, cwd="/", check=True)
    assert (folder / "calls").read_text().splitlines()[-1] == "-m cryoden"


class Installer:
    """What Scipion's installer offers to a plugin: it keeps what was asked for."""

    def addPackage(self, name: str, **words: Any) -> None:  # noqa: N802
        self.name, self.words = name, words

    @property
    def command(self) -> str:
        ((command, flag),) = self.words["commands"]
        assert flag == READY
        return command


@pytest.fixture
def define(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Installer]:
    """Return what the plugin asks of the installer on a made-up computer."""

    def defined(hook: str = "", python: Optional[tuple] = ("python3.11", 11), **variables: str) -> Installer:
        monkeypatch.setattr(Plugin, "getCondaHook", classmethod(lambda cls: hook))
        monkeypatch.setattr(Plugin, "_vars", variables)
        monkeypatch.setattr("cryoden_scipion.newestPython", lambda: python)
        installer = Installer()
        Plugin.defineBinaries(installer)
        return installer

    return defined


def test_environment_is_made_only_when_asked_for(define: Callable[..., Installer]) -> None:
    installer = define()
    assert (installer.name, installer.words["version"]) == ("cryoden", __version__)
    assert installer.words["default"] is False
    assert installer.words["neededProgs"] == []
    assert "python3.11 -m venv env" in installer.command


@pytest.mark.parametrize(
    ("variables", "package"),
    [
        ({}, " torch==2.13.0 &&"),
        ({CRYODEN_TORCH: "torch==2.6.0"}, " torch==2.6.0 &&"),
        ({CRYODEN_TORCH_INDEX: "https://example.org"}, " torch==2.13.0 --extra-index-url https://example.org &&"),
        (
            {CRYODEN_TORCH: "torch==2.6.0+cu118", CRYODEN_TORCH_INDEX: "https://example.org"},
            " torch==2.6.0+cu118 --extra-index-url https://example.org &&",
        ),
    ],
)
def test_variables_decide_the_build(define: Callable[..., Installer], variables: Dict[str, str], package: str) -> None:
    assert package in define(**variables).command


def test_conda_comes_before_python(define: Callable[..., Installer]) -> None:
    assert "conda create" in define(hook=HOOK, python=None).command


def test_conda_is_needed_where_python_is_too_old(define: Callable[..., Installer]) -> None:
    assert define(python=None).words["neededProgs"] == ["conda"]


@pytest.mark.parametrize(
    ("configured", "programs", "hook"),
    [
        ('eval "$(/opt/conda shell.bash hook)"', [], 'eval "$(/opt/conda shell.bash hook)"&& '),
        ("", ["conda"], 'eval "$(conda shell.bash hook)" && '),
        ("", [], ""),
    ],
)
def test_hook_of_conda(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configured: str, programs: List[str], hook: str
) -> None:
    import pyworkflow

    for name in programs:
        (tmp_path / name).touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(pyworkflow.Config, "CONDA_ACTIVATION_CMD", configured)
    monkeypatch.setattr(Plugin, "_condaActivationCmd", None)
    assert Plugin.getCondaHook() == hook
