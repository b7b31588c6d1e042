"""Bring a denoiser into a project, and out of it."""

from __future__ import annotations

import os
import shutil
from enum import Enum
from typing import List

from pyworkflow.constants import BETA
from pyworkflow.protocol import params

from cryoden.errors import CryodenError
from cryoden.formats import outputs
from cryoden.formats.general_model import model_path
from cryoden.formats.model_file import read_card
from cryoden_scipion.objects import CryodenModel
from cryoden_scipion.protocols.protocol_base import CryodenProtBase


class ImportOutputs(Enum):
    """The imported denoiser."""

    outputModel = CryodenModel


class CryodenProtImportModel(CryodenProtBase):
    """Import a denoiser that was trained elsewhere, in another project or with the command line."""

    _label = "import denoiser"
    _devStatus = BETA
    _possibleOutputs = ImportOutputs

    def _defineParams(self, form: params.Form) -> None:
        form.addSection(label="Input")
        form.addParam(
            "modelFile",
            params.FileParam,
            label="Model file",
            important=True,
            help="A model.safetensors written by _train denoiser_, _export denoiser_ or the command line. It is "
            "copied into the project.\n"
            "*general*: the general model, which comes with cryoden, to be evaluated on your halves.",
        )

    def _insertAllSteps(self) -> None:
        self._insertFunctionStep(self.importStep, needsGPU=False)

    def importStep(self) -> None:
        """Copy the file and register it."""
        model = CryodenModel(self._getExtraPath(outputs.MODEL))
        shutil.copyfile(model_path(self.modelFile.get()), model.getFileName())
        model.setFromCard(read_card(model.getFileName()))
        self._defineOutputs(**{ImportOutputs.outputModel.name: model})

    def _validate(self) -> List[str]:
        try:
            read_card(self.modelFile.get())
        except CryodenError as error:
            return [self._errorText(error)]
        return []

    def _summary(self) -> List[str]:
        if not self.hasAttribute(ImportOutputs.outputModel.name):
            return ["No denoiser yet."]
        lines = [f"{self.outputModel.getDescription()}.", f"Imported from {self.modelFile.get()}"]
        return lines + self._modelWarningLines(self.outputModel)

    def _methods(self) -> List[str]:
        if not self.hasAttribute(ImportOutputs.outputModel.name):
            return []
        return [f"A denoiser [Lehtinen2018] was imported: {self.outputModel.getDescription()}."]


class CryodenProtExportModel(CryodenProtBase):
    """Export a denoiser as a file, for another project or the command line."""

    _label = "export denoiser"
    _devStatus = BETA

    def _defineParams(self, form: params.Form) -> None:
        form.addSection(label="Export")
        form.addParam(
            "inputModel", params.PointerParam, pointerClass="CryodenModel", important=True, label="Denoiser",
            help="Output of _train denoiser_ or _import denoiser_.",
        )  # fmt: skip
        form.addParam(
            "targetFile", params.StringParam, label="Output file", help="Name of the new file, ending in .safetensors."
        )

    def _insertAllSteps(self) -> None:
        self._insertFunctionStep(self.exportStep, needsGPU=False)

    def exportStep(self) -> None:
        """Copy the file; it has its final name only when whole."""
        target = self.targetFile.get()
        shutil.copyfile(self.inputModel.get().getFileName(), target + ".part")
        os.replace(target + ".part", target)

    def _validate(self) -> List[str]:
        target = self.targetFile.get() or ""
        problems = []
        if not target.endswith(".safetensors"):
            problems.append(f"File name {target!r} must end in .safetensors.")
        if not os.path.isdir(os.path.dirname(os.path.abspath(target))):
            problems.append(f"Folder {os.path.dirname(target)} does not exist; make it first.")
        if os.path.exists(target):
            problems.append(f"{target} exists already; choose another name.")
        return problems

    def _summary(self) -> List[str]:
        if not self.isFinished():
            return ["Not exported yet."]
        return [f"Exported to {self.targetFile.get()}"]

    def _methods(self) -> List[str]:
        if not self.isFinished() or self.inputModel.get() is None:
            return []
        return [f"A denoiser [Lehtinen2018] was exported: {self.inputModel.get().getDescription()}."]
