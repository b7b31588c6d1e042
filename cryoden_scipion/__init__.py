"""Scipion plugin of cryoden: asks, launches `python -m cryoden`, registers what came out. It never loads torch."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from typing import Any, List, Optional

import pwem
import pyworkflow as pw
import pyworkflow.utils as pwutils

from cryoden import __version__ as __version__
from cryoden_scipion.constants import CRYODEN, CRYODEN_ENV_ACTIVATION, CRYODEN_TORCH, CRYODEN_TORCH_INDEX
from cryoden_scipion.environment import READY, Checks, Environment, Found, chooseEnvironment, hasOwnTorch, seesGpu
from cryoden_scipion.environment_build import (
    CONDA_MINOR_VERSION,
    buildCommand,
    denoiserPackage,
    newestPython,
    torchPackage,
)

_logo = "cryoden_logo.png"
_references = ["Lehtinen2018"]

CHECKS_FILE = "cryoden_environments.json"
"""In the folder of the user's Scipion data: environments that were found complete."""


class Plugin(pwem.Plugin):
    """Where the denoiser runs and how it is called."""

    _homeVar = ""
    _pathVars: List[str] = []
    _supportedVersions: List[str] = [__version__]
    _url = "https://github.com/scipion-em/scipion-em-cryoden"
    _processingField: List[str] = ["SPA"]

    _checks: Optional[Checks] = None

    @classmethod
    def _defineVariables(cls) -> None:
        cls._defineVar(
            CRYODEN_ENV_ACTIVATION,
            "",
            description="Command that activates the environment in which cryoden runs. Empty: Scipion's own if PyTorch "
            f"is installed there, else the one that 'scipion3 installb {CRYODEN}' makes.",
        )
        cls._defineVar(
            CRYODEN_TORCH,
            "",
            description=f"What 'scipion3 installb {CRYODEN}' installs as PyTorch, as torch==2.13.0. Empty: the "
            "version that the tests run with, in pip's own build.",
        )
        cls._defineVar(
            CRYODEN_TORCH_INDEX,
            "",
            description=f"Address of the package index with the build that {CRYODEN_TORCH} names. Empty: pip's own.",
        )

    def getName(self) -> str:
        """Return how the protocols are introduced in Scipion's window."""
        return "cryoden"

    @classmethod
    def getActiveVersion(cls, home: Optional[str] = None, versions: Optional[List[str]] = None) -> str:
        """Return the version of the denoiser: the plugin's own, no other is used."""
        return __version__

    # --------------------------- Where the denoiser runs ----------------------
    @classmethod
    def getEnvironment(cls) -> Environment:
        """Return where the denoiser runs."""
        variable = (cls.getVar(CRYODEN_ENV_ACTIVATION) or "").strip()
        return chooseEnvironment(variable, cls.getCondaHook(), cls.getBuiltFolder(), hasOwnTorch())

    @classmethod
    def getActivationCmd(cls) -> str:
        """Return the command that activates the denoiser's environment; empty for Scipion's own."""
        return cls.getEnvironment().activation

    @classmethod
    def getCondaHook(cls) -> str:
        """Return what makes `conda activate` known to a shell, with `&&` at its end; empty where there is no conda."""
        if pw.Config.CONDA_ACTIVATION_CMD:
            return f"{cls.getCondaActivationCmd()} "
        return 'eval "$(conda shell.bash hook)" && ' if shutil.which("conda") else ""

    @classmethod
    def getBuiltFolder(cls) -> str:
        """Return the folder of the environment that `scipion3 installb` makes for this version."""
        return os.path.join(pwem.Config.EM_ROOT, f"{CRYODEN}-{__version__}")

    @classmethod
    def getProgram(cls) -> str:
        """Return the start of a command line of the denoiser."""
        activation = cls.getActivationCmd()
        python = f"{activation} && python" if activation else shlex.quote(sys.executable)
        return f"{python} -m cryoden"

    @classmethod
    def getEnviron(cls) -> pwutils.Environ:
        """Return the environment variables of the denoiser's processes; their output comes line by line."""
        environ = pwutils.Environ(os.environ)
        environ["PYTHONUNBUFFERED"] = "1"
        environment = cls.getEnvironment()
        if environment.activation:
            answer = cls.getChecks().answer(environment)
            if not (isinstance(answer, Found) and answer.isOwn):
                environ.pop("PYTHONPATH", None)  # packages of Scipion's Python are none of another one's
        return environ

    # --------------------------- What is wrong there --------------------------
    @classmethod
    def getChecks(cls) -> Checks:
        """Return what is known of environments."""
        if cls._checks is None:
            folder = os.path.expanduser(pw.Config.SCIPION_USER_DATA)
            cls._checks = Checks(os.path.join(folder, CHECKS_FILE), __version__)
        return cls._checks

    @classmethod
    def validateInstallation(cls) -> List[str]:
        """Return in one line why the denoiser cannot run; nothing if it can."""
        problem = cls.getChecks().problem(cls.getEnvironment())
        return [problem] if problem else []

    @classmethod
    def gpuWarnings(cls) -> List[str]:
        """Return in one line why no GPU will be used; nothing if one will be."""
        answer = cls.getChecks().answer(cls.getEnvironment())
        warning = answer.gpuWarning(seesGpu()) if isinstance(answer, Found) else None
        return [warning] if warning else []

    # --------------------------- How it is made -------------------------------
    @classmethod
    def getDependencies(cls) -> List[str]:
        """Return the programs that `scipion3 installb` needs and does not find: conda, where Python is too old."""
        return [] if cls.getCondaHook() or newestPython() else ["conda"]

    @classmethod
    def defineBinaries(cls, env: Any) -> None:
        """Define how `scipion3 installb cryoden` makes the denoiser's environment; never by itself: it takes GB."""
        condaHook = cls.getCondaHook()
        python, minor = (condaHook == "" and newestPython()) or ("python3", CONDA_MINOR_VERSION)
        torch = cls.getVar(CRYODEN_TORCH) or torchPackage(minor), cls.getVar(CRYODEN_TORCH_INDEX) or ""
        root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        command = buildCommand(python, condaHook, torch, denoiserPackage(root, __version__))
        env.addPackage(
            CRYODEN,
            version=__version__,
            tar="void.tgz",
            url=f"file:{os.devnull}",  # nothing is to be downloaded and unpacked
            commands=[(command, READY)],
            neededProgs=cls.getDependencies(),
            default=False,
        )
