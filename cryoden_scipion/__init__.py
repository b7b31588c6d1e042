"""Scipion plugin of cryoden: asks, launches `python -m cryoden`, registers what came out. It never loads torch."""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
from typing import Any, List

import pwem
import pyworkflow.utils as pwutils

from cryoden import __version__ as __version__
from cryoden_scipion.constants import CRYODEN_ENV_ACTIVATION

_logo = "cryoden_logo.png"
_references = ["Lehtinen2018"]


class Plugin(pwem.Plugin):
    """Where the denoiser runs and how it is called."""

    _homeVar = ""
    _pathVars: List[str] = []
    _supportedVersions: List[str] = []

    @classmethod
    def _defineVariables(cls) -> None:
        cls._defineVar(
            CRYODEN_ENV_ACTIVATION,
            "",
            description="Command that activates the environment in which cryoden is installed. Empty: Scipion's own.",
        )

    def getName(self) -> str:
        """Return how the protocols are introduced in Scipion's window."""
        return "cryoden"

    @classmethod
    def getActivationCmd(cls) -> str:
        """Return the command that activates the denoiser's environment; empty for Scipion's own."""
        return (cls.getVar(CRYODEN_ENV_ACTIVATION) or "").strip()

    @classmethod
    def getProgram(cls, nProcesses: int = 1) -> str:
        """Return the start of a command line of the denoiser, in one process for each GPU."""
        activation = cls.getActivationCmd()
        python = f"{activation} && python" if activation else shlex.quote(sys.executable)
        if nProcesses > 1:
            python += f" -m torch.distributed.run --standalone --nproc-per-node {nProcesses}"
        return f"{python} -m cryoden"

    @classmethod
    def getEnviron(cls) -> pwutils.Environ:
        """Return the environment of the denoiser's processes; their output comes line by line."""
        environ = pwutils.Environ(os.environ)
        environ["PYTHONUNBUFFERED"] = "1"
        return environ

    @classmethod
    def defineBinaries(cls, env: Any) -> None:
        """Define nothing: the denoiser is this package itself."""

    @classmethod
    def validateInstallation(cls) -> List[str]:
        """Return what is missing: torch, where the denoiser runs in Scipion's own environment."""
        if cls.getActivationCmd() or importlib.util.find_spec("torch"):
            return []
        return [
            "PyTorch is not installed in Scipion's environment. Install it (scipion3 pip install torch), or set "
            f"{CRYODEN_ENV_ACTIVATION} to a command that activates an environment with cryoden."
        ]
