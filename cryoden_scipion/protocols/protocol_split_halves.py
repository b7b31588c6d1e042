"""Split movies into halves on the fly: SetOfMovies -> full, odd and even SetOfMicrographs, and aligned movies."""

from __future__ import annotations

import os
import shutil
import time
from functools import partial
from typing import Dict, List, Optional, Tuple

from pwem.objects import Micrograph, Movie, SetOfMicrographs, SetOfMovies
from pyworkflow.constants import BETA
from pyworkflow.protocol import params
from pyworkflow.utils import removeBaseExt

from cryoden.config import HalvesConfig, shared
from cryoden.config.halves import FROM_BOTTOM, FROM_TOP, MIDDLE, NONE
from cryoden.config.shared import AUTO
from cryoden.errors import Problem
from cryoden.formats import outputs
from cryoden.formats.files import mrc_name, read_json
from cryoden.formats.images import TIFF_ENDINGS
from cryoden.formats.relion_job import write_movie_correction
from cryoden.formats.run_record import options_of_0_1, recorded_options
from cryoden.formats.star import MOVIE_NAME, write_global_shifts
from cryoden.report.alignment_table import agreement, doubt_lines, drift_sentence, headline, read_alignments
from cryoden.wording import counted
from cryoden_scipion import __version__, convert
from cryoden_scipion.protocols.continuing import itemProblems, optionProblems
from cryoden_scipion.protocols.protocol_base import MAX_REASONS
from cryoden_scipion.protocols.streaming import StreamingRun

SHIFTS_FOLDER = "shifts"
"""With the list of movies, the input of the command."""

LOCAL_MOTION = "local_motion"
"""The option, as it is recorded."""

OUTPUT_FULL, OUTPUT_ODD, OUTPUT_EVEN = "outputMicrographs", "outputMicrographsOdd", "outputMicrographsEven"
OUTPUT_FOLDERS = {OUTPUT_FULL: outputs.FULL, OUTPUT_ODD: outputs.ODD, OUTPUT_EVEN: outputs.EVEN}
OUTPUT_MOVIES = "outputMovies"
"""The input with the motion that was found here; there only if it was."""

AUTOMATIC, STORED, ALIGN, STILL = MOTIONS = "stored shifts, or align here", "stored shifts", "align here", "none"
"""What is done about motion, in the order of the form."""


def _isTiff(movie: Movie) -> bool:
    return movie.getFileName().lower().endswith(TIFF_ENDINGS)


class CryodenProtSplitHalves(StreamingRun):
    """Sum the odd and even frames of movies separately, to get two images of the same specimen with independent noise.

    A denoiser is trained on such halves. Raw movies are aligned here, as a whole and in patches, without any other
    program. Of movies from motion correction the stored shifts are applied, and RELION's local motion and hot pixels,
    too.

    Movies are split on the fly while they are still being acquired.
    """

    _label = "split movies into halves"
    _devStatus = BETA
    _isSlowOnCpu = False
    _possibleOutputs = {  # an Enum would merge equal classes
        **dict.fromkeys(OUTPUT_FOLDERS, SetOfMicrographs), OUTPUT_MOVIES: SetOfMovies,
    }  # fmt: skip
    _fields = {
        "movies": "inputMovies", "gain": "useGain", "frames": "Frames to use", "shifts": "motion", "align": "motion",
        "dose_per_frame": "weightByDose", "initial_dose": "weightByDose",
    }  # fmt: skip

    # --------------------------- DEFINE param functions ----------------------
    def _defineParams(self, form: params.Form) -> None:
        self._defineInput(form)
        self._addGpuParams(
            form,
            "Numbers of the GPUs, counted from 0, such as 0 or 0,1. They shift and align frames; each takes its share "
            "of the movies.",
            "slower",
        )
        self._defineCalibration(form)
        self._defineMotion(form)
        self._defineResources(form)

    def _defineInput(self, form: params.Form) -> None:
        form.addSection(label="Input")
        form.addParam(
            "inputMovies",
            params.PointerParam,
            pointerClass="SetOfMovies",
            important=True,
            label="Movies",
            help="Movies in MRC (also gzip or bzip2), TIFF or EER format; for EER, set the number of frames or the "
            "dose per frame (expert level _Advanced_). The set may still be growing. Movies from motion correction "
            "carry their shifts.",
        )
        line = form.addLine(
            "Frames to use",
            help="First and last frame, counted from 1 and inclusive. A last frame of 0 means all, or, with shifts, "
            "those that were aligned. The first frame used goes to the odd half; if the number of frames is odd, the "
            "odd half has one more.",
        )
        line.addParam("firstFrame", params.IntParam, default=1, label="from")
        line.addParam("lastFrame", params.IntParam, default=0, label="to")
        advanced = {"expertLevel": params.LEVEL_ADVANCED}
        self._addOption(form, HalvesConfig, "expect_frames", params.IntParam, "Expected number of frames", **advanced)
        self._addOption(
            form, HalvesConfig, "flip_tiff", params.BooleanParam, "Flip TIFF movies upside down?", **advanced
        )
        form.addParam(
            "row_order",
            params.EnumParam,
            choices=list(HalvesConfig.choices_of("row_order")),
            default=0,
            label="First row of TIFF movies",
            help="auto: the bottom one if the movies carry shifts of RELION or MotionCor, which count rows from there, "
            "or are aligned here, so that both can go on to the same programs; otherwise the top one.",
            **advanced,
        )
        group = form.addGroup("EER movies", **advanced)
        self._addOption(group, HalvesConfig, "eer_frames", params.IntParam, "EER number of frames", **advanced)
        self._addOption(group, HalvesConfig, "eer_dose", params.FloatParam, "EER dose per frame (e/Å²)", **advanced)
        inLine = {"display": params.EnumParam.DISPLAY_HLIST}
        self._addChoice(group, HalvesConfig, "eer_sampling", "EER sampling (4K/8K)", **inLine, **advanced)

    def _defineCalibration(self, form: params.Form) -> None:
        form.addSection(label="Calibration")
        form.addParam(
            "useGain",
            params.BooleanParam,
            default=True,
            label="Apply the gain reference?",
            help="Multiply frames by the gain reference imported with the movies, if there is one. Choose No if the "
            "frames are already gain-corrected.",
        )
        inLine = {"display": params.EnumParam.DISPLAY_HLIST, "condition": "useGain"}
        self._addChoice(form, HalvesConfig, "gain_rotation", "Gain rotation (degrees)", **inLine)
        self._addChoice(form, HalvesConfig, "gain_flip", "Gain flip", **inLine)
        self._addOption(
            form, HalvesConfig, "dark", params.FileParam, "Dark reference", expertLevel=params.LEVEL_ADVANCED
        )
        self._addOption(
            form,
            HalvesConfig,
            "hot_pixels",
            params.FloatParam,
            "Replace hot pixels above (deviations)",
            help="Empty (auto): pixels that counted more, or less, in all frames together than their neighbourhood "
            "makes possible are replaced by the mean of their neighbours; one good pixel in a million is. 0 (off): "
            "none. A number: those that lie this many deviations above the median of their neighbourhood, such as 8.",
        )

    def _defineMotion(self, form: params.Form) -> None:
        form.addSection(label="Motion and dose")
        form.addParam(
            "motion",
            params.EnumParam,
            choices=list(MOTIONS),
            default=MOTIONS.index(AUTOMATIC),
            label="Motion",
            help="stored shifts, or align here: shifts are applied where the movies carry them, otherwise the motion "
            "is found here.\n"
            "stored shifts: those of motion correction, with RELION's local motion.\n"
            "align here: find the motion from the frames, as a whole and in patches, without any other program. It is "
            "applied only if the halves then agree better; _Analyze results_ shows it for every movie. The output "
            "movies carry it for polishing or another split.\n"
            "none: sum the frames as they are.",
        )
        self._addOption(
            form,
            HalvesConfig,
            "align_patches",
            params.IntParam,
            "Patches along each side",
            condition=f"motion in ({MOTIONS.index(AUTOMATIC)}, {MOTIONS.index(ALIGN)})",
            expertLevel=params.LEVEL_ADVANCED,
            help="Patches whose motion is followed, along each side, where movies are aligned here; below 3: none.",
        )
        form.addParam(
            "local_motion",
            params.EnumParam,
            choices=list(HalvesConfig.choices_of("local_motion")),
            default=0,
            condition=f"motion in ({MOTIONS.index(AUTOMATIC)}, {MOTIONS.index(STORED)})",
            expertLevel=params.LEVEL_ADVANCED,
            label="Stored local motion",
            help="auto: RELION's, where the movies carry it, as it is in the middle of each frame. relion: as RELION "
            "itself applies it, to reproduce its sums. none: global shifts only.",
        )
        # What earlier versions asked instead: runs and workflows of theirs keep their answers.
        form.addHidden("useShifts", params.BooleanParam, default=True)
        form.addHidden("alignFrames", params.BooleanParam, default=False)
        form.addParam(
            "weightByDose",
            params.BooleanParam,
            default=False,
            label="Apply dose weighting?",
            help="Dose-weight both halves and the full sum (Grant & Grigorieff 2015), with the dose per frame, initial "
            "dose and voltage of the imported movies.",
        )

    def _defineResources(self, form: params.Form) -> None:
        form.addSection(label="Resources")
        self._addOption(form, HalvesConfig, "jobs", params.IntParam, "Movies in parallel")
        self._addOption(form, HalvesConfig, "memory", params.FloatParam, "Memory (GiB)")

    # --------------------------- INSERT steps functions -----------------------
    def _insertAllSteps(self) -> None:
        now = time.time()  # steps that are others at each launch: a finished run is continued for what came since
        self._insertFunctionStep(self.splitStep, now, needsGPU=True)
        self._insertFunctionStep(self.closeStep, now, needsGPU=False)

    # --------------------------- STEPS functions ------------------------------
    def splitStep(self, launchTime: float) -> None:
        """Run `cryoden halves` on the movies that are there, then on what came meanwhile, until the set is closed."""
        self._runInRounds("halves", self._config, isShared=True)

    def closeStep(self, launchTime: float) -> None:
        """Say that no more micrographs will come."""
        self._closeOutputs()

    def _register(self, movies: List[Movie]) -> None:
        """Append every movie of which all sums are there, to each output set that lacks it."""
        finished = [movie for movie in movies if all(map(os.path.exists, self._sumsOf(movie).values()))]
        for name, folder in OUTPUT_FOLDERS.items():
            isFirst = not self.hasAttribute(name)
            n = self._appendToOutput(name, folder, finished, partial(self._newMicrograph, name), self._prepareOutput)
            if isFirst and n:
                self._defineSourceRelation(self.inputMovies, getattr(self, name))
        if self._isAlignedHere():
            self._registerMovies([movie for movie in finished if os.path.exists(self._motionOf(movie))])

    def _registerMovies(self, movies: List[Movie]) -> None:
        """Append movies to the output set of those that carry their motion."""

        def prepare(aligned: SetOfMovies, first: Movie) -> None:
            aligned.copyInfo(self.inputMovies.get())

        def newMovie(movie: Movie) -> Movie:
            return convert.alignedMovie(movie, self._motionOf(movie))

        isFirst = not self.hasAttribute(OUTPUT_MOVIES)
        n = self._appendToOutput(OUTPUT_MOVIES, "", movies, newMovie, prepare, areMovies=True)
        if isFirst and n:
            self._defineTransformRelation(self.inputMovies, getattr(self, OUTPUT_MOVIES))

    def _prepareOutput(self, micrographs: SetOfMicrographs, first: Movie) -> None:
        micrographs.setAcquisition(self.inputMovies.get().getAcquisition().clone())
        micrographs.setSamplingRate(self._samplingRate())

    def _newMicrograph(self, name: str, movie: Movie) -> Micrograph:
        sums = self._sumsOf(movie)
        micrograph = convert.newMicrograph(movie, sums[OUTPUT_FOLDERS[name]], self._samplingRate())
        if name == OUTPUT_FULL:
            convert.linkHalves(micrograph, sums[outputs.ODD], sums[outputs.EVEN])
        return micrograph

    # --------------------------- INFO functions -------------------------------
    def _validate(self) -> List[str]:
        problems = self._problemsOf(self._config)
        gain = self._gain()
        if gain and not os.path.exists(gain):
            problems.append(f"Gain reference {gain} does not exist; import the movies again with the right one.")
        if self.weightByDose.get() and not self._dose():
            problems.append(
                "The movies have no dose per frame, which dose weighting needs; import them with it, or do not "
                "dose-weight."
            )
        movies = self.inputMovies.get()
        if movies is not None and not movies.getSize() and not movies.isStreamOpen():
            problems.append("The set of movies is empty; rerun the protocol that makes it, or select another.")
        first = self._firstMovie()
        if self._motion() == STORED and first is not None and not first.hasAlignment():
            problems.append(
                f"The movies carry no shifts; choose *{ALIGN}* for *{self._labelOf('shifts')}*, or movies from motion "
                "correction."
            )
        return problems or self._validateContinued()

    def _continueProblems(self) -> List[str]:
        movies = self.inputMovies.get()
        path = self._getExtraPath(outputs.HALVES_RECORD)
        record, isBegunBy01 = recorded_options(path), options_of_0_1(path) is not None
        if movies is None or record is None:
            return []

        # What the form cannot set is the same at every launch.
        options = {name: value for name, value in self._config().to_dict().items() if self._labelOf(name)}
        if options["hot_pixels"] == shared.AUTO and isBegunBy01:  # it goes on with what nothing meant then
            del options["hot_pixels"]
        if not self._config().align:  # patches have no meaning where nothing is aligned, and are not recorded
            options.pop("align_patches", None)
        if options["local_motion"] == AUTO:  # of movies without it, as it is recorded
            options["local_motion"] = NONE
        if options["shifts"] != record["shifts"]:  # one field sets both
            del options["align"]
        problems = optionProblems(HalvesConfig.with_words(record), options, self._words)
        if self.hasAttribute(OUTPUT_FULL):
            problems += itemProblems(self._labelOf("movies"), movies, self.outputMicrographs, self._inputFile())
        return problems

    def _warnings(self) -> List[str]:
        return self._earlierAnswerLines() + self._rowWarnings()

    def _earlierAnswerLines(self) -> List[str]:
        """Return that an earlier version's answer still decides, where the form does not show it."""
        if self.useShifts.get() or self._chosenMotion() != AUTOMATIC:
            return []
        return [
            f"An earlier version was told to apply no stored shifts; *{self._labelOf('shifts')}* is therefore "
            f"*{self._motion()}*. Choose anything but *{AUTOMATIC}* to change that."
        ]

    def _rowWarnings(self) -> List[str]:
        first = self._firstMovie()
        isKnown = (
            self.flip_tiff.get() or self._choice(HalvesConfig, "row_order") != AUTO or self._isCorrectedFromBelow()
        )
        if first is not None and _isTiff(first) and not isKnown and self._shiftsFolder():
            return [
                "The movies are TIFF files and have shifts. RELION and MotionCor count the rows of TIFF files from the "
                f"bottom: if the shifts are theirs, choose Yes for *{self._labelOf('flip_tiff')}* (expert level "
                "_Advanced_)."
            ]
        return []

    def _summary(self) -> List[str]:
        if not self.hasAttribute(OUTPUT_FULL):
            return ["No halves yet.", *self._failureLines()]

        full = self.outputMicrographs
        lines = [
            f"Split: *{full.getSize()}* of {counted(convert.currentSize(self.inputMovies.get()), 'movie')}"
            + (", more may come." if full.isStreamOpen() else "."),
            "Train on the odd and even sets; estimate CTFs and extract particles on the full set.",
        ]
        return lines + self._motionLines() + self._failureLines() + self._sanityLines()

    def _methods(self) -> List[str]:
        movies = self.inputMovies.get()
        if not self.hasAttribute(OUTPUT_FULL) or movies is None:
            return []

        x, y, nFrames = movies.getDim()
        facts = [f"{counted(nFrames, 'frame')} of {x} x {y} px", f"{movies.getSamplingRate():.4g} Å/px"]
        if self._dose():
            facts.append(f"{self._dose():.3g} e/Å² per frame")
        frames = f" (frames {self._frames()})" if self._frames() else ""
        lines = [
            f"The odd and even frames{frames} of {counted(self.outputMicrographs.getSize(), 'movie')} "
            f"({', '.join(facts)}) were summed separately with cryoden {__version__}, to give pairs of images with "
            "independent noise for Noise2Noise [Lehtinen2018] training."
        ]
        if self._gain():
            lines.append("Frames were multiplied by the gain reference.")
        if self._config().hot_pixels != shared.OFF:
            lines.append("Defective pixels were replaced by the mean of their neighbours.")
        if self._shiftsFolder():
            isLocal = self._localMotion() not in (AUTO, NONE) and convert.hasLocalModel(self._firstMovie())
            lines.append(
                f"Frames were aligned by the global shifts{' and the local motion' if isLocal else ''} from motion "
                "correction."
            )
        if self._isAlignedHere():
            lines += self._alignmentMethods()
        if self.weightByDose.get():
            lines.append("The dose weighting of [Grant2015] was applied to the frames.")
        return lines

    def _alignmentMethods(self) -> List[str]:
        nPatches = self._config().align_patches
        hasPatches = nPatches >= 3  # fewer have no local motion
        patches = f", as a whole and in {nPatches} x {nPatches} patches, whose motion was described by a third-order"
        patches += " polynomial [Zivanov2019]"
        lines = [
            "Frames were aligned by their correlation with the sum of the others [Li2013]"
            + (patches if hasPatches else "")
            + ", where the odd and even sums then agreed better."
        ]
        movies = read_alignments(self._getExtraPath())
        nAligned = sum(movie.is_aligned for movie in movies)
        if nAligned:
            lines += [f"This was so in {nAligned} of {len(movies)}; {agreement(movies)}.", drift_sentence(movies)]
        return lines

    def _citations(self) -> List[str]:
        weighting = ["Grant2015"] if self.weightByDose.get() else []
        isLocal = self._isAlignedHere() and self.align_patches.get() >= 3
        alignment = ["Li2013"] if self._isAlignedHere() else []
        return ["Lehtinen2018", *weighting, *alignment, *(["Zivanov2019"] if isLocal else [])]

    def _motionLines(self) -> List[str]:
        """Return what was applied of the motion that was found here, or that the movies carry."""
        if self._isAlignedHere():
            return self._alignmentLines()
        if self._localMotion() in (AUTO, NONE):
            return []
        first = self._firstMovie()
        if convert.motionStar(first) is not None:
            return ["The motion was applied that an earlier split found, local motion too."]
        if not convert.hasLocalModel(first):
            return [
                "RELION's hot pixels were replaced; its motion correction has no local motion (2 patches or fewer)."
            ]
        if self._ownStar(first) is None and self._binning() is None:
            return [
                "RELION's hot pixels were replaced. Its local motion was applied where its own STAR file is at hand: "
                "what movies carry does not say the binning, which is its unit."
            ]
        return ["RELION's local motion was applied, and its hot pixels were replaced."]

    def _alignmentLines(self) -> List[str]:
        """Return how well movies were aligned, how far they drifted, and which of them are doubtful."""
        movies = read_alignments(self._getExtraPath())
        if not movies:
            return []
        doubts = [f"  {line}" for line in doubt_lines(movies, MAX_REASONS)]
        said = [headline(movies), drift_sentence(movies), *(["*Look at these movies:*", *doubts] if doubts else [])]
        return [line for line in said if line] + ["Analyze results shows the motion of every movie, the worst first."]

    def _sanityLines(self) -> List[str]:
        """Return what the denoiser's command found suspicious in the halves."""
        path = self._getExtraPath(outputs.SANITY)
        if not os.path.exists(path):
            return []
        lines = self._warningLines(map(Problem.from_dict, read_json(path)["warnings"]))
        picture = self._getExtraPath(outputs.PATTERN_PICTURE)
        return lines + ([f"Image of the pattern: {picture}"] if lines and os.path.exists(picture) else [])

    # --------------------------- UTILS functions ------------------------------
    def _config(self) -> HalvesConfig:
        isWeighted = self.weightByDose.get() and self._dose()

        return HalvesConfig(
            movies=(self._inputFile(),),
            output=self._getExtraPath(),
            gain=self._gain(),
            gain_rotation=self._choice(HalvesConfig, "gain_rotation") if self._gain() else "0",
            gain_flip=self._choice(HalvesConfig, "gain_flip") if self._gain() else "none",
            dark=self.dark.get() or None,
            hot_pixels=self._numberOrWord(HalvesConfig, "hot_pixels"),
            frames=self._frames(),
            expect_frames=self.expect_frames.get(),
            shifts=self._shiftsFolder(),
            align=self._isAlignedHere(),
            align_patches=self.align_patches.get()
            if self._isAlignedHere()
            else HalvesConfig.default_of("align_patches"),
            local_motion=self._localMotion(),
            dose_per_frame=self._dose() if isWeighted else None,
            initial_dose=self._initialDose() if isWeighted else 0.0,
            flip_tiff=self._isFlipped(),
            row_order=AUTO if self._isFlipped() else FROM_TOP,
            eer_frames=self.eer_frames.get(),
            eer_dose=self.eer_dose.get(),
            eer_sampling=self._choice(HalvesConfig, "eer_sampling"),
            device=self._device(),
            jobs=self.jobs.get(),
            memory=self.memory.get(),
        )

    def _frames(self) -> Optional[str]:
        first, last = self.firstFrame.get(), self.lastFrame.get()
        if (first, last) == (1, 0):
            movie = self._firstMovie() if self._shiftsFolder() else None
            if movie is None or not movie.hasAlignment():
                return None
            first, last = movie.getAlignment().getRange()
        return f"{first}-{last or ''}"

    def _chosenMotion(self) -> str:
        return MOTIONS[self.motion.get()]

    def _motion(self) -> str:
        """Return what is done about motion, any of `MOTIONS` but the first; a run goes on as it was begun."""
        if self._chosenMotion() != AUTOMATIC:
            return self._chosenMotion()
        if not self.useShifts.get():
            return ALIGN if self.alignFrames.get() else STILL
        first = self._firstMovie()
        if first is not None and first.hasAlignment():
            return STORED
        record = recorded_options(self._getExtraPath(outputs.HALVES_RECORD))
        return ALIGN if record is None or record.get("align") else STILL

    def _shiftsFolder(self) -> Optional[str]:
        """Return where the movies' shifts are written; None where none are applied."""
        return self._getExtraPath(SHIFTS_FOLDER) if self._motion() == STORED else None

    def _isAlignedHere(self) -> bool:
        """Return whether the motion is found from the frames."""
        return self._motion() == ALIGN

    def _localMotion(self) -> str:
        """Return how local motion is applied; a run that was begun without it goes on so."""
        choice = self._choice(HalvesConfig, "local_motion")
        record = recorded_options(self._getExtraPath(outputs.HALVES_RECORD))
        if not self._shiftsFolder() or not self._isOfRelion() or (record is not None and LOCAL_MOTION not in record):
            return AUTO
        return MIDDLE if choice == AUTO else choice

    def _isFlipped(self) -> bool:
        """Return whether TIFF rows count from the bottom; a run goes on as it was begun."""
        choice, first = self._choice(HalvesConfig, "row_order"), self._firstMovie()
        if self.flip_tiff.get() or first is None or not _isTiff(first) or choice != AUTO:
            return self.flip_tiff.get() or choice == FROM_BOTTOM
        record = recorded_options(self._getExtraPath(outputs.HALVES_RECORD))
        if record is not None:
            return bool(record["flip_tiff"])
        return self._isAlignedHere() or (self._shiftsFolder() is not None and self._isCorrectedFromBelow())

    def _isOfRelion(self) -> bool:
        """Return whether the movies carry what RELION's motion correction found beside shifts."""
        first = self._firstMovie()
        return first is not None and convert.isOfRelion(first)

    def _isCorrectedFromBelow(self) -> bool:
        """Return whether the movies were corrected by RELION or MotionCor, which count TIFF rows from the bottom."""
        return self._isOfRelion() or "motioncor" in type(self._motionCorrection()).__name__.lower()

    def _inputFile(self) -> str:
        return self._getExtraPath(outputs.MOVIES_STAR)

    def _writeInput(self, movies: List[Movie]) -> None:
        self._writeShifts(movies)
        convert.writeImagesStar(self._inputFile(), movies, nameLabel=MOVIE_NAME)

    def _writeShifts(self, movies: List[Movie]) -> None:
        """Write the shifts that movies carry, where they are applied."""
        folder = self._shiftsFolder()
        if folder is None:
            return
        os.makedirs(folder, exist_ok=True)
        isFromRelion = self._localMotion() != AUTO  # asked once: it reads the set and the run's record
        for movie in movies:
            path = os.path.join(folder, os.path.splitext(mrc_name(movie.getFileName()))[0] + ".star")
            if movie.hasAlignment() and not os.path.exists(path) and isFromRelion:
                self._writeCorrection(path, movie)
            elif movie.hasAlignment() and not os.path.exists(path):
                first, _ = movie.getAlignment().getRange()
                shifts = zip(*movie.getAlignment().getShifts())
                write_global_shifts(path, {first + number: shift for number, shift in enumerate(shifts)})

    def _writeCorrection(self, path: str, movie: Movie) -> None:
        """Write everything that RELION found of a movie: its own file where that is, or what the movie carries."""
        own = self._ownStar(movie)
        if own is not None:
            shutil.copyfile(own, path)
        else:
            write_movie_correction(path, convert.movieCorrection(movie, self._binning()))

    def _ownStar(self, movie: Movie) -> Optional[str]:
        """Return the STAR file about a movie: that of our alignment, or RELION's, beside the set of its protocol."""
        ours = convert.motionStar(movie)
        if ours is not None:
            return ours if os.path.isfile(ours) else None
        folder = os.path.dirname(self.inputMovies.get().getFileName())
        own = os.path.join(folder, "extra", removeBaseExt(movie.getFileName()) + ".star")
        return own if os.path.isfile(own) else None

    def _binning(self) -> Optional[float]:
        """Return the binning of the motion correction, which is the unit of its model; None where it is not known."""
        if convert.motionStar(self._firstMovie()) is not None:
            return 1.0
        binning = getattr(self._motionCorrection(), "binFactor", None)
        return None if binning is None else float(binning.get())

    def _motionCorrection(self) -> object:
        """Return the protocol that made the movies: the input names it, or its set does."""
        value = self.inputMovies.getObjValue()
        return self.getMapper().getParent(value) if isinstance(value, SetOfMovies) else value

    def _loadInput(self) -> Tuple[List[Movie], bool]:
        return convert.loadItems(self.inputMovies.get().getFileName(), SetOfMovies)

    def _firstMovie(self) -> Optional[Movie]:
        movies = self.inputMovies.get()
        return convert.firstItem(movies) if movies is not None else None

    def _dose(self) -> Optional[float]:
        movies = self.inputMovies.get()
        return movies.getAcquisition().getDosePerFrame() if movies is not None else None

    def _initialDose(self) -> float:
        return self.inputMovies.get().getAcquisition().getDoseInitial() or 0.0

    def _gain(self) -> Optional[str]:
        movies = self.inputMovies.get()
        return (movies.getGain() or None) if movies is not None and self.useGain.get() else None

    def _samplingRate(self) -> float:
        return self.inputMovies.get().getSamplingRate()

    def _sumsOf(self, movie: Movie) -> Dict[str, str]:
        """Return folder -> file of a movie's sums."""
        name = mrc_name(movie.getFileName())
        return {folder: self._getExtraPath(folder, name) for folder in OUTPUT_FOLDERS.values()}

    def _motionOf(self, movie: Movie) -> str:
        """Return the STAR file about a movie that was aligned here."""
        return self._getExtraPath(outputs.MOTION, os.path.splitext(mrc_name(movie.getFileName()))[0] + ".star")
