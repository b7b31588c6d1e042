"""What `cryoden choose` can be asked."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Iterator, Optional, Tuple

from cryoden.config import shared
from cryoden.config.evaluate import EvaluateConfig
from cryoden.config.options import Config, Groups, option
from cryoden.errors import OptionError, Problem

SAME_R2 = 0.005
"""Denoisers whose R2 differ by less count as equally good: nobody sees it."""


@dataclasses.dataclass(frozen=True)
class ChooseConfig(Config):
    """Choose the denoiser that is best on these micrographs, by R2 on halves that were held out, and write it."""

    groups: ClassVar[Groups] = {
        "input and output": ("odd", "even", "output", "overwrite"),
        "candidates": ("model", "seconds", "topaz", "topaz_network"),
        "score": ("band", "margin", "held_out", "at_most", "bootstrap", "seed"),
        "network": ("quality", "tile", "precision", "device"),
    }

    odd: str = shared.odd()
    even: str = shared.even()
    output: str = option(
        help="Folder for model.safetensors (the elected denoiser), election.txt, election.json, evaluation/report.html."
    )
    model: Tuple[str, ...] = option((), help="Your own model files, as further candidates.")
    seconds: float = option(
        60.0, at_least=0, help="Fine-tune the general model for this many seconds; 0: not at all. CPUs need minutes."
    )
    topaz: str = EvaluateConfig.declared("topaz")
    topaz_network: str = EvaluateConfig.declared("topaz_network")
    band: Tuple[float, float] = EvaluateConfig.declared("band")
    margin: float = option(
        SAME_R2,
        at_least=0,
        at_most=1,
        help="Of all candidates whose R2 is less than this below the best, the simplest is chosen.",
    )
    held_out: float = option(
        0.3,
        above=0,
        below=1,
        help="Fraction of the micrographs held out to elect by (at least one, of four or more at least two); a "
        "single micrograph is cut in two.",
    )
    at_most: int = option(
        20, at_least=1, help="Maximum number of micrographs to elect by, and to fit the linear filters on."
    )
    quality: str = shared.quality()
    precision: str = shared.precision()
    tile: Optional[int] = shared.tile()
    bootstrap: int = EvaluateConfig.declared("bootstrap")
    seed: int = option(1, at_least=0, help="Random seed: which micrographs are held out, fine-tuning, bootstrap.")
    overwrite: bool = option(False, help="Replace the results of an earlier run in the output folder.")
    device: str = shared.device()

    def evaluation(self, odd: str, even: str, model: Tuple[str, ...], output: str, rate: float) -> EvaluateConfig:
        """Return the options with which the candidates are measured.

        Parameters
        ----------
        odd, even, model, output
            As of that command.
        rate
            A/px at which they are compared.
        """
        shared_names = ("topaz", "topaz_network", "band", "quality", "precision", "tile", "bootstrap", "seed", "device")
        given = {name: getattr(self, name) for name in shared_names}
        return EvaluateConfig(odd=odd, even=even, model=model, output=output, sampling_rate=rate, **given)

    def _problems(self) -> Iterator[Problem]:
        try:
            self.evaluation(self.odd, self.even, self.model, self.output or "-", 1.0)
        except OptionError as error:
            known = {problem.subject for problem in self._option_problems()}
            yield from (problem for problem in error.problems if problem.subject not in known)
