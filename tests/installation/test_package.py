"""What is built for others has everything, and what stands beside the code fits to it."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import List, Set

import pytest
import yaml

from cryoden import __version__
from tests.helpers import ROOT
from tests.installation.scipion import copy_checkout

PACKAGES = ("_cryoden_scipion", "cryoden", "cryoden_scipion")
WHEEL = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", "dist", "."]
SDIST = ["-c", "from setuptools.build_meta import build_sdist; build_sdist('dist')"]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the project."""
    return copy_checkout(tmp_path_factory.mktemp("build") / "scipion-em-cryoden")


@pytest.fixture(scope="module")
def wheel(checkout: Path) -> zipfile.ZipFile:
    """Build the wheel."""
    subprocess.run([sys.executable, *WHEEL], cwd=str(checkout), check=True)
    (path,) = (checkout / "dist").glob("scipion_em_cryoden-*.whl")
    return zipfile.ZipFile(path)


def sources(folder: Path, names: List[str]) -> Set[str]:
    """Return the files of some folders of a checkout, relative to it."""
    paths = (path for name in names for path in (folder / name).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)) for path in paths if "__pycache__" not in path.parts}


def metadata(wheel: zipfile.ZipFile) -> Message:
    """Return what pip reads."""
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return message_from_bytes(wheel.read(name))


def test_wheel_has_every_file_of_the_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    files = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert files == sources(ROOT, list(PACKAGES))


def test_source_distribution_has_everything(checkout: Path) -> None:
    subprocess.run([sys.executable, *SDIST], cwd=str(checkout), check=True, capture_output=True)
    (path,) = (checkout / "dist").glob("*.tar.gz")
    with tarfile.open(path) as archive:
        files = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    folders = [*PACKAGES, "tests", "docs", "benchmarks", "notebooks", "demo", ".ci", ".github"]
    expected = {name for name in sources(ROOT, folders) if not name.startswith("demo/") or name.endswith(".py")}
    expected |= {path.name for path in ROOT.iterdir() if path.is_file()}
    of_the_repository = {name for name in expected if Path(name).name.startswith((".git", ".pre-commit"))}
    assert expected - of_the_repository - files == set()


def test_metadata(wheel: zipfile.ZipFile) -> None:
    meta = metadata(wheel)
    assert (meta["Name"], meta["Version"], meta["Requires-Python"]) == ("scipion-em-cryoden", __version__, ">=3.8")
    (points,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "[pyworkflow.plugin]\ncryoden_scipion = cryoden_scipion" in wheel.read(points).decode()


def test_pytorch_and_cryosparc_are_extras(wheel: zipfile.ZipFile) -> None:
    required = metadata(wheel).get_all("Requires-Dist", [])
    (torch,) = (line for line in required if line.startswith("torch"))
    assert re.search(r"""extra == ['"]torch['"]""", torch)
    assert metadata(wheel).get_all("Provides-Extra") == ["torch", "cryosparc"]


def test_lowest_version_of_pytorch_is_said_once() -> None:
    texts = [*ROOT.glob("*.py"), *ROOT.glob("*.txt"), ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    said = [path.name for path in texts if re.search(r"torch\W{0,4}>=", path.read_text())]
    assert said == ["setup.py"]


@pytest.mark.parametrize("tag", ["v9.9.9", f"v{__version__}"])
def test_tag_is_the_version_of_code_and_citation(tag: str) -> None:
    done = subprocess.run([sys.executable, str(ROOT / ".ci" / "check_tag.py"), tag], check=False, capture_output=True)
    assert (done.returncode == 0) is (tag == f"v{__version__}"), done.stderr


def test_citation_is_complete() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "license", "repository-code"} <= set(citation)
    assert str(citation["version"]) == __version__


@pytest.mark.parametrize("name", ["tests", "publish"])
def test_workflow_runs_what_is_there(name: str) -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    words = " ".join(step.get("run", "") for step in steps).split()
    scripts = [word for word in words if word.startswith(".ci/")]
    assert scripts
    assert all((ROOT / script).exists() for script in scripts)
    rules = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert all(rule in rules for make, rule in zip(words, words[1:]) if make == "make")
