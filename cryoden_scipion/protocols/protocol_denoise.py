"""Denoise micrographs on the fly: SetOfMicrographs + CryodenModel -> SetOfMicrographs and micrographs.star."""

from __future__ import annotations

import dataclasses
import os
import time
from enum import Enum
from typing import Dict, List, Tuple

from pwem.objects import Micrograph, SetOfCTF, SetOfMicrographs
from pyworkflow.constants import BETA
from pyworkflow.object import Pointer
from pyworkflow.protocol import params

from cryoden.config import DenoiseConfig, shared
from cryoden.errors import CryodenError, Problem
from cryoden.formats import outputs
from cryoden.formats.files import mrc_name, read_json, write_json
from cryoden.formats.images import open_stack
from cryoden.formats.model_file import ModelCard, read_card
from cryoden.formats.progress_log import read_progress_logs
from cryoden.formats.run_record import recorded_options
from cryoden.metrics.model_weaknesses import NOT_MEASURED, weaknesses
from cryoden.wording import counted
from cryoden_scipion import __version__, convert
from cryoden_scipion.protocols import denoise_rules
from cryoden_scipion.protocols.continuing import itemProblems, optionProblems
from cryoden_scipion.protocols.halves_input import EVEN_STAR, ODD_STAR
from cryoden_scipion.protocols.streaming import WAIT_SECONDS, StreamingRun

INPUT_STAR = "input.star"
"""Input of the command."""

PROGRESS_FILE = "progress.json"
"""See `DenoisingProgress`."""

FULL, LINKED_HALVES, TWO_SETS = 0, 1, 2


class DenoiseOutputs(Enum):
    """The denoised micrographs."""

    outputMicrographs = SetOfMicrographs


@dataclasses.dataclass(frozen=True)
class DenoisingProgress:
    """What the summary says of a run.

    Attributes
    ----------
    seconds
        Of all rounds, program start included.
    micrographs
        How many were denoised in them.
    without_ctf
        How many are denoised but left out of the STAR file, because they have no CTF.
    """

    seconds: float = 0.0
    micrographs: int = 0
    without_ctf: int = 0

    @classmethod
    def read(cls, path: str) -> DenoisingProgress:
        """Return what a run has counted so far."""
        return cls(**read_json(path)) if os.path.exists(path) else cls()

    def write(self, path: str) -> None:
        """Keep it for the summary."""
        write_json(path, dataclasses.asdict(self))


class CryodenProtDenoise(StreamingRun):
    """Denoise micrographs, best with a model that was trained on such data, without one with the general model.

    Use the denoised set for inspection and picking. Estimate CTFs and extract particles on the original set: its noise
    is what the later steps expect. Picked coordinates are matched with the original micrographs by name.

    Micrographs are denoised on the fly while they are still coming from motion correction or a split.
    """

    _label = "denoise micrographs"
    _devStatus = BETA
    _possibleOutputs = DenoiseOutputs
    _fields = {"model": "inputModel", "odd": "predictFrom", "even": "predictFrom", "micrographs": "inputMicrographs"}

    # --------------------------- DEFINE param functions ----------------------
    def _defineParams(self, form: params.Form) -> None:
        form.addSection(label="Input")
        self._defineInputParams(form)
        self._addGpuParams(
            form, "Numbers of the GPUs, counted from 0, such as 0 or 0,1. Each takes its share of the micrographs."
        )
        form.addSection(label="Denoising")
        self._defineDenoisingParams(form)
        form.addSection(label="Streaming")
        form.addParam(
            "streamingBatchSize",
            params.IntParam,
            default=1,
            label="Micrographs per batch",
            help="While the set is still growing: start denoising as soon as this many new micrographs are there, so "
            "that the program is not started for each one. All that have arrived are processed together, and the last "
            "ones when the set is closed. Without streaming this has no effect.",
        )

    @staticmethod
    def _defineInputParams(form: params.Form) -> None:
        form.addParam(
            "inputMicrographs",
            params.PointerParam,
            pointerClass="SetOfMicrographs",
            important=True,
            label="Micrographs",
            help="The original micrographs, as they come from motion correction, or the full set of _split movies "
            "into halves_. The set may still be growing. Denoised micrographs keep their names, by which coordinates "
            "and CTFs are matched.",
        )
        form.addParam(
            "inputModel",
            params.PointerParam,
            pointerClass="CryodenModel",
            important=True,
            allowsNull=True,
            label="Denoiser (optional)",
            help="Output of _train denoiser_, _choose denoiser_ or _import denoiser_. The micrographs are brought to "
            "its pixel size. Empty: the general model, which comes with cryoden and needs no training, for micrographs "
            "of up to 6.5 Å/px; a denoiser of your own is usually better, and how much is measured by halves only. "
            "The output of a training that is still running can be selected, too: _Schedule_ then starts this "
            "protocol when the model is ready.",
        )
        form.addParam(
            "predictFrom",
            params.EnumParam,
            choices=["full micrographs", "linked halves", "separate sets"],
            default=FULL,
            display=params.EnumParam.DISPLAY_HLIST,
            label="Denoise",
            help="*full micrographs*: the sums of all frames, which contain all the signal (recommended).\n"
            "*linked halves*: both halves of each micrograph, as linked by _split movies into halves_ and motioncorr, "
            "are denoised and averaged. The network then sees as much noise as in its training, and takes twice as "
            "long.\n"
            "*separate sets*: the same, from an odd and an even set, matched by micrograph name (never by order).",
        )
        for half in ("Odd", "Even"):
            form.addParam(
                f"inputMicrographs{half}",
                params.PointerParam,
                pointerClass="SetOfMicrographs",
                condition=f"predictFrom=={TWO_SETS}",
                allowsNull=True,
                label=f"{half} micrographs",
                help=f"Sums of the {half.lower()} frames of the same movies.",
            )
        form.addParam(
            "inputCTF",
            params.PointerParam,
            pointerClass="SetOfCTF",
            allowsNull=True,
            label="CTFs (optional)",
            help="CTFs of the original micrographs, matched by micrograph name. Their values are written to "
            f"{outputs.MICROGRAPHS_STAR} for RELION, from which micrographs without a CTF are then left out. They do "
            "not change the images. They are not needed within Scipion, where later protocols offer the CTFs of the "
            "original micrographs.",
        )

    def _defineDenoisingParams(self, form: params.Form) -> None:
        inLine = {"display": params.EnumParam.DISPLAY_HLIST}
        self._addChoice(form, DenoiseConfig, "quality", "Quality", **inLine)
        self._addOption(form, DenoiseConfig, "full_size", params.BooleanParam, "Restore the original pixel size?")
        self._addChoice(form, DenoiseConfig, "scale", "Grey scale", **inLine)
        self._addChoice(form, DenoiseConfig, "thumbnails", "Thumbnails", **inLine)
        advanced = {"expertLevel": params.LEVEL_ADVANCED}
        self._addChoice(form, DenoiseConfig, "dtype", "Pixel type", **inLine, **advanced)
        self._addChoice(form, DenoiseConfig, "precision", "Numerical precision", **advanced)
        self._addOption(form, DenoiseConfig, "tile", params.IntParam, "Tile size (px)", **advanced)

    # --------------------------- INSERT steps functions -----------------------
    def _insertAllSteps(self) -> None:
        now = time.time()  # steps that are others at each launch: a finished run is continued for what came since
        self._insertFunctionStep(self.denoiseStep, now, needsGPU=True)
        self._insertFunctionStep(self.closeStep, now, needsGPU=False)

    # --------------------------- STEPS functions ------------------------------
    def denoiseStep(self, launchTime: float) -> None:
        """Run `cryoden denoise` on the micrographs that are there, then on what came meanwhile, until no more come."""
        self._runInRounds("denoise", self._config, self.streamingBatchSize.get(), isShared=True)

    def closeStep(self, launchTime: float) -> None:
        """Write the CTFs where they are given, and say that no more micrographs will come.

        Raises
        ------
        Exception
            If the denoiser ended without having tried every micrograph.
        """
        micrographs = convert.clonedItems(self.inputMicrographs.get())
        if self.inputCTF.get() is not None:
            self._addCtfs(micrographs)
        self._closeOutputs()

        missing = len(micrographs) - self.outputMicrographs.getSize() - len(self._failures())
        if missing > 0:
            raise Exception(f"Not denoised: {counted(missing, 'micrograph')}; Continue tries again.")

    def _loadInput(self) -> Tuple[List[Micrograph], bool]:
        micrographs, isComplete = convert.loadItems(self.inputMicrographs.get().getFileName())
        if self.predictFrom.get() == TWO_SETS:
            halves = [convert.loadItems(pointer.get().getFileName()) for pointer in self._halfPointers()]
            isComplete = isComplete and all(isClosed for _, isClosed in halves)
            if not isComplete:  # those whose halves are still to come wait for them
                names = set.intersection(*({convert.micNameKey(mic) for mic in half} for half, _ in halves))
                micrographs = [mic for mic in micrographs if convert.micNameKey(mic) in names]
        return micrographs, isComplete

    def _inputFile(self) -> str:
        return self._getExtraPath(INPUT_STAR)

    def _writeInput(self, items: List[Micrograph]) -> None:
        self._lastCount = time.monotonic()
        self._nFinished = len(self._finishedOf(items))
        if self.predictFrom.get() != FULL:
            self._writeHalves(items)
        convert.writeImagesStar(self._inputFile(), items)

    def _writeHalves(self, items: List[Micrograph]) -> None:
        """List the halves of micrographs."""
        for number, star in enumerate((ODD_STAR, EVEN_STAR)):
            if self.predictFrom.get() == LINKED_HALVES:
                files = {convert.micNameKey(mic): (convert.linkedHalves(mic) or ("", ""))[number] for mic in items}
            else:
                files = self._halfNames(self._halfPointers()[number])

            found = [mic for mic in items if files.get(convert.micNameKey(mic))]
            convert.writeImagesStar(
                self._getExtraPath(star),
                found,
                files=[files[convert.micNameKey(mic)] for mic in found],
                names=[os.path.splitext(os.path.basename(mic.getFileName()))[0] for mic in found],
            )

    def _register(self, items: List[Micrograph]) -> None:
        """Append every micrograph that was denoised."""
        name = DenoiseOutputs.outputMicrographs.name
        finished = self._finishedOf(items)
        isFirst = not self.hasAttribute(name)
        n = self._appendToOutput(name, "", finished, self._newMicrograph, self._prepareOutput)
        if isFirst and n:
            self._defineTransformRelation(self.inputMicrographs, self.outputMicrographs)
            if not self._isByGeneralModel:
                self._defineSourceRelation(self.inputModel, self.outputMicrographs)

        self._countProgress(len(finished))

    def _finishedOf(self, items: List[Micrograph]) -> List[Micrograph]:
        """Return the items whose results are there."""
        files = set(os.listdir(self._getExtraPath()))
        return [item for item in items if mrc_name(item.getFileName()) in files]

    def _prepareOutput(self, micrographs: SetOfMicrographs, first: Micrograph) -> None:
        micrographs.copyInfo(self.inputMicrographs.get())
        micrographs.setSamplingRate(self._newMicrograph(first).getSamplingRate())

    def _newMicrograph(self, micrograph: Micrograph) -> Micrograph:
        denoised = self._getExtraPath(mrc_name(micrograph.getFileName()))
        samplingRate = open_stack(denoised).sampling_rate or self._card().sampling_rate
        return convert.newMicrograph(micrograph, denoised, samplingRate)

    def _countProgress(self, nFinished: int) -> None:
        """Add the seconds since the last call, and the micrographs that were finished in them."""
        now = time.monotonic()
        before = self._progress()
        progress = dataclasses.replace(
            before,
            seconds=before.seconds + now - self._lastCount,
            micrographs=before.micrographs + nFinished - self._nFinished,
        )
        progress.write(self._getExtraPath(PROGRESS_FILE))
        self._lastCount = now
        self._nFinished = nFinished

    def _addCtfs(self, micrographs: List[Micrograph]) -> None:
        """Write the CTFs into the STAR file, when the last of them is there."""
        while True:
            ctfs, isComplete = convert.loadItems(self.inputCTF.get().getFileName(), SetOfCTF)
            if isComplete:
                break
            self.info(f"Waiting for CTFs: {len(ctfs)} so far.")
            time.sleep(WAIT_SECONDS)

        path = self._getExtraPath(outputs.MICROGRAPHS_STAR)
        names = {mrc_name(mic.getFileName()): convert.micNameKey(mic) for mic in micrographs}
        nWithout = convert.addCtfs(path, names, convert.ctfsByName(ctfs))
        progress = dataclasses.replace(self._progress(), without_ctf=nWithout)
        progress.write(self._getExtraPath(PROGRESS_FILE))

    # --------------------------- INFO functions -------------------------------
    def _validate(self) -> List[str]:
        problems = self._problemsOf(self._config)
        if self.streamingBatchSize.get() < 1:
            label = self._labelOf("streamingBatchSize")
            problems.append(f"*{label}* is {self.streamingBatchSize.get()}; it must be 1 or more.")
        micrographs = self.inputMicrographs.get()
        if self._isModelToCome:
            problems.append(f"*{self._labelOf('model')}* is not there yet; press Schedule, which waits for it.")
        if micrographs is None or self._isModelToCome:
            return problems  # Scipion says that micrographs are missing; a scheduled run waits for both

        problems += denoise_rules.emptyProblems(micrographs, self.inputCTF.get())
        try:
            card = self._card()
        except CryodenError as error:
            return [*problems, self._errorText(error)]
        if problems:
            return problems

        problems += denoise_rules.rateProblems(micrographs, card)
        problems += denoise_rules.nameProblems(micrographs) + self._validateHalves(micrographs)
        problems += denoise_rules.ctfProblems(micrographs, self.inputCTF.get())
        return problems or self._validateContinued()

    def _continueProblems(self) -> List[str]:
        record = recorded_options(self._getExtraPath(outputs.DENOISE_RECORD))
        if record is None:
            return []

        card = self._card()
        now = {**self._config().to_dict(), "model": {"network": card.network, "training": card.training}}
        problems = optionProblems(record, now, self._words)
        if self.hasAttribute(DenoiseOutputs.outputMicrographs.name):
            star = self._getExtraPath(INPUT_STAR)
            label, given = self._labelOf("micrographs"), self.inputMicrographs.get()
            problems += itemProblems(label, given, self.outputMicrographs, star)
        return problems

    def _validateHalves(self, micrographs: SetOfMicrographs) -> List[str]:
        if self.predictFrom.get() == LINKED_HALVES:
            return denoise_rules.linkProblems(micrographs)
        if self.predictFrom.get() == TWO_SETS:
            return denoise_rules.halfProblems(micrographs, *(pointer.get() for pointer in self._halfPointers()))
        return []

    def _warnings(self) -> List[str]:
        micrographs = self.inputMicrographs.get()
        if micrographs is None or self._isModelToCome or not micrographs.getSize():
            return []
        try:
            card = self._card()
        except CryodenError:
            return []  # an error of `_validate`
        return [
            *(weakness.text(self._words) for weakness in weaknesses(card)),
            *denoise_rules.repeatWarnings(micrographs, outputs.DENOISE_RECORD),
            *denoise_rules.sizeWarnings(micrographs, card, self.tile.get()),
        ]

    def _summary(self) -> List[str]:
        if not self.hasAttribute(DenoiseOutputs.outputMicrographs.name):
            return ["No denoised micrographs yet.", *self._failureLines()]
        output, progress = self.outputMicrographs, self._progress()
        lines = [
            f"Denoised: *{output.getSize()}* of "
            f"{counted(convert.currentSize(self.inputMicrographs.get()), 'micrograph')}, at "
            f"{output.getSamplingRate():.2f} Å/px" + (", more may come." if output.isStreamOpen() else "."),
            "*Pick here; estimate CTFs and extract particles on the original set.*",
            f"STAR file for RELION: {self._getExtraPath(outputs.MICROGRAPHS_STAR)}",
        ]
        if progress.seconds:
            speed = 60 * progress.micrographs / progress.seconds
            lines.insert(
                1, f"Speed: *{speed:.1f}* micrographs per minute, including reading, writing and program start."
            )
        if progress.without_ctf:
            lines.append(f"Without a CTF, not in the STAR file: {counted(progress.without_ctf, 'micrograph')}.")
        if self._isByGeneralModel:
            lines.append(f"By the general model. {NOT_MEASURED.text(self._words)}")
        return lines + self._warningLines(self._logWarnings()) + self._failureLines()

    def _methods(self) -> List[str]:
        model = self.inputModel.get()
        if not self.hasAttribute(DenoiseOutputs.outputMicrographs.name) or self._isModelToCome:
            return []

        denoiser = "the general model that comes with it" if model is None else model.getDescription()
        output = self.outputMicrographs
        lines = [
            f"With cryoden {__version__}, {counted(output.getSize(), 'micrograph')} "
            f"{'was' if output.getSize() == 1 else 'were'} denoised [Lehtinen2018] and written at "
            f"{output.getSamplingRate():.3g} Å/px. Denoiser: {denoiser}."
        ]
        if self.predictFrom.get() != FULL:
            lines.append("Both halves of each micrograph were denoised and averaged.")
        if self._choice(DenoiseConfig, "quality") == "best":
            lines.append("The predictions for its 8 rotated and mirrored views were averaged.")
        return lines

    def _logWarnings(self) -> List[Problem]:
        """Return what the command found suspicious in what it denoised."""
        records = read_progress_logs(self._getExtraPath())
        return [Problem.from_dict(record["warning"]) for record in records if "warning" in record]

    # --------------------------- UTILS functions ------------------------------
    def _config(self) -> DenoiseConfig:
        isFromHalves = self.predictFrom.get() != FULL
        return DenoiseConfig(
            micrographs=(self._inputFile(),),
            model="" if self._isModelToCome else self._modelFile(),
            output=self._getExtraPath(),
            odd=self._getExtraPath(ODD_STAR) if isFromHalves else None,
            even=self._getExtraPath(EVEN_STAR) if isFromHalves else None,
            quality=self._choice(DenoiseConfig, "quality"),
            full_size=self.full_size.get(),
            scale=self._choice(DenoiseConfig, "scale"),
            dtype=self._choice(DenoiseConfig, "dtype"),
            thumbnails=self._choice(DenoiseConfig, "thumbnails"),
            folders="flat",
            precision=self._choice(DenoiseConfig, "precision"),
            tile=self.tile.get(),
            device=self._device(),
        )

    @property
    def _isByGeneralModel(self) -> bool:
        return not self.inputModel.hasValue()

    @property
    def _isModelToCome(self) -> bool:
        """Whether a model is selected that is not there, such as that of a training which still runs."""
        return not self._isByGeneralModel and self.inputModel.get() is None

    def _modelFile(self) -> str:
        return shared.GENERAL if self._isByGeneralModel else self.inputModel.get().getFileName()

    def _card(self) -> ModelCard:
        return read_card(self._modelFile())

    def _progress(self) -> DenoisingProgress:
        return DenoisingProgress.read(self._getExtraPath(PROGRESS_FILE))

    def _halfPointers(self) -> List[Pointer]:
        return [self.inputMicrographsOdd, self.inputMicrographsEven]

    @staticmethod
    def _halfNames(pointer: Pointer) -> Dict[str, str]:
        """Return micrograph name -> file of the halves that a set's file holds now."""
        halves, _ = convert.loadItems(pointer.get().getFileName())
        return {convert.micNameKey(mic): os.path.normpath(mic.getFileName()) for mic in halves}
