"""Denoise micrographs: SetOfMicrographs + CryodenModel -> denoised SetOfMicrographs and micrographs.star."""

import os
from enum import Enum

from pwem.objects import SetOfMicrographs
from pyworkflow.constants import BETA
from pyworkflow.protocol import params

from cryoden.config import DenoiseConfig
from cryoden.errors import CryodenError
from cryoden.formats.files import mrc_name
from cryoden.formats.model_file import read_card
from cryoden.formats.star import read_table
from cryoden_scipion import convert
from cryoden_scipion.protocols.protocol_base import CryodenProtBase

INPUT_STAR = "input.star"
OUTPUT_STAR = "micrographs.star"
RECORD_NAME = "denoise.json"
"""What `cryoden denoise` leaves beside its results; marks a set as denoised."""


class DenoiseOutputs(Enum):
    """The denoised micrographs."""

    outputMicrographs = SetOfMicrographs


class CryodenProtDenoise(CryodenProtBase):
    """Denoise micrographs with a model that was trained on such data.

    Use the denoised set for looking and picking. Estimate CTFs and extract particles on the original set: its noise is
    what the later steps expect. Picked coordinates find the originals by micrograph name.
    """

    _label = "denoise micrographs"
    _devStatus = BETA
    _possibleOutputs = DenoiseOutputs

    # --------------------------- DEFINE param functions ----------------------
    def _defineParams(self, form):
        form.addSection(label="Input")
        form.addParam(
            "inputMicrographs",
            params.PointerParam,
            pointerClass="SetOfMicrographs",
            important=True,
            label="Micrographs",
            help="Micrographs as they come from motion correction, or the full set of _split movies into halves_.",
        )
        form.addParam(
            "inputModel",
            params.PointerParam,
            pointerClass="CryodenModel",
            important=True,
            label="Denoiser",
            help="Output of _train denoiser_. The micrographs are brought to its pixel size.",
        )
        inLine = {"display": params.EnumParam.DISPLAY_HLIST}
        self._addChoice(form, DenoiseConfig, "quality", "Quality", **inLine)
        self._addChoice(form, DenoiseConfig, "dtype", "Pixel type", **inLine)
        self._addChoice(form, DenoiseConfig, "precision", "Arithmetic", expertLevel=params.LEVEL_ADVANCED)
        self._addOption(
            form, DenoiseConfig, "tile", params.IntParam, "Tile size (px)", expertLevel=params.LEVEL_ADVANCED
        )
        self._addGpuParams(form, "Number of the GPU, counted from 0.")

    # --------------------------- INSERT steps functions -----------------------
    def _insertAllSteps(self):
        self._insertFunctionStep(self.denoiseStep, needsGPU=True)
        self._insertFunctionStep(self.createOutputStep, needsGPU=False)

    # --------------------------- STEPS functions ------------------------------
    def denoiseStep(self):
        """Run `cryoden denoise` on all micrographs; finished ones are skipped."""
        convert.writeImagesStar(self._getExtraPath(INPUT_STAR), convert.clonedItems(self.inputMicrographs.get()))
        self._runCryoden("denoise", self._config())

    def createOutputStep(self):
        """Register every micrograph that was denoised."""
        inputSet = self.inputMicrographs.get()
        samplingRate = read_table(self._getExtraPath(OUTPUT_STAR)).sampling_rate(0)
        micrographs = self._createSetOfMicrographs()
        micrographs.copyInfo(inputSet)
        micrographs.setSamplingRate(samplingRate)
        for micrograph in inputSet:
            denoised = self._getExtraPath(mrc_name(micrograph.getFileName()))
            if os.path.exists(denoised):
                micrographs.append(convert.newMicrograph(micrograph, denoised, samplingRate))
        self._defineOutputs(**{DenoiseOutputs.outputMicrographs.name: micrographs})
        self._defineTransformRelation(self.inputMicrographs, micrographs)
        self._defineSourceRelation(self.inputModel, micrographs)

    # --------------------------- INFO functions -------------------------------
    def _validate(self):
        problems = self._problemsOf(self._config)
        try:
            card = read_card(self.inputModel.get().getFileName())
        except CryodenError as error:
            return [*problems, str(error)]
        samplingRate = self.inputMicrographs.get().getSamplingRate()
        if samplingRate > 1.01 * card.sampling_rate:
            problems.append(
                f"The micrographs have {samplingRate:.3g} A/px, coarser than the {card.sampling_rate:.3g} A/px of the "
                "denoiser; train one at this or a coarser pixel size."
            )
        return problems

    def _warnings(self):
        first = self.inputMicrographs.get().getFirstItem()
        if os.path.exists(os.path.join(os.path.dirname(first.getFileName()), RECORD_NAME)):
            return [
                "The input is a denoised set already; denoising twice removes signal. Give the original micrographs."
            ]
        return []

    def _summary(self):
        if not self.hasAttribute(DenoiseOutputs.outputMicrographs.name):
            return ["No denoised micrographs yet."]
        output = self.outputMicrographs
        lines = [
            f"*{output.getSize()}* of {self.inputMicrographs.get().getSize()} micrographs are denoised, "
            f"at {output.getSamplingRate():.2f} A/px.",
            "*Pick here; estimate CTFs and extract particles on the original set.*",
            f"RELION: {self._getExtraPath(OUTPUT_STAR)}",
        ]
        return lines + self._failureLines()

    # --------------------------- UTILS functions ------------------------------
    def _config(self):
        model = self.inputModel.get()
        return DenoiseConfig(
            micrographs=(self._getExtraPath(INPUT_STAR),),
            model=model.getFileName() if model is not None else "",
            output=self._getExtraPath(),
            quality=self._choice(DenoiseConfig, "quality"),
            dtype=self._choice(DenoiseConfig, "dtype"),
            precision=self._choice(DenoiseConfig, "precision"),
            tile=self.tile.get(),
            device=self._device(),
        )
