"""What each command can be asked: frozen dataclasses with their rules, to and from JSON.

The command line and the forms of the Scipion protocols are both made from these classes, so that an option has one
name, one default, one rule and one help text. Standard library only.
"""

from typing import Union

from cryoden.config import shared
from cryoden.config.choose import ChooseConfig
from cryoden.config.denoise import DenoiseConfig
from cryoden.config.evaluate import SCORE_BAND_A, EvaluateConfig
from cryoden.config.halves import HalvesConfig, parse_frame_range
from cryoden.config.options import Config, Options, option
from cryoden.config.run import RunConfig
from cryoden.config.shared import GIB, NETWORKS, UNETS
from cryoden.config.show import ShowConfig
from cryoden.config.train import TrainConfig

__all__ = [
    "GIB",
    "NETWORKS",
    "SCORE_BAND_A",
    "UNETS",
    "ChooseConfig",
    "Config",
    "DenoiseConfig",
    "EvaluateConfig",
    "HalvesConfig",
    "Options",
    "RunConfig",
    "ShowConfig",
    "TrainConfig",
    "WatchingConfig",
    "option",
    "parse_frame_range",
    "shared",
]

WatchingConfig = Union[HalvesConfig, DenoiseConfig]
"""Options of a command that can keep looking for new files."""
