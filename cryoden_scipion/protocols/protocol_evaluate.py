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
from cryoden_scipion import convert
from cryoden_scipion.protocols.halves_input import EVEN_STAR, LINKED_SET, ODD_STAR, HalvesInput

if TYPE_CHECKING:
    from cryoden.report.evaluation_table import EvaluationTable, Row

TRUTH_STAR = "truth.star"
SCORES = {"_cryodenR2": "r2", "_cryodenR2Error": "r2_error", "_cryodenR2Corr": "r2_corr"}
"""Attributes of the output's micrographs, and which number of the evaluation they hold."""


class EvaluateOutputs(Enum):
    """Micrographs with their quality, to sort and cut by."""

    outputMicrographs = SetOfMicrographs


class CryodenProtEvaluate(HalvesInput):
    """Measure how good denoisers are on your own micrographs, without ground truth.

    Each half is denoised and compared with the other half, whose noise is independent. That gives R2, the share of the
    unknown clean signal that a denoiser explains, next to what simple filters reach. Every micrograph of the output
    carries its R2: sort by it, or make a subset of the best.
    """

    _label = "evaluate denoiser"
    _devStatus = BETA
    _possibleOutputs = EvaluateOutputs
    _fields = {"band": "Score band (A)", "model": "inputModels", "truth": "inputTruth"}

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
            help="Denoisers to compare; the report is about the first. Without one, only the simple filters are "
            "measured.",
        )
        form.addParam(
            "micrographsToScore",
            params.PointerParam,
            pointerClass="SetOfMicrographs",
            allowsNull=True,
            label="Write R2 on",
            help="Micrographs that come out with their R2, matched by name: the full or the denoised set. Empty: the "
            "set with halves, or the odd micrographs.",
        )
        form.addParam(
            "inputTruth",
            params.PointerParam,
            pointerClass="SetOfMicrographs",
            allowsNull=True,
            label="Clean images (simulations)",
            expertLevel=params.LEVEL_ADVANCED,
            help="The truth, where it is known, matched by name: true quality, and maps of what is invented or "
            "deleted.",
        )
        self._addGpuParams(form, "Number of the GPU, counted from 0.")
        form.addSection(label="Evaluation")
        self._defineEvaluationParams(form)

    def _defineEvaluationParams(self, form: params.Form) -> None:
        low, high = EvaluateConfig.default_of("band")
        line = form.addLine("Score band (A)", help=EvaluateConfig.help_of("band"))
        line.addParam("bandLow", params.FloatParam, default=low, label="from")
        line.addParam("bandHigh", params.FloatParam, default=high, label="to")
        inLine = {"display": params.EnumParam.DISPLAY_HLIST}
        self._addChoice(form, EvaluateConfig, "scored", "Micrographs that count", **inLine)
        self._addOption(form, EvaluateConfig, "topaz", params.StringParam, "Topaz-Denoise")
        self._addChoice(form, EvaluateConfig, "topaz_network", "Network of Topaz", **inLine)
        self._addChoice(form, EvaluateConfig, "quality", "Quality", **inLine)
        advanced = {"expertLevel": params.LEVEL_ADVANCED}
        self._addOption(form, EvaluateConfig, "sampling_rate", params.FloatParam, "Compare at (A/px)", **advanced)
        self._addChoice(form, EvaluateConfig, "precision", "Arithmetic", **advanced)
        self._addOption(form, EvaluateConfig, "tile", params.IntParam, "Tile size (px)", **advanced)
        self._addOption(form, EvaluateConfig, "bootstrap", params.IntParam, "Resamplings", **advanced)
        self._addOption(form, EvaluateConfig, "seed", params.IntParam, "Seed", **advanced)

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
        """Run `cryoden evaluate`; after a stop it goes on with the micrographs that are left."""
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
                "None of the micrographs in 'Write R2 on' has the name of an evaluated one; give the full or denoised "
                "set of the same movies."
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
        lines = [f"R2 in {band} A on {len(table.scored)} micrographs (1 is the unknown clean image, 0 a constant one):"]
        for row in table.rows:
            r2 = row.bands[band].r2
            value = "-" if r2.value is None else f"{r2.value:.3f}"
            error = f" +- {r2.error:.3f}" if r2.error is not None else ""
            mark = "*" if row.key == table.leader else ""
            lines.append(f"  {mark}{row.label}: {value}{error}{mark}")
        lines += [f"  {absent.label}: {absent.reason.text(self._words)}" for absent in table.absent]
        lines += self._warningLines(map(Problem.from_dict, table.warnings))
        return [*lines, f"Report: {self._getExtraPath(outputs.REPORT)}", *self._failureLines()]

    # --------------------------- UTILS functions ------------------------------
    def table(self) -> EvaluationTable:
        """Return the table of the evaluation."""
        from cryoden.report.evaluation_table import read_table

        return read_table(self._getExtraPath(outputs.METRICS))

    def leader(self) -> Row:
        """Return the row that the report is about."""
        return self.table().leading_row

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
