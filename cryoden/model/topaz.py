"""Topaz-Denoise beside ours: its own program, in whatever environment it lives, on the same images.

Bepler et al. 2020, Nature Communications 11, 5208. The program takes its pretrained network from `--arch` (`--model` is
ignored when it denoises) and says on stderr which file it loaded; only what it says is believed.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from cryoden.data.normalize import GreyScale
from cryoden.errors import CryodenError, Remedy
from cryoden.formats.files import PathLike, make_folder
from cryoden.formats.images import read_micrograph
from cryoden.formats.mrc import write_image
from cryoden.model.denoiser import Denoiser
from cryoden.wording import counted

log = logging.getLogger(__name__)

NETWORK_FILES = {
    "unet": "unet_L2_v0.2.2.sav",
    "unet-small": "unet_small_L1_v0.2.2.sav",
    "affine": "affine_L1_v0.2.2.sav",
}
"""Weights that topaz-em 0.3 loads for each architecture, as it names them itself."""

HOW_TO_GET = "install topaz-em here, or name its command."


class TopazError(CryodenError):
    """Topaz is not there, failed, or used another network than the one asked for."""

    kind = "topaz"


class TopazDenoiser(Denoiser):
    """Topaz-Denoise with one of its pretrained networks.

    Parameters
    ----------
    command
        `auto` for what is installed here, or the command that starts Topaz.
    network
        One of `NETWORK_FILES`.
    folder
        For the images on their way; it is removed with all that it holds.
    device
        Where it computes: `cpu`, or `cuda:N`.

    Raises
    ------
    TopazError
        If it is not installed.
    """

    n_ahead = 16  # the program takes seconds to start

    def __init__(self, command: str, network: str, folder: PathLike, device: str) -> None:
        self.label = f"Topaz-Denoise {network}"
        self._command, self._network, self._device = topaz_command(command), network, device
        self._folder = Path(folder)
        self._made: List[Tuple[np.ndarray, Path]] = []

    @property
    def weights(self) -> str:
        """The file of its weights, as Topaz names it."""
        return NETWORK_FILES[self._network]

    def denoise(self, image: np.ndarray, sampling_rate: float, scale: Optional[GreyScale] = None) -> np.ndarray:
        """Return the denoised image; see `Denoiser.denoise`. Topaz brings images to a scale of its own, and back."""
        made = next((path for pixels, path in self._made if pixels is image), None)
        if made is None:
            made = self._run({"image": (image, sampling_rate)}, self._folder / "alone")[0]
        return read_micrograph(made)[0]

    def denoise_ahead(self, images: Mapping[str, Tuple[np.ndarray, float]]) -> None:
        """Denoise many images in one go; see `Denoiser.denoise_ahead`."""
        log.info("Topaz-Denoise works on %s: minutes on a CPU.", counted(len(images), "image"))
        self._made = []
        paths = self._run(images, self._folder / "ahead")
        self._made = [(pixels, path) for (pixels, _), path in zip(images.values(), paths)]

    def close(self) -> None:
        """Remove the images that were written for Topaz and by it."""
        self._made = []
        _remove(self._folder)

    def _run(self, images: Mapping[str, Tuple[np.ndarray, float]], folder: Path) -> List[Path]:
        """Denoise images by name in a folder, and return the files of the results in the same order."""
        _remove(folder)
        inputs, outputs = make_folder(folder / "in"), make_folder(folder / "out")
        files = [inputs / f"{name}.mrc" for name in images]
        for path, (pixels, sampling_rate) in zip(files, images.values()):
            write_image(path, pixels, sampling_rate)
        run_topaz(self._command, self._network, files, outputs, self._device)
        return [outputs / path.name for path in files]


def _remove(folder: Path) -> None:
    if folder.is_dir():
        shutil.rmtree(str(folder))


def topaz_command(option: str) -> List[str]:
    """Return the words that start Topaz, for the option `auto` or a command.

    Raises
    ------
    TopazError
        If it is not installed.
    """
    if option == "auto":
        if importlib.util.find_spec("topaz") is None:
            raise TopazError(f"Topaz is not installed; {HOW_TO_GET}", subject="topaz", remedy=Remedy("set", "topaz"))
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
        raise TopazError(
            f"Topaz cannot be started: {command[0]}: {error.strerror or error}; {HOW_TO_GET}",
            subject="topaz",
            remedy=Remedy("set", "topaz"),
        ) from error
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["it said nothing"])[-1].rstrip(".")
        raise TopazError(f"Topaz failed with status {result.returncode}: {reason}.", subject="topaz")

    loaded = _loaded_network(result.stderr)
    if loaded != NETWORK_FILES[network]:
        raise TopazError(
            f"Topaz loaded {loaded or 'a network that it did not name'} where {NETWORK_FILES[network]} was asked for; "
            "its numbers would be those of another network. Use topaz-em 0.3.",
            subject="topaz",
        )
    missing = [image.name for image in images if not (output / image.name).is_file()]
    if missing:
        raise TopazError(
            f"Topaz left out {len(missing)} of {counted(len(images), 'image')}, such as {missing[0]}.", subject="topaz"
        )
    return loaded


def _loaded_network(stderr: str) -> Optional[str]:
    found: Dict[str, None] = dict.fromkeys(re.findall(r"loading pretrained model:\s*(\S+)", stderr))
    return next(iter(found)) if len(found) == 1 else None
