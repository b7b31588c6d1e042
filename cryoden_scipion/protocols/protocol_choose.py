"""Choose a denoiser: halves -> the CryodenModel that is best on them, among all there are."""

from __future__ import annotations

import os
from enum import Enum
from typing import TYPE_CHECKING, List

from pyworkflow.constants import BETA
from pyworkflow.protocol import params

from cryoden.config import ChooseConfig
from cryoden.errors import CryodenError, Problem
from cryoden.formats import outputs
from cryoden.formats.model_file import read_card
from cryoden.formats.run_record import recorded_options
from cryoden.wording import counted
from cryoden_scipion import __version__
from cryoden_scipion.objects import CryodenModel
from cryoden_scipion.protocols.continuing import optionProblems
from cryoden_scipion.protocols.halves_input import EVEN_STAR, ODD_STAR, HalvesInput

if TYPE_CHECKING:
    from cryoden.report.election_result import Election
    from cryoden.report.evaluation_table import EvaluationTable

TOPAZ = "topaz"
"""Key of its row in the table."""


class ChooseOutputs(Enum):
    """The elected denoiser."""

    outputModel = CryodenModel


class CryodenProtChoose(HalvesInput):
    """Find out which denoiser is best on your own micrographs, and get it.

    Linear filters, the general model that comes with cryoden, the same fine-tuned on your micrographs for a minute, and
    denoisers of your own are compared on halves that none of them has seen. The one that explains most of their signal
    (R2), or of equally good ones the simplest, is the output.

    It can be given to _denoise micrographs_ like a trained denoiser, also where it is a linear filter.
    """

    _label = "choose denoiser"
    _devStatus = BETA
    _possibleOutputs = ChooseOutputs
    _fields = {"band": "Score band (Å)", "model": "inputModels", "odd": "halvesFrom", "even": "halvesFrom"}

    # --------------------------- DEFINE param functions ----------------------
    def _defineParams(self, form: params.Form) -> None:
        form.addSection(label="Input")
        self._defineHalvesParams(form)
        self._defineWaitParam(form, "then elect once by what is there")
        form.addParam(
            "inputModels",
            params.MultiPointerParam,
            pointerClass="CryodenModel",
            allowsNull=True,
            label="Your own denoisers (optional)",
            help="Further candidates. Micrographs that one was trained on are not used to compare it; one that knows "
            "all of them takes no part.",
        )
        self._addOption(form, ChooseConfig, "seconds", params.FloatParam, "Fine-tuning (s)")
        self._addGpuParams(form, "Number of the GPU, counted from 0.")
        form.addSection(label="Comparison")
        self._defineComparisonParams(form)

    def _defineComparisonParams(self, form: params.Form) -> None:
        low, high = ChooseConfig.default_of("band")
        line = form.addLine("Score band (Å)", help=ChooseConfig.help_of("band"))
        line.addParam("bandLow", params.FloatParam, default=low, label="from")
        line.addParam("bandHigh", params.FloatParam, default=high, label="to")
        self._addOption(form, ChooseConfig, "held_out", params.FloatParam, "Held-out fraction")
        self._addOption(form, ChooseConfig, "margin", params.FloatParam, "R2 that counts as equal")
        inLine = {"display": params.EnumParam.DISPLAY_HLIST}
        self._addChoice(form, ChooseConfig, "quality", "Quality", **inLine)
        advanced = {"expertLevel": params.LEVEL_ADVANCED}
        self._addOption(form, ChooseConfig, "at_most", params.IntParam, "Maximum held-out micrographs", **advanced)
        self._addOption(form, ChooseConfig, "topaz", params.StringParam, "Topaz-Denoise", **advanced)
        self._addChoice(form, ChooseConfig, "topaz_network", "Topaz model", **inLine, **advanced)
        self._addChoice(form, ChooseConfig, "precision", "Numerical precision", **advanced)
        self._addOption(form, ChooseConfig, "tile", params.IntParam, "Tile size (px)", **advanced)
        self._addOption(form, ChooseConfig, "bootstrap", params.IntParam, "Bootstrap resamplings", **advanced)
        self._addOption(form, ChooseConfig, "seed", params.IntParam, "Random seed", **advanced)

    # --------------------------- INSERT steps functions -----------------------
    def _insertAllSteps(self) -> None:
        self._insertFunctionStep(self.convertInputStep, needsGPU=False)
        self._insertFunctionStep(self.chooseStep, needsGPU=True)
        self._insertFunctionStep(self.createOutputStep, needsGPU=False)

    # --------------------------- STEPS functions ------------------------------
    def convertInputStep(self) -> None:
        """Wait for enough micrographs where asked to, then list the halves by micrograph name."""
        self._waitForInputs()
        self._writeHalvesStars()

    def chooseStep(self) -> None:
        """Run `cryoden choose`; after a stop it goes on with the micrographs with which it began."""
        self._runCryoden("choose", self._config())

    def createOutputStep(self) -> None:
        """Register the elected denoiser."""
        model = CryodenModel(self._getExtraPath(outputs.MODEL))
        model.setFromCard(read_card(model.getFileName()))
        self._defineOutputs(**{ChooseOutputs.outputModel.name: model})
        for pointer in self._inputPointers():
            self._defineSourceRelation(pointer, model)

    # --------------------------- INFO functions -------------------------------
    def _validate(self) -> List[str]:
        problems = self._problemsOf(self._config) + self._validateHalves() + self._validateWait()
        return problems or self._validateContinued()

    def _continueProblems(self) -> List[str]:
        record = recorded_options(self._getExtraPath(outputs.CHOOSE_RECORD))
        return [] if record is None else optionProblems(record, self._config().to_dict(), self._words)

    def _summary(self) -> List[str]:
        if not self.hasElection():
            return ["No election yet."]
        try:
            election = self.election()
        except CryodenError as error:
            return [self._errorText(error)]

        lines = [f"*{election.headline()}*", *election.reasons(), election.basis()]
        lines += [
            f"{candidate.label} took no part: {candidate.problem.text(self._words)}"
            for candidate in election.candidates
            if candidate.problem is not None
        ]
        lines += self._warningLines(map(Problem.from_dict, election.warnings))
        return [*lines, f"Report: {self.evaluationPath(outputs.REPORT)}", *self._failureLines()]

    def _methods(self) -> List[str]:
        if not self.hasElection():
            return []
        election = self.election()
        low, high = election.band.split("-")
        compared = [candidate for candidate in election.candidates if candidate.value is not None]
        numbers = "; ".join(f"{candidate.label} {self._withError(candidate.r2)}" for candidate in compared)
        lines = [
            f"The denoiser was chosen with cryoden {__version__} among {counted(len(compared), 'candidate')} by the "
            f"explained fraction of the signal variance (R2) between {low} and {high} Å. As in Noise2Noise "
            f"[Lehtinen2018] training, each half of {counted(len(election.held_out), 'held-out micrograph')} was "
            "denoised and compared with the other half, whose noise is independent.",
            f"R2: {numbers}. {election.winner.label} was used.",
        ]
        return lines + ["Topaz-Denoise [Bepler2020] was applied for comparison."] * self._isWithTopaz()

    def _citations(self) -> List[str]:
        return ["Lehtinen2018", "Bepler2020"] if self._isWithTopaz() else ["Lehtinen2018"]

    # --------------------------- UTILS functions ------------------------------
    def hasElection(self) -> bool:
        """Return whether an election was held."""
        return os.path.exists(self._getExtraPath(outputs.ELECTION))

    def election(self) -> Election:
        """Return the result of the election."""
        from cryoden.report.election_result import read_election

        return read_election(self._getExtraPath())

    def table(self) -> EvaluationTable:
        """Return the table of the evaluation by which the election was decided."""
        from cryoden.report.evaluation_table import read_table

        return read_table(self.evaluationPath(outputs.METRICS))

    def evaluationPath(self, *names: str) -> str:
        """Return where the evaluation lies, or a file of it."""
        return self._getExtraPath(outputs.EVALUATION_FOLDER, *names)

    def hasTruth(self) -> bool:
        """Return whether clean images were given."""
        return False

    def _isWithTopaz(self) -> bool:
        return self.hasElection() and any(c.key == TOPAZ and c.value is not None for c in self.election().candidates)

    def _config(self) -> ChooseConfig:
        return ChooseConfig(
            odd=self._getExtraPath(ODD_STAR),
            even=self._getExtraPath(EVEN_STAR),
            output=self._getExtraPath(),
            model=tuple(pointer.get().getFileName() for pointer in self.inputModels),
            seconds=self.seconds.get(),
            topaz=self.topaz.get() or "",
            topaz_network=self._choice(ChooseConfig, "topaz_network"),
            band=(self.bandLow.get(), self.bandHigh.get()),
            margin=self.margin.get(),
            held_out=self.held_out.get(),
            at_most=self.at_most.get(),
            quality=self._choice(ChooseConfig, "quality"),
            precision=self._choice(ChooseConfig, "precision"),
            tile=self.tile.get(),
            bootstrap=self.bootstrap.get(),
            seed=self.seed.get(),
            device=self._device(),
        )
