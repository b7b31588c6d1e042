"""Which Python runs the denoiser, and the one line that says what is wrong there."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Callable, List, Optional

import pytest

from cryoden import __version__

pytest.importorskip("pwem", reason="Scipion (scipion-em) is not installed")

from cryoden_scipion import Plugin, environment, probe
from cryoden_scipion.constants import CRYODEN_ENV_ACTIVATION
from cryoden_scipion.environment import BUILT, OWN, READY, Answer, Checks, Environment, Found, ask, chooseEnvironment

HOOK = 'eval "$(conda shell.bash hook)"&& '
COMPLETE = Found("/opt/env", __version__, "2.13.0", "13.0")
ELSEWHERE = Environment("conda activate denoiser", "Mend it.")


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """Make what `scipion3 installb` leaves, without what is installed."""
    folder = tmp_path / "with a space" / f"cryoden-{__version__}"
    (folder / BUILT / "bin").mkdir(parents=True)
    (folder / READY).touch()
    return folder


# --------------------------- Which one ------------------------------------
@pytest.mark.parametrize("has_torch", [True, False])
@pytest.mark.parametrize("hook", ["", HOOK])
def test_variable_wins(built: Path, has_torch: bool, hook: str) -> None:
    chosen = chooseEnvironment("conda activate mine", hook, str(built), has_torch)
    assert chosen.activation == hook + "conda activate mine"
    assert CRYODEN_ENV_ACTIVATION in chosen.remedy


def test_torch_of_scipion_comes_before_the_built_environment(built: Path) -> None:
    assert chooseEnvironment("", HOOK, str(built), True) == OWN


def test_built_environment_without_conda(built: Path) -> None:
    chosen = chooseEnvironment("", "", str(built), False)
    assert chosen.activation == f". '{built}/{BUILT}/bin/activate'"
    assert f"scipion3 uninstallb cryoden-{__version__}" in chosen.remedy


def test_built_environment_of_conda(built: Path) -> None:
    (built / BUILT / "conda-meta").mkdir()
    assert chooseEnvironment("", HOOK, str(built), False).activation == f"{HOOK}conda activate '{built}/{BUILT}'"


def test_unfinished_environment_is_none(built: Path) -> None:
    (built / READY).unlink()
    chosen = chooseEnvironment("", "", str(built), False)
    assert chosen == OWN
    assert "scipion3 installb cryoden" in chosen.remedy


# --------------------------- What is wrong there --------------------------
@pytest.mark.parametrize(
    ("found", "what"),
    [
        (Found("/opt/env", None, "2.13.0", None), "cryoden is not installed in /opt/env. Mend it."),
        (Found("/opt/env", __version__, None, None), "PyTorch is not installed in /opt/env. Mend it."),
        (
            Found("/opt/env", "0.0.9", "2.13.0", None),
            f"/opt/env has cryoden 0.0.9, but the plugin is version {__version__}. Mend it.",
        ),
        (COMPLETE, None),
    ],
)
def test_what_is_missing(found: Found, what: Optional[str]) -> None:
    assert found.problem(ELSEWHERE, __version__) == what


@pytest.mark.parametrize(
    ("gpu_build", "is_seen", "what"),
    [
        ("13.0", True, None),
        ("13.0", False, None),  # the window may run on another computer than the work
        (None, True, "This computer has a GPU, but PyTorch 2.13.0 in /opt/env is a build for CPUs"),
        (None, False, "No NVIDIA GPU is seen on this computer"),
    ],
)
def test_why_there_will_be_no_gpu(gpu_build: Optional[str], is_seen: bool, what: Optional[str]) -> None:
    warning = Found("/opt/env", __version__, "2.13.0", gpu_build).gpuWarning(is_seen)
    assert warning is None if what is None else what in str(warning)


def test_probe_finds_this_environment_and_does_not_load_torch() -> None:
    answer = ask(f". {shlex.quote(sys.prefix)}/bin/activate")
    assert isinstance(answer, Found)
    assert answer.isOwn
    assert answer == ask("")
    assert answer.torch
    script = "import sys; from cryoden_scipion.probe import lookAround; assert lookAround()['torch']; "
    assert os.system(f"{shlex.quote(sys.executable)} -c \"{script}sys.exit('torch' in sys.modules)\"") == 0


def test_wrong_activation_says_what_the_shell_said() -> None:
    problem = Checks("", __version__).problem(Environment("no-such-conda activate x", "Mend it."))
    assert problem
    assert problem.startswith("The denoiser's environment cannot be activated (no-such-conda activate x): ")
    assert problem.endswith("not found. Mend it.")


def test_silent_failure_says_its_status() -> None:
    assert "(exit 3): status 3." in str(ask("exit 3"))


def test_hanging_activation_is_ended_with_its_children(tmp_path: Path) -> None:
    number = tmp_path / "number"
    answer = ask(f"sleep 60 & echo $! > {number}; wait", seconds=0.5)
    assert "did not answer within 0.5 s" in str(answer)
    child = Path("/proc") / number.read_text().strip() / "stat"
    for _ in range(100):
        if not child.exists() or child.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return
        time.sleep(0.05)
    pytest.fail("what the activation had started is still running")


def test_activation_may_print(capfd: pytest.CaptureFixture) -> None:
    words = "echo Welcome; echo to the module system >&2"
    assert isinstance(ask(words + f"; PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"), Found)
    assert capfd.readouterr() == ("", "")


def test_folder_of_the_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe.importlib.util, "find_spec", lambda name: type("Spec", (), {"origin": None}))
    assert (probe.lookAround()["cryoden"], probe.lookAround()["torch"]) == (None, None)


class Asked:
    """Answers in place of an environment, and counts how often it is asked."""

    def __init__(self, *answers: Answer) -> None:
        self.answers: List[Answer] = list(answers)
        self.times = 0

    def __call__(self, activation: str) -> Answer:
        self.times += 1
        return self.answers.pop(0)


@pytest.fixture
def checks(tmp_path: Path) -> Callable[..., Checks]:
    """Return checks that ask what is given."""

    def make(asked: Asked, clock: Callable[[], float] = lambda: 0.0, version: str = __version__) -> Checks:
        return Checks(str(tmp_path / "new" / "environments.json"), version, asked, clock)

    return make


def test_complete_environment_is_asked_once(checks: Callable[..., Checks]) -> None:
    asked = Asked(COMPLETE)
    assert [checks(asked).problem(ELSEWHERE) for _ in range(3)] == [None, None, None]
    assert asked.times == 1


def test_record_holds_for_one_activation_and_version(checks: Callable[..., Checks]) -> None:
    asked = Asked(COMPLETE, COMPLETE, COMPLETE)
    checks(asked).problem(ELSEWHERE)
    checks(asked).problem(Environment("conda activate other", ""))
    assert asked.times == 2
    problem = checks(asked, version="9.9.9").problem(ELSEWHERE)
    assert asked.times == 3
    assert f"has cryoden {__version__}, but the plugin is version 9.9.9" in str(problem)


def test_incomplete_environment_is_asked_again_a_little_later(checks: Callable[..., Checks]) -> None:
    now = [0.0]
    asked = Asked("It cannot be activated.", COMPLETE)
    one = checks(asked, lambda: now[0])
    assert [one.problem(ELSEWHERE) for _ in range(8)] == ["It cannot be activated. Mend it."] * 8
    assert asked.times == 1
    now[0] = environment.SECONDS_BETWEEN_PROBES + 1
    assert one.problem(ELSEWHERE) is None


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', '{"a": {"prefix": "/"}}'])
def test_damaged_record_is_none(tmp_path: Path, checks: Callable[..., Checks], content: str) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "environments.json").write_text(content)
    assert checks(Asked(COMPLETE)).problem(ELSEWHERE) is None
    assert checks(Asked()).problem(ELSEWHERE) is None


def test_record_that_cannot_be_written_is_done_without(tmp_path: Path, checks: Callable[..., Checks]) -> None:
    (tmp_path / "new").write_text("a file where the folder should be")
    asked = Asked(COMPLETE, COMPLETE)
    assert [checks(asked).problem(ELSEWHERE), checks(asked).problem(ELSEWHERE)] == [None, None]
    assert asked.times == 2


# --------------------------- The plugin -----------------------------------
@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put the plugin into an environment of its own making."""

    def put(activation: str = "", found: Answer = COMPLETE, has_torch: bool = True) -> None:
        monkeypatch.setattr(Plugin, "_vars", {CRYODEN_ENV_ACTIVATION: activation})
        monkeypatch.setattr(Plugin, "_checks", Checks(str(tmp_path / "e.json"), __version__, lambda _: found))
        monkeypatch.setattr("cryoden_scipion.hasOwnTorch", lambda: has_torch)
        monkeypatch.setattr(Plugin, "getCondaHook", classmethod(lambda cls: ""))
        monkeypatch.setenv("PYTHONPATH", "/of/scipion")

    return put


def test_scipions_own_python_is_quoted(plugin: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    plugin()
    monkeypatch.setattr(sys, "executable", "/with a space/python3")
    assert Plugin.getProgram() == "'/with a space/python3' -m cryoden"


def test_python_of_the_variable(plugin: Callable[..., None]) -> None:
    plugin("conda activate denoiser ")
    assert Plugin.getProgram() == "conda activate denoiser && python -m cryoden"


def test_python_path_is_scipions_alone(plugin: Callable[..., None]) -> None:
    plugin()
    assert Plugin.getEnviron()["PYTHONPATH"] == "/of/scipion"
    plugin("conda activate denoiser")
    assert "PYTHONPATH" not in Plugin.getEnviron()
    plugin("export A=1", Found(sys.prefix, __version__, "2.13.0", None))
    assert Plugin.getEnviron()["PYTHONPATH"] == "/of/scipion"
    plugin("conda activate denoiser", "It cannot be activated.")
    assert "PYTHONPATH" not in Plugin.getEnviron()


def test_installation_is_validated_in_one_line(plugin: Callable[..., None]) -> None:
    plugin()
    assert Plugin.validateInstallation() == []
    plugin("", Found(sys.prefix, __version__, None, None), has_torch=False)
    (line,) = Plugin.validateInstallation()
    assert line.startswith(f"PyTorch is not installed in {sys.prefix}. Make an environment for the denoiser with: ")
    assert "scipion3 installb cryoden" in line
    plugin("conda activate x", "It cannot be activated.")
    (line,) = Plugin.validateInstallation()
    assert line == f"It cannot be activated. Correct {CRYODEN_ENV_ACTIVATION} or install it there."


def test_gpu_of_the_computer_and_of_pytorch(plugin: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cryoden_scipion.seesGpu", lambda: True)
    plugin()
    assert Plugin.gpuWarnings() == []
    plugin("", Found(sys.prefix, __version__, "2.13.0+cpu", None))
    (line,) = Plugin.gpuWarnings()
    assert "is a build for CPUs" in line


@pytest.mark.parametrize(
    ("words", "is_seen"),
    [("echo 'GPU 0: NVIDIA H100'", True), ("exit 9", False), ("echo 'No devices were found'", False)],
)
def test_gpu_is_seen_by_its_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, is_seen: bool) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{words}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert environment.seesGpu() is is_seen


def test_no_driver_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.seesGpu() is False


def test_record_is_readable(tmp_path: Path) -> None:
    file = tmp_path / "e.json"
    Checks(str(file), __version__, lambda _: COMPLETE).problem(ELSEWHERE)
    assert list(json.loads(file.read_text())) == [f"{__version__}: conda activate denoiser"]
