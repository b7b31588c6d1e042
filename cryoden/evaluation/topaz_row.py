"""The row of Topaz-Denoise: writes the halves for it, runs it once, and hands back what it made of each micrograph."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence, Tuple

import numpy as np

from cryoden.config import EvaluateConfig
from cryoden.data.normalize import GreyScale, measure_scale
from cryoden.data.pairs import HalfPair
from cryoden.errors import CryodenError, Problem
from cryoden.evaluation.candidates import Candidate
from cryoden.formats.files import make_folder
from cryoden.formats.images import read_micrograph
from cryoden.formats.mrc import write_image
from cryoden.formats.progress_log import write_above_bar
from cryoden.metrics.measurement import NOISE_SIDE
from cryoden.metrics.psnr_ssim import centre
from cryoden.model.topaz import NETWORK_FILES, TopazError, run_topaz, topaz_command

log = logging.getLogger(__name__)

KINDS = ("odd", "even", "noise")


class TopazRow:
    """Topaz-Denoise among the denoisers of an evaluation.

    Parameters
    ----------
    config
        The options.
    output
        Folder of the evaluation.
    device
        Where the networks compute: `cpu` or `cuda:N`.

    Attributes
    ----------
    is_there
        Whether it takes part.
    """

    def __init__(self, config: EvaluateConfig, output: Path, device: str) -> None:
        self.config, self.folder, self.device = config, output / "topaz", device
        self.note, self.is_there = "left out with --topaz no", False
        self.command: List[str] = []
        if config.topaz == "no":
            return
        try:
            self.command = topaz_command(config.topaz)
            self.is_there, self.note = True, f"pretrained {NETWORK_FILES[config.topaz_network]}"
        except TopazError as error:
            self.note = str(error)

    @property
    def record(self) -> Dict[str, Any]:
        """What measurements of one folder must have in common."""
        return {"is_there": self.is_there, "network": self.config.topaz_network if self.is_there else None}

    def candidate(self) -> Candidate:
        """Return its row: its network's file, or why it is not there."""
        return Candidate("topaz", f"Topaz-Denoise {self.config.topaz_network}", "external", self.note)

    def prepare(
        self, pairs: Sequence[HalfPair], load: Callable[[HalfPair], Any], failures: Dict[str, Problem], must_work: bool
    ) -> None:
        """Denoise the halves of all micrographs, and a cut-out of their noise, at the working sampling rate.

        A micrograph that cannot be read goes to `failures`; if Topaz fails, it does not take part and the row says why.

        Raises
        ------
        TopazError
            If it fails although it must work, because other micrographs were measured with it before.
        """
        if not self.is_there or not pairs:
            return
        inputs, outputs = make_folder(self.folder / "in"), make_folder(self.folder / "out")
        images: List[Path] = []
        for pair in pairs:
            try:
                odd, even = load(pair).at(pair.shape)
                scales = [measure_scale(half) for half in (odd, even)]
            except CryodenError as error:
                failures[pair.name] = error.problem
                write_above_bar(str(error))
                continue
            halves = [centre(scale.standardize(half), NOISE_SIDE) for scale, half in zip(scales, (odd, even))]
            noise = (halves[0] - halves[1]) / np.float32(np.sqrt(2))
            for kind, image in zip(KINDS, (odd, even, noise)):
                images.append(inputs / f"{pair.name}_{kind}.mrc")
                write_image(images[-1], image, pair.sampling_rate)
        log.info("Topaz-Denoise works on %d images: minutes on a CPU.", len(images))
        try:
            run_topaz(self.command, self.config.topaz_network, images, outputs, self.device)
        except TopazError as error:
            if must_work:
                raise TopazError(f"Topaz-Denoise {error}; it worked in the run that this one continues.") from error
            self.is_there, self.note = False, str(error)
            log.warning("Topaz-Denoise: %s", error)

    def predictions(self, pair: HalfPair, scales: Sequence[GreyScale]) -> Tuple[List[np.ndarray], np.ndarray]:
        """Return the standardised predictions for both halves of a micrograph, and that for its noise."""
        odd, even, noise = (read_micrograph(self.folder / "out" / f"{pair.name}_{kind}.mrc")[0] for kind in KINDS)
        halves = [
            (image - np.float32(scale.mean)) / np.float32(scale.deviation) for image, scale in zip((odd, even), scales)
        ]
        return halves, noise

    def clean(self) -> None:
        """Remove the images that were written for Topaz and by it."""
        if self.folder.is_dir():
            shutil.rmtree(str(self.folder))
