"""One protocol for each command of the denoiser."""

from .protocol_denoise import CryodenProtDenoise as CryodenProtDenoise
from .protocol_split_halves import CryodenProtSplitHalves as CryodenProtSplitHalves
from .protocol_train import CryodenProtTrain as CryodenProtTrain
