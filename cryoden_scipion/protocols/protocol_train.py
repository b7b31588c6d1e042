"""Train a denoiser: odd and even SetOfMicrographs -> CryodenModel."""

from __future__ import annotations

import os
from enum import Enum
from typing import List

from pyworkflow.constants import BETA
from pyworkflow.protocol import params

from cryoden.config import NETWORKS, TrainConfig, shared
from cryoden.errors import CryodenError, Problem
from cryoden.formats import outputs
from cryoden.formats.model_file import KEPT_START, read_card
from cryoden.formats.training_folder import read_status
from cryoden.wording import counted
from cryoden_scipion.objects import CryodenModel
from cryoden_scipion.protocols.continuing import fileProblems, optionProblems
from cryoden_scipion.protocols.halves_input import EVEN_STAR, ODD_STAR, HalvesInput

EPOCHS, MINUTES = 0, 1
AUTO, STREAMING, ALWAYS_STREAMING = 0, 1, 2
NETWORK_LABELS = {
    "unet": "U-Net (that of 0.1)",
    "cnn3": "CNN3 (three layers, quick)",
    "resunet": "Residual U-Net (best)",
}

STARTS = {"auto": "general model", "none": "nothing (random weights)"}
"""What a training may start from, where no model is given -> what the form says."""

HOW_TO_TRAIN_ON = "To train on from this model, give it to a copy as *Start from model*."


class TrainOutputs(Enum):
    """The trained denoiser."""

    outputModel = CryodenModel


class CryodenProtTrain(HalvesInput):
    """Train a denoiser on the odd and even halves of your own micrographs (Noise2Noise).

    The network learns to predict one half from the other. Their noise is independent, so all that can be learnt is what
    they have in common: the specimen. Some micrographs are held out, and the model that explains most of their signal
    is kept.
    """

    _label = "train denoiser"
    _devStatus = BETA
    _possibleOutputs = TrainOutputs
    _fields = {"from": "startModel", "from_model": "startModel", "odd": "halvesFrom", "even": "halvesFrom"}

    # --------------------------- DEFINE param functions ----------------------
    def _defineParams(self, form: params.Form) -> None:
        form.addSection(label="Input")
        self._defineInputParams(form)
        self._addGpuParams(form, "Numbers of the GPUs, counted from 0, such as 0 or 0,1. All of them train together.")
        form.addSection(label="Training")
        self._defineStartParams(form)
        self._defineTrainingParams(form)
        form.addSection(label="Network")
        self._defineNetworkParams(form)
        form.addSection(label="Memory")
        self._defineMemoryParams(form)

    def _defineInputParams(self, form: params.Form) -> None:
        self._defineHalvesParams(form)
        form.addParam(
            "lookAtData",
            params.LabelParam,
            label="Look at the data",
            help="The wizard shows crops of both halves, their sum and difference, and histograms, at the working "
            "pixel size. Both halves should show the same specimen, and the difference none of it.",
        )
        self._defineWaitParam(form, "then train once on what is there")

    @staticmethod
    def _defineStartParams(form: params.Form) -> None:
        form.addParam(
            "startFrom",
            params.EnumParam,
            choices=list(STARTS.values()),
            default=0,
            display=params.EnumParam.DISPLAY_HLIST,
            label="Start from",
            help="*general model*: from the weights of the model that comes with cryoden, which is better sooner. It "
            "works between 3 and 6.5 Å/px, with the default network, channels and normalisation; otherwise the "
            "training starts from nothing, and its log says why.\n"
            "*nothing*: from random weights.",
        )
        form.addParam(
            "startModel",
            params.PointerParam,
            pointerClass="CryodenModel",
            allowsNull=True,
            label="Start from model (optional)",
            help="Start from the weights of an earlier model (fine-tuning) instead of what *Start from* says; a file "
            "becomes one by *import denoiser*.\n"
            "Whatever a training starts from is measured first, and kept if no epoch is better.",
        )

    def _defineTrainingParams(self, form: params.Form) -> None:
        self._addOption(
            form,
            TrainConfig,
            "sampling_rate",
            params.FloatParam,
            "Working pixel size in Å/px (empty: auto)",
            help="To train and denoise at: the micrographs are Fourier-cropped to it, and coordinates are scaled back. "
            "Empty (auto): the coarsest that keeps all detail in which the halves still correlate, at most 4, which is "
            "many times faster than full resolution. 0 (full): the micrographs' own.",
        )
        form.addParam(
            "budget",
            params.EnumParam,
            choices=["epochs", "minutes"],
            default=EPOCHS,
            display=params.EnumParam.DISPLAY_HLIST,
            label="Training length in",
            help="_epochs_ make runs comparable; _minutes_ end when you need the model.",
        )
        self._addOption(
            form, TrainConfig, "epochs", params.IntParam, "Epochs (empty: auto)", condition=f"budget=={EPOCHS}"
        )
        self._addOption(
            form,
            TrainConfig,
            "minutes",
            params.FloatParam,
            "Minutes",
            condition=f"budget=={MINUTES}",
            help="Train for this many minutes; the learning rate is lowered to zero at the end.",
        )
        self._addOption(form, TrainConfig, "crop", params.IntParam, "Crop size (px)")
        self._addChoice(form, TrainConfig, "crops", "Crop positions", expertLevel=params.LEVEL_ADVANCED)
        self._addOption(form, TrainConfig, "validation", params.FloatParam, "Held-out fraction")
        advanced = {"expertLevel": params.LEVEL_ADVANCED}
        self._addOption(form, TrainConfig, "batch_size", params.IntParam, "Crops per step", **advanced)
        self._addOption(form, TrainConfig, "lr", params.FloatParam, "Learning rate (empty: auto)", **advanced)
        self._addOption(form, TrainConfig, "ema", params.FloatParam, "Weight averaging (EMA)", **advanced)
        self._addOption(form, TrainConfig, "patience", params.IntParam, "Early stopping (epochs)", **advanced)
        self._addOption(form, TrainConfig, "min_batches", params.IntParam, "Minimum batches per epoch", **advanced)
        self._addOption(form, TrainConfig, "max_batches", params.IntParam, "Maximum batches per epoch", **advanced)
        self._addChoice(form, TrainConfig, "normalization", "Normalisation", **advanced)
        self._addChoice(form, TrainConfig, "precision", "Numerical precision", **advanced)
        self._addChoice(form, TrainConfig, "compile", "Compile the network", **advanced)
        self._addChoice(form, TrainConfig, "keep", "Models to keep", **advanced)
        self._addOption(form, TrainConfig, "seed", params.IntParam, "Random seed", **advanced)

    def _defineNetworkParams(self, form: params.Form) -> None:
        self._addOption(
            form,
            TrainConfig,
            "network",
            params.EnumParam,
            "Network",
            choices=[NETWORK_LABELS[name] for name in NETWORKS],
            default=NETWORKS.index(TrainConfig.default_of("network")),
        )
        self._addOption(
            form,
            TrainConfig,
            "channels",
            params.NumericListParam,
            "U-Net channels",
            default="",
            allowsNull=True,
            condition=f"network!={NETWORKS.index('cnn3')}",
            expertLevel=params.LEVEL_ADVANCED,
        )

    def _defineMemoryParams(self, form: params.Form) -> None:
        form.addParam(
            "memoryMode",
            params.EnumParam,
            choices=["keep all if they fit", "stream unless small", "always stream"],
            default=AUTO,
            label="Micrographs in memory",
            help="*keep all if they fit*: in GPU memory, otherwise in the computer's memory, otherwise stream.\n"
            "*stream unless small*: read micrographs during training, unless all of them fit into the streaming "
            "window.\n"
            "*always stream*: read them during training in any case.",
        )
        self._addOption(form, TrainConfig, "memory", params.FloatParam, "Memory for micrographs in GiB (empty: auto)")
        self._addOption(form, TrainConfig, "window", params.FloatParam, "Streaming window (GiB)")

    # --------------------------- INSERT steps functions -----------------------
    def _insertAllSteps(self) -> None:
        inputs = [pointer.get().getFileName() for pointer in self._inputPointers()]  # another input is listed anew
        self._insertFunctionStep(self.convertInputStep, inputs, needsGPU=False)
        self._insertFunctionStep(self.trainStep, needsGPU=True)
        self._insertFunctionStep(self.createOutputStep, needsGPU=False)

    # --------------------------- STEPS functions ------------------------------
    def convertInputStep(self, inputs: List[str]) -> None:
        """Wait for enough micrographs where asked to, then list the halves by micrograph name."""
        self._waitForInputs()
        self._writeHalvesStars()

    def trainStep(self) -> None:
        """Run `cryoden train`; after a stop it resumes from the last checkpoint."""
        self._runCryoden("train", self._config(), isShared=True)

    def createOutputStep(self) -> None:
        """Register the best model."""
        model = CryodenModel(self._getExtraPath(outputs.MODEL))
        model.setFromCard(read_card(model.getFileName()))
        self._defineOutputs(**{TrainOutputs.outputModel.name: model})
        for pointer in self._inputPointers():
            self._defineSourceRelation(pointer, model)

    # --------------------------- INFO functions -------------------------------
    def _validate(self) -> List[str]:
        problems = self._problemsOf(self._config)
        wrong = self._validateHalves()
        if wrong:
            return problems + wrong

        nGpus = len(self.getGpuList()) if self.usesGpu() else 1
        if nGpus > 1 and self.batch_size.get() % nGpus:
            problems.append(
                f"*{self._labelOf('batch_size')}* is {self.batch_size.get()}, which {nGpus} GPUs cannot share evenly; "
                f"choose a multiple of {nGpus}."
            )
        problems += self._validateWait()
        if self.startModel.get() is not None:
            try:
                read_card(self.startModel.get().getFileName())
            except CryodenError as error:
                problems.append(self._errorText(error))
        return problems or self._validateContinued()

    def _continueProblems(self) -> List[str]:
        """Compare with the model of the run's first epochs; before there is one, the command itself compares."""
        path = self._getExtraPath(outputs.MODEL)
        if not os.path.exists(path) or any(pointer.get() is None for pointer in self._inputPointers()):
            return []

        recorded = read_card(path).training["options"]
        options = self._config().begun_with(recorded).lasting_options()
        problems = optionProblems(TrainConfig.completed(recorded), options, self._words)
        for half, star in enumerate((ODD_STAR, EVEN_STAR)):
            label = ("Odd micrographs", "Even micrographs")[half]
            problems += fileProblems(label, self._halves(half)[1], self._getExtraPath(star))
        return [f"{problem} {HOW_TO_TRAIN_ON}" for problem in problems[:1]]

    def _summary(self) -> List[str]:
        if not self.hasAttribute(TrainOutputs.outputModel.name):
            return self._progressLines()
        model = self.outputModel
        lines = [
            f"*{model.getNetworkLabel()}* at *{model.getSamplingRate():.2f} Å/px*, trained on "
            f"{counted(model._nPairs.get(), 'pair')} of halves.",
            f"It explains *{100 * model.getR2():.1f} %* of the signal variance of held-out micrographs "
            "(R2, 300-8 Å; 0 % is a constant image, 100 % the unknown clean one).",
        ]
        return lines + self._startLines(model) + self._modelWarningLines(model) + self._failureLines()

    @staticmethod
    def _startLines(model: CryodenModel) -> List[str]:
        """Return what the training started from, where that was a model whose file is still there."""
        try:
            card = read_card(model.getFileName())
        except CryodenError:
            return []
        return [f"Started from {card.start}."] * bool(card.start) + [f"*{KEPT_START}*"] * card.is_kept_start

    def _progressLines(self) -> List[str]:
        """Return how far a training is that runs or was stopped, and where more is to be seen."""
        try:
            status = read_status(self._getExtraPath())
        except CryodenError as error:  # the training writes it again
            return [self._errorText(error)]
        if status is None:
            return ["No model yet. *Analyze results* shows the curves after the first epoch."]
        curves = "*Analyze results* shows the curves." if status.r2 is not None else "The curves come with epoch 2."
        line = f"*{status.sentence(is_running=self.isActive())}* {curves}"
        return [line, *self._warningLines(Problem("warning", text) for text in status.warnings)]

    def _methods(self) -> List[str]:
        if not self.hasAttribute(TrainOutputs.outputModel.name):
            return []

        card = read_card(self.outputModel.getFileName())
        network = f"{card.label} [Ronneberger2015]" if card.network in shared.UNETS else card.label
        facts = card.training
        nHeldOut = len(set(facts["held_out"]).difference(facts["trained_on"]))  # a single micrograph is cut in two
        lines = [
            f"A {network} was trained with cryoden {card.version} to predict one half of a micrograph from the other "
            f"according to Noise2Noise [Lehtinen2018], on {counted(len(facts['trained_on']), 'pair')} of odd and even "
            f"micrographs at {card.sampling_rate:.3g} Å/px in crops of {facts['crop']} px"
            + (f"; {counted(nHeldOut, 'pair')} more served for validation." if nHeldOut else "."),
        ]
        if card.start is not None:
            lines.append(f"The training started from {card.start}.")
        if card.is_kept_start:
            lines.append(KEPT_START)
        if card.r2 is not None:
            model = "It" if card.is_kept_start else f"The model of epoch {facts['epoch']}"
            lines.append(
                f"{model} explains {100 * card.r2:.1f} % of the signal variance of "
                f"held-out micrographs between {facts['score_band_A'][0]:g} and {facts['score_band_A'][1]:g} Å "
                f"(R2 = {card.r2:.3f})."
            )
        return lines

    def _citations(self) -> List[str]:
        isUNet = NETWORKS[self.network.get()] in shared.UNETS
        return ["Lehtinen2018", "Ronneberger2015"] if isUNet else ["Lehtinen2018"]

    # --------------------------- UTILS functions ------------------------------
    def _config(self) -> TrainConfig:
        memory = self.memoryMode.get()
        start = self.startModel.get()
        return TrainConfig(
            odd=self._getExtraPath(ODD_STAR),
            even=self._getExtraPath(EVEN_STAR),
            output=self._getExtraPath(),
            network=NETWORKS[self.network.get()],
            channels=tuple(int(n) for n in (self.channels.get() or "").split()),
            sampling_rate=self._numberOrWord(TrainConfig, "sampling_rate"),
            epochs=self.epochs.get(),
            minutes=self.minutes.get() if self.budget.get() == MINUTES else None,
            crop=self.crop.get(),
            batch_size=self.batch_size.get(),
            crops=self._choice(TrainConfig, "crops"),
            normalization=self._choice(TrainConfig, "normalization"),
            precision=self._choice(TrainConfig, "precision"),
            compile=self._choice(TrainConfig, "compile"),
            keep=self._choice(TrainConfig, "keep"),
            min_batches=self.min_batches.get(),
            lr=self.lr.get(),
            ema=self.ema.get(),
            validation=self.validation.get(),
            patience=self.patience.get(),
            stream=memory != AUTO,
            force=memory == ALWAYS_STREAMING,
            memory=self.memory.get(),
            window=self.window.get(),
            max_batches=self.max_batches.get(),
            seed=self.seed.get(),
            device=self._device(),
            resume=True,
            from_model=start.getFileName() if start is not None else list(STARTS)[self.startFrom.get()],
        )

    def getLogFile(self) -> str:
        """Return the path of the training log, one JSON line for each epoch."""
        return self._getExtraPath(outputs.LOG)
