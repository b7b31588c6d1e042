"""`scipion3 installp -p CHECKOUT --devel` and what follows, in a Scipion that has neither PyTorch nor cryoden.

The packages are those of the environment that runs the tests. What the official installer and conda-like builds do from
nothing stands in test_installer.py.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cryoden import __version__
from tests.installation.scipion import OURS, SCIPIONS, Scipion, copy_checkout, linked_environment, protocols_of

pytest.importorskip("scipion", reason="Scipion (scipion-app) is not installed")

N_PROTOCOLS = 10


@pytest.fixture(scope="module")
def scipion(tmp_path_factory: pytest.TempPathFactory) -> Scipion:
    """Make a Scipion."""
    return Scipion(tmp_path_factory.mktemp("scipion"))


def install(scipion: Scipion, parent: Path, name: str) -> Path:
    """Install a checkout of some name, from its parent folder; return it."""
    checkout = copy_checkout(parent / name)
    done = scipion.run("installp", "-p", name, "--devel", cwd=parent)
    assert done.returncode == 0, done.stdout + done.stderr
    return checkout


def uninstall(scipion: Scipion, parent: Path, name: str) -> None:
    """Uninstall what has this name; nothing of it is left."""
    done = scipion.run("uninstallp", "-p", name, cwd=parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert scipion.traces() == []


@pytest.mark.parametrize("name", ["scipion-em-cryoden", "cryoden"])
def test_checkout_of_any_name(tmp_path: Path, scipion: Scipion, name: str) -> None:
    checkout = install(scipion, tmp_path, name)
    listing = scipion.run("protocols", cwd=tmp_path)  # from the parent folder, where `cryoden` is a folder
    assert len(protocols_of(listing.stdout)) == N_PROTOCOLS
    inspected = scipion.run("inspect", "cryoden_scipion", cwd=tmp_path)
    assert inspected.returncode == 0
    assert inspected.stdout.count("loaded") == len(["constants", "convert", "protocols", "wizards", "viewers", "tests"])

    again = scipion.run("installp", "-p", checkout, "--devel", cwd=checkout)  # an update, from inside
    assert again.returncode == 0, again.stdout + again.stderr
    assert len(protocols_of(scipion.run("protocols", cwd=checkout).stdout)) == N_PROTOCOLS

    uninstall(scipion, tmp_path, name)
    assert [path.name for path in checkout.iterdir() if path.name.endswith((".egg-info", "build"))] == []


def test_archive_of_a_branch(tmp_path: Path, scipion: Scipion) -> None:
    """What a download of the branch `main` is called."""
    install(scipion, tmp_path, "cryoden-main")
    uninstall(scipion, tmp_path, "cryoden-main")


def test_wheel_is_found_too(tmp_path: Path, scipion: Scipion) -> None:
    """Scipion finds the plugin of an installed wheel by the first package in it."""
    checkout = copy_checkout(tmp_path / "from" / "scipion-em-cryoden")
    pip = [str(scipion.folder / "environment" / "bin" / "python"), "-m", "pip", "--quiet"]
    options = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "install", *options, str(checkout)], check=True)
    script = tmp_path / "ask.py"
    script.write_text(
        "from scipion.install.plugin_funcs import PluginInfo\n"
        "plugin = PluginInfo('scipion-em-cryoden', remote=False)\n"
        "print('binaries', plugin.getPluginClass().__module__, plugin.binVersions)\n"
    )
    done = scipion.run("python", script, cwd=tmp_path)
    assert f"binaries cryoden_scipion ['cryoden-{__version__}']" in done.stdout, done.stdout + done.stderr
    uninstall(scipion, tmp_path, "scipion-em-cryoden")


DENOISING = "cryoden_scipion.tests.test_protocols_denoise.TestCryodenDenoiseInput.testCtfsBecomeColumns"


def test_denoising_in_an_environment_of_its_own(tmp_path: Path, scipion: Scipion) -> None:
    """A run of the protocol where PyTorch is in the built environment alone, and a line where it is nowhere."""
    checkout = install(scipion, tmp_path, "scipion-em-cryoden")
    script = tmp_path / "validate.py"
    script.write_text(
        "import importlib.util, pyworkflow\n"
        "plugin = pyworkflow.Config.getDomain().getPluginModule('cryoden_scipion').Plugin\n"
        "print('torch', importlib.util.find_spec('torch'), plugin.validateInstallation(), plugin.getProgram())\n"
    )
    before = scipion.run("python", script, cwd=tmp_path).stdout
    assert "torch None ['PyTorch is not installed in " in before
    assert "scipion3 installb cryoden" in before

    folder = scipion.home / "software" / "em" / f"cryoden-{__version__}"
    packages = linked_environment(folder / "env", (*OURS, *SCIPIONS))
    (packages / "cryoden.pth").write_text(f"{checkout}\n")
    (folder / "ENVIRONMENT_READY").touch()
    after = scipion.run("python", script, cwd=tmp_path).stdout
    assert f"torch None [] . {folder}/env/bin/activate && python -m cryoden" in after

    # What Scipion's Python finds by this variable is not for the other one.
    (tmp_path / "poison").mkdir()
    (tmp_path / "poison" / "tyro.py").write_text("raise ImportError('of another Python')")
    done = scipion.run("tests", DENOISING, cwd=tmp_path, PYTHONPATH=str(tmp_path / "poison"))
    assert "1 tests" in done.stdout + done.stderr, done.stdout[-3000:] + done.stderr[-3000:]
    assert "FAILED" not in done.stdout + done.stderr, done.stdout[-3000:] + done.stderr[-3000:]

    uninstall(scipion, tmp_path, "scipion-em-cryoden")
