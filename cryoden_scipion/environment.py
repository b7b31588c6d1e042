"""Which Python runs the denoiser, and what is wrong with it."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any, Callable, Dict, Optional, Tuple, Union

from cryoden.errors import CryodenError
from cryoden.formats.files import read_json, write_json
from cryoden_scipion import probe
from cryoden_scipion.constants import CRYODEN, CRYODEN_ENV_ACTIVATION

READY = "ENVIRONMENT_READY"
"""File that stands in the folder of the built environment once everything is installed."""

BUILT = "env"
"""The environment itself, in that folder."""

MAX_PROBE_SECONDS = 20.0
"""An activation that takes longer hangs; a slow one (conda on a network disk) takes a few seconds, once."""

SECONDS_BETWEEN_PROBES = 10.0
"""Scipion's window asks about every protocol in its tree: what was wrong a moment ago is wrong still."""

NVIDIA_SECONDS = 10.0


@dataclass(frozen=True)
class Environment:
    """Where the denoiser runs.

    Attributes
    ----------
    activation
        Shell command that activates it; empty for Scipion's own Python.
    remedy
        What to do if something is missing there.
    """

    activation: str
    remedy: str


OWN = Environment(
    "",
    f"Make an environment for the denoiser with: scipion3 installb {CRYODEN}; or set {CRYODEN_ENV_ACTIVATION} to a "
    "command that activates one.",
)
"""Scipion's own Python."""


def chooseEnvironment(variable: str, condaHook: str, builtFolder: str, hasTorch: bool) -> Environment:
    """Return where the denoiser runs.

    Parameters
    ----------
    variable
        Value of `CRYODEN_ENV_ACTIVATION`; it wins if it is set.
    condaHook
        What makes `conda activate` known to a shell, with `&&` at its end; empty where there is no conda.
    builtFolder
        Where `scipion3 installb` makes an environment; the last choice.
    hasTorch
        Whether PyTorch can be imported in Scipion's own environment: then the denoiser runs there.
    """
    if variable:
        return Environment(condaHook + variable, f"Correct {CRYODEN_ENV_ACTIVATION} or install it there.")
    if hasTorch or not os.path.exists(os.path.join(builtFolder, READY)):
        return OWN
    environment = os.path.join(builtFolder, BUILT)
    if os.path.isdir(os.path.join(environment, "conda-meta")):
        activation = f"{condaHook}conda activate {shlex.quote(environment)}"
    else:
        activation = f". {shlex.quote(os.path.join(environment, 'bin', 'activate'))}"
    remedy = f"Make it anew: scipion3 uninstallb {os.path.basename(builtFolder)}; scipion3 installb {CRYODEN}."
    return Environment(activation, remedy)


def hasOwnTorch() -> bool:
    """Return whether PyTorch can be imported in this process; it is not."""
    spec = importlib.util.find_spec("torch")
    return spec is not None and spec.origin is not None


@dataclass(frozen=True)
class Found:
    """What an environment has; None where something is absent.

    Attributes
    ----------
    prefix
        Folder of the environment.
    cryoden, torch
        Versions.
    gpuBuild
        Version of CUDA or ROCm that PyTorch was built for.
    """

    prefix: str
    cryoden: Optional[str]
    torch: Optional[str]
    gpuBuild: Optional[str]

    @property
    def isOwn(self) -> bool:
        """Return whether it is the environment of this process."""
        return os.path.realpath(self.prefix) == os.path.realpath(sys.prefix)

    def problem(self, environment: Environment, version: str) -> Optional[str]:
        """Return what is missing for the plugin's `version`, in one line; None if it is complete."""
        if self.cryoden is None:
            what = f"cryoden is not installed in {self.prefix}."
        elif self.torch is None:
            what = f"PyTorch is not installed in {self.prefix}."
        elif self.cryoden != version:
            what = f"{self.prefix} has cryoden {self.cryoden}, but the plugin is version {version}."
        else:
            return None
        return f"{what} {environment.remedy}"

    def gpuWarning(self, isGpuSeen: bool) -> Optional[str]:
        """Return why no GPU will be used although one is asked for, in one line; None if one will be."""
        if not isGpuSeen and self.gpuBuild is None:
            return "No NVIDIA GPU is seen on this computer: the CPU will do the work, many times slower."
        if self.gpuBuild is None:
            return (
                f"This computer has a GPU, but PyTorch {self.torch} in {self.prefix} is a build for CPUs: the CPU will "
                "do the work, many times slower."
            )
        return None


Answer = Union[Found, str]
"""What an environment has, or in one line why it does not say."""


def ask(activation: str, seconds: float = MAX_PROBE_SECONDS) -> Answer:
    """Ask the Python that a command activates what it has."""
    if not activation:
        return Found(**_fields(probe.lookAround()))
    command = f"{activation} && python {shlex.quote(os.path.abspath(probe.__file__))}"
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.Popen(
        command,
        shell=True,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the shell and what it started
        process.communicate()
        return f"The denoiser's environment did not answer within {seconds:g} s ({activation})."
    answers = [line[len(probe.MARK) :] for line in stdout.splitlines() if line.startswith(probe.MARK)]
    if process.returncode or not answers:
        lines = [line for line in stderr.splitlines() if line.strip()]
        said = lines[-1].strip() if lines else f"status {process.returncode}"
        return f"The denoiser's environment cannot be activated ({activation}): {said.rstrip('.')}."
    found = Found(**_fields(json.loads(answers[-1])))
    return ask("") if found.isOwn else found  # with PYTHONPATH, which its processes will have


class Checks:
    """Answers of environments: complete ones are kept on disk, others for a moment.

    Parameters
    ----------
    file
        Where they are kept, by activation and version of the plugin.
    version
        Of the plugin.
    asking, clock
        To be replaced in tests.
    """

    def __init__(
        self,
        file: str,
        version: str,
        asking: Callable[[str], Answer] = ask,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = file
        self._version = version
        self._ask = asking
        self._clock = clock
        self._recent: Dict[str, Tuple[float, Answer]] = {}

    def answer(self, environment: Environment) -> Answer:
        """Return what an environment has, from the record if it was complete."""
        if not environment.activation:
            return self._ask("")  # quick, and what it has can change while the window is open
        kept = self._kept().get(self._key(environment))
        if kept is not None:
            return kept

        asked, answer = self._recent.get(environment.activation, (None, ""))
        if asked is None or self._clock() - asked > SECONDS_BETWEEN_PROBES:
            answer = self._ask(environment.activation)
            self._recent[environment.activation] = (self._clock(), answer)
        if isinstance(answer, Found) and answer.problem(environment, self._version) is None:
            self._keep(environment, answer)
        return answer

    def problem(self, environment: Environment) -> Optional[str]:
        """Return in one line why the denoiser cannot run in an environment; None if it can."""
        answer = self.answer(environment)
        if isinstance(answer, str):
            return f"{answer} {environment.remedy}"
        return answer.problem(environment, self._version)

    def _key(self, environment: Environment) -> str:
        return f"{self._version}: {environment.activation}"

    def _kept(self) -> Dict[str, Found]:
        try:
            return {key: Found(**_fields(found)) for key, found in read_json(self._file).items()}
        except (CryodenError, AttributeError, KeyError, TypeError):  # none yet, or not ours: it is only asked again
            return {}

    def _keep(self, environment: Environment, found: Found) -> None:
        kept = {key: asdict(value) for key, value in self._kept().items()}
        kept[self._key(environment)] = asdict(found)
        try:
            os.makedirs(os.path.dirname(self._file), exist_ok=True)
            write_json(self._file, kept)
        except (CryodenError, OSError):  # where nothing can be written it is only asked again
            return


def _fields(found: Dict[str, Any]) -> Dict[str, Any]:
    return {name: found[name] for name in ("prefix", "cryoden", "torch", "gpuBuild")}


def seesGpu() -> bool:
    """Return whether this computer has an NVIDIA GPU and its driver."""
    if not shutil.which("nvidia-smi"):
        return False
    try:
        words = ["nvidia-smi", "-L"]
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=NVIDIA_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and b"GPU" in done.stdout
