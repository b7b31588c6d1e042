"""Topaz-Denoise beside ours: its own program, in whatever environment it lives, on the same halves.

Bepler et al. 2020, Nature Communications 11, 5208. The program takes its pretrained network from `--arch` (`--model` is
ignored when it denoises) and says on stderr which file it loaded; only what it says is believed.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from cryoden.errors import CryodenError

NETWORK_FILES = {
    "unet": "unet_L2_v0.2.2.sav",
    "unet-small": "unet_small_L1_v0.2.2.sav",
    "affine": "affine_L1_v0.2.2.sav",
}
"""Weights that topaz-em 0.3 loads for each architecture, as it names them itself."""

INSTALL_HINT = "install topaz-em here, or name its command with --topaz"


class TopazError(CryodenError):
    """Topaz is not there, failed, or used another network than the one asked for."""


def topaz_command(option: str) -> List[str]:
    """Return the words that start Topaz, for the option `auto` or a command.

    Raises
    ------
    TopazError
        If it is not installed.
    """
    if option == "auto":
        if importlib.util.find_spec("topaz") is None:
            raise TopazError(f"not installed; {INSTALL_HINT}")
        return [sys.executable, "-m", "topaz.main"]
    return shlex.split(option)


def run_topaz(command: Sequence[str], network: str, images: Sequence[Path], output: Path, device: str) -> str:
    """Denoise MRC files into a folder, under their own names, and return the file of the network that was used.

    Parameters
    ----------
    command
        Of `topaz_command`.
    network
        One of `NETWORK_FILES`.
    images
        Input files.
    output
        Folder.
    device
        `cpu`, or `cuda:N`.

    Raises
    ------
    TopazError
        If the program cannot be started, fails, loads another network, or leaves an image out.
    """
    number = -1 if device == "cpu" else int([*device.split(":"), "0"][1])
    words = [*command, "denoise", "--arch", network, "--device", str(number), "--output", str(output)]
    try:
        result = subprocess.run([*words, *map(str, images)], capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise TopazError(f"cannot be started: {command[0]}: {error.strerror or error}; {INSTALL_HINT}") from error
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise TopazError(f"failed with status {result.returncode}: {reason}")
    loaded = _loaded_network(result.stderr)
    if loaded != NETWORK_FILES[network]:
        raise TopazError(
            f"loaded {loaded or 'a network that it did not name'} where {NETWORK_FILES[network]} was asked for; its "
            "numbers would be those of another network. Use topaz-em 0.3."
        )
    missing = [image.name for image in images if not (output / image.name).is_file()]
    if missing:
        raise TopazError(f"left out {len(missing)} of {len(images)} images, such as {missing[0]}")
    return loaded


def _loaded_network(stderr: str) -> Optional[str]:
    found: Dict[str, None] = dict.fromkeys(re.findall(r"loading pretrained model:\s*(\S+)", stderr))
    return next(iter(found)) if len(found) == 1 else None
