"""One protocol for each command of the denoiser, and three that import and export halves and models."""

from .protocol_choose import CryodenProtChoose as CryodenProtChoose
from .protocol_denoise import CryodenProtDenoise as CryodenProtDenoise
from .protocol_evaluate import CryodenProtEvaluate as CryodenProtEvaluate
from .protocol_import_empiar import CryodenProtImportEmpiar as CryodenProtImportEmpiar
from .protocol_import_halves import CryodenProtImportHalves as CryodenProtImportHalves
from .protocol_models import CryodenProtExportModel as CryodenProtExportModel
from .protocol_models import CryodenProtImportModel as CryodenProtImportModel
from .protocol_simulate_movies import CryodenProtSimulateMovies as CryodenProtSimulateMovies
from .protocol_split_halves import CryodenProtSplitHalves as CryodenProtSplitHalves
from .protocol_train import CryodenProtTrain as CryodenProtTrain
