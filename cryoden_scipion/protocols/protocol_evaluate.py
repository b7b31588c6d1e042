"""Evaluate denoisers: halves + CryodenModels -> a report, and micrographs with their R2."""

from __future__ import annotations

import os
from enum import Enum
from typing import TYPE_CHECKING, List

from pwem.objects import SetOfMicrographs
from pyworkflow.constants import BETA
from pyworkflow.object import Float, Pointer
from pyworkflow.protocol import params

from cryoden.config import EvaluateConfig
from cryoden.errors import Problem
from cryoden.formats import outputs
from cryoden.wording import counted
from cryoden_scipion import __version__, convert
from cryoden_scipion.protocols.halves_input import EVEN_STAR, LINKED_SET, ODD_STAR, HalvesInput

if TYPE_CHECKING:
    from cryoden.report.evaluation_table import EvaluationTable, Row

TRUTH_STAR = "truth.star"
TOPAZ = "topaz"
"""Key of its row in the table."""

SCORES = {"_cryodenR2": "r2", "_cryodenR2Error": "r2_error", "_cryodenR2Corr": "r2_corr"}
"""Attributes of the output's micrographs, and which number of the evaluation they hold."""


class EvaluateOutputs(Enum):
    """Micrographs with their quality, to sort and select by."""

    outputMicrographs = SetOfMicrographs


class CryodenProtEvaluate(HalvesInput):
    """Measure how good denoisers are on your own micrographs, without ground truth.

    Each half is denoised and compared with the other half, whose noise is independent. This gives R2, the fraction of
    the unknown clean signal that a denoiser explains, next to what simple filters achieve.

    Every micrograph of the output is annotated with its R2: sort by it, or create a subset of the best.
    """

    _label = "evaluate denoiser"
    _devStatus = BETA
    _possibleOutputs = EvaluateOutputs
    _fields = {"band": "Score band (Å)", "model": "inputModels", "truth": "inputTruth"}

    # --------------------------- DEFINE param functions ----------------------
    def _defineParams(self, form: params.Form) -> None:
        form.addSection(label="Input")
        self._defineHalvesParams(form)
        form.addParam(
            "inputModels",
            params.MultiPointerParam,
            pointerClass="CryodenModel",
            allowsNull=True,
            important=True,
            label="Denoisers",
            help="Denoisers to compare; the report is about the first one. Without any, only simple filters are "
            "measured.",
        )
        form.addParam(
            "micrographsToScore",
            params.PointerParam,
            pointerClass="SetOfMicrographs",
            allowsNull=True,
            label="Micrographs to annotate with R2",
            help="The set that is returned with the R2 of every micrograph, matched by name: the full or the denoised "
            "set. If empty: the set with linked halves, or the odd micrographs.",
        )
        form.addParam(
            "inputTruth",
            params.PointerParam,
            pointerClass="SetOfMicrographs",
            allowsNull=True,
            label="Clean images (simulations)",
            expertLevel=params.LEVEL_ADVANCED,
            help="The clean images, if they are known, matched by name. The evaluation then gives the true quality, "
            "and maps of what is hallucinated or deleted.",
        )
        self._addGpuParams(form, "Number of the GPU, counted from 0.")
        form.addSection(label="Evaluation")
        self._defineEvaluationParams(form)

    def _defineEvaluationParams(self, form: params.Form) -> None:
        low, high = EvaluateConfig.default_of("band")
        line = form.addLine("Score band (Å)", help=EvaluateConfig.help_of("band"))
        line.addParam("bandLow", params.FloatParam, default=low, label="from")
        line.addParam("bandHigh", params.FloatParam, default=high, label="to")
        inLine = {"display": params.EnumParam.DISPLAY_HLIST}
        self._addChoice(form, EvaluateConfig, "scored", "Micrographs to score", **inLine)
        self._addChoice(form, EvaluateConfig, "quality", "Quality", **inLine)
        advanced = {"expertLevel": params.LEVEL_ADVANCED}
        self._addOption(form, EvaluateConfig, "topaz", params.StringParam, "Topaz-Denoise", **advanced)
        self._addChoice(form, EvaluateConfig, "topaz_network", "Topaz model", **inLine, **advanced)
        self._addOption(form, EvaluateConfig, "sampling_rate", params.FloatParam, "Pixel size (Å/px)", **advanced)
        self._addChoice(form, EvaluateConfig, "precision", "Numerical precision", **advanced)
        self._addOption(form, EvaluateConfig, "tile", params.IntParam, "Tile size (px)", **advanced)
        self._addOption(form, EvaluateConfig, "bootstrap", params.IntParam, "Bootstrap resamplings", **advanced)
        self._addOption(form, EvaluateConfig, "seed", params.IntParam, "Random seed", **advanced)

    # --------------------------- INSERT steps functions -----------------------
    def _insertAllSteps(self) -> None:
        self._insertFunctionStep(self.convertInputStep, needsGPU=False)
        self._insertFunctionStep(self.evaluateStep, needsGPU=True)
        self._insertFunctionStep(self.createOutputStep, needsGPU=False)

    # --------------------------- STEPS functions ------------------------------
    def convertInputStep(self) -> None:
        """List halves and truths by micrograph name."""
        self._writeHalvesStars()
        if self.inputTruth.get() is not None:
            micrographs = convert.clonedItems(self.inputTruth.get())
            names = [convert.micNameKey(micrograph) for micrograph in micrographs]
            convert.writeImagesStar(self._getExtraPath(TRUTH_STAR), micrographs, names=names)

    def evaluateStep(self) -> None:
        """Run `cryoden evaluate`; after a stop it resumes with the micrographs that are left."""
        self._runCryoden("evaluate", self._config())

    def createOutputStep(self) -> None:
        """Register the micrographs that were measured, each with its R2."""
        scores = self.leader().micrographs
        pointer = self._scoredPointer()
        micrographs = self._createSetOfMicrographs()
        micrographs.copyInfo(pointer.get())

        for micrograph in convert.clonedItems(pointer.get()):
            numbers = scores.get(convert.micNameKey(micrograph))
            if numbers is None:
                continue
            for attribute, quantity in SCORES.items():
                setattr(micrograph, attribute, Float(getattr(numbers, quantity)))
            micrographs.append(micrograph)
        if not micrographs.getSize():
            raise Exception(
                f"None of the micrographs in *{self._labelOf('micrographsToScore')}* has the name of an evaluated one; "
                "select the full or denoised set of the same movies."
            )
        self._defineOutputs(**{EvaluateOutputs.outputMicrographs.name: micrographs})
        self._defineTransformRelation(pointer, micrographs)
        for model in self.inputModels:
            self._defineSourceRelation(model, micrographs)

    # --------------------------- INFO functions -------------------------------
    def _validate(self) -> List[str]:
        return self._problemsOf(self._config) + self._validateHalves()

    def _summary(self) -> List[str]:
        if not os.path.exists(self._getExtraPath(outputs.METRICS)):
            return ["No evaluation yet."]

        table = self.table()
        band = table.bands[0]
        lines = [
            f"R2 at {band} Å on {counted(len(table.scored), 'micrograph')} (1 is the unknown clean image, 0 a "
            "constant one):"
        ]
        for row in table.rows:
            mark = "*" if row.key == table.leader else ""
            lines.append(f"  {mark}{row.label}: {self._withError(row.bands[band].r2)}{mark}")
        lines += [f"  {absent.label}: {absent.reason.text(self._words)}" for absent in table.absent]
        lines += self._warningLines(map(Problem.from_dict, table.warnings))
        return [*lines, f"Report: {self._getExtraPath(outputs.REPORT)}", *self._failureLines()]

    def _methods(self) -> List[str]:
        if not os.path.exists(self._getExtraPath(outputs.METRICS)):
            return []

        table = self.table()
        low, high = table.band_A
        lines = [
            f"Denoisers were evaluated with cryoden {__version__} on {counted(len(table.scored), 'micrograph')}. As "
            "in Noise2Noise [Lehtinen2018] training, each half was denoised and compared with the other half, whose "
            "noise is independent.",
            f"Explained fraction of the signal variance (R2) between {low:g} and {high:g} Å: "
            + "; ".join(f"{row.label} {self._withError(row.bands[table.bands[0]].r2)}" for row in table.rows)
            + ".",
        ]
        return lines + ["Topaz-Denoise [Bepler2020] was applied as a baseline."] * any(
            row.key == TOPAZ for row in table.rows
        )

    def _citations(self) -> List[str]:
        hasTable = os.path.exists(self._getExtraPath(outputs.METRICS))
        isWithTopaz = hasTable and any(row.key == TOPAZ for row in self.table().rows)
        return ["Lehtinen2018", "Bepler2020"] if isWithTopaz else ["Lehtinen2018"]

    # --------------------------- UTILS functions ------------------------------
    def table(self) -> EvaluationTable:
        """Return the table of the evaluation."""
        from cryoden.report.evaluation_table import read_table

        return read_table(self._getExtraPath(outputs.METRICS))

    def leader(self) -> Row:
        """Return the row that the report is about."""
        return self.table().leading_row

    def evaluationPath(self, *names: str) -> str:
        """Return where the evaluation lies, or a file of it."""
        return self._getExtraPath(*names)

    def hasTruth(self) -> bool:
        """Return whether clean images were given."""
        return self.inputTruth.get() is not None

    def _scoredPointer(self) -> Pointer:
        if self.micrographsToScore.get() is not None:
            return self.micrographsToScore
        return self.inputMicrographs if self.halvesFrom.get() == LINKED_SET else self.inputMicrographsOdd

    def _config(self) -> EvaluateConfig:
        return EvaluateConfig(
            odd=self._getExtraPath(ODD_STAR),
            even=self._getExtraPath(EVEN_STAR),
            output=self._getExtraPath(),
            model=tuple(pointer.get().getFileName() for pointer in self.inputModels),
            truth=self._getExtraPath(TRUTH_STAR) if self.inputTruth.get() is not None else None,
            band=(self.bandLow.get(), self.bandHigh.get()),
            sampling_rate=self.sampling_rate.get(),
            scored=self._choice(EvaluateConfig, "scored"),
            topaz=self.topaz.get() or "",
            topaz_network=self._choice(EvaluateConfig, "topaz_network"),
            quality=self._choice(EvaluateConfig, "quality"),
            precision=self._choice(EvaluateConfig, "precision"),
            tile=self.tile.get(),
            bootstrap=self.bootstrap.get(),
            seed=self.seed.get(),
            device=self._device(),
        )
