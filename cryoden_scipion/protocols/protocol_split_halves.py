"""Split movies into halves while they come: SetOfMovies -> full, odd and even SetOfMicrographs."""

import os
import time
from concurrent.futures import ThreadPoolExecutor, wait

from pwem.objects import SetOfMicrographs, SetOfMovies
from pyworkflow.constants import BETA
from pyworkflow.object import CsvList, Set
from pyworkflow.protocol import params

from cryoden.config import HalvesConfig
from cryoden.formats.files import mrc_name, read_json
from cryoden.formats.star import MOVIE_NAME, write_global_shifts
from cryoden_scipion import convert
from cryoden_scipion.constants import HALVES_LINK
from cryoden_scipion.protocols.protocol_base import CryodenProtBase

MOVIES_STAR, SHIFTS_FOLDER = "movies.star", "shifts"
SANITY_NAME, PATTERN_NAME, PATTERN_PICTURE_NAME = "sanity.json", "fixed_pattern.npz", "fixed_pattern.png"

OUTPUT_FULL, OUTPUT_ODD, OUTPUT_EVEN = "outputMicrographs", "outputMicrographsOdd", "outputMicrographsEven"
OUTPUT_FOLDERS = {OUTPUT_FULL: "full", OUTPUT_ODD: "odd", OUTPUT_EVEN: "even"}

REGISTER_SECONDS = 3
"""How often finished movies are looked for while the denoiser's command runs."""

WAIT_SECONDS = 3
"""How often an open set without new movies is looked at."""

NONE_SPLIT = "cryoden: None of "
"""How the command's last line begins where every movie so far is bad; others may follow."""


class CryodenProtSplitHalves(CryodenProtBase):
    """Sum the odd and the even frames of movies apart: two images of one specimen with independent noise.

    A denoiser is trained on such halves. Global shifts that a motion correction stored with the movies are applied;
    local motion is not stored, so halves from the motion-correction program itself (its odd and even output) are
    better. Works while movies are still being acquired.
    """

    _label = "split movies into halves"
    _devStatus = BETA
    _possibleOutputs = dict.fromkeys(OUTPUT_FOLDERS, SetOfMicrographs)  # an Enum would merge equal classes

    # --------------------------- DEFINE param functions ----------------------
    def _defineParams(self, form):
        self._defineInput(form)
        self._defineCalibration(form)
        self._defineMotion(form)
        self._defineResources(form)

    def _defineInput(self, form):
        form.addSection(label="Input")
        form.addParam(
            "inputMovies",
            params.PointerParam,
            pointerClass="SetOfMovies",
            important=True,
            label="Movies",
            help="Movies (MRC, also packed by gzip or bzip2, TIFF, EER). The set may still grow. Movies after motion "
            "correction carry their shifts.",
        )
        line = form.addLine(
            "Frames to use",
            help="First and last frame, counted from 1 and both included; 0 as last means all (or, with shifts, those "
            "that were aligned). The first goes to the odd half, so of an odd number of frames it has one more.",
        )
        line.addParam("firstFrame", params.IntParam, default=1, label="from")
        line.addParam("lastFrame", params.IntParam, default=0, label="to")
        advanced = {"expertLevel": params.LEVEL_ADVANCED}
        self._addOption(form, HalvesConfig, "expect_frames", params.IntParam, "Frames a movie must have", **advanced)
        self._addOption(form, HalvesConfig, "flip_tiff", params.BooleanParam, "TIFF rows count from the bottom?")
        group = form.addGroup("EER movies")
        self._addOption(group, HalvesConfig, "eer_frames", params.IntParam, "Number of frames")
        self._addOption(group, HalvesConfig, "eer_dose", params.FloatParam, "or electrons per A2 and frame")
        self._addChoice(group, HalvesConfig, "eer_sampling", "Grid", display=params.EnumParam.DISPLAY_HLIST)

    def _defineCalibration(self, form):
        form.addSection(label="Calibration")
        form.addParam(
            "useGain",
            params.BooleanParam,
            default=True,
            label="Multiply by the gain reference?",
            help="Say No if the frames were gain-corrected before. Without an imported reference it changes nothing.",
        )
        inLine = {"display": params.EnumParam.DISPLAY_HLIST, "condition": "useGain"}
        self._addChoice(form, HalvesConfig, "gain_rotation", "Turn it by (degrees)", **inLine)
        self._addChoice(form, HalvesConfig, "gain_flip", "Mirror it", **inLine)
        self._addOption(
            form, HalvesConfig, "dark", params.FileParam, "Dark reference", expertLevel=params.LEVEL_ADVANCED
        )
        self._addOption(form, HalvesConfig, "hot_pixels", params.FloatParam, "Replace hot pixels above (deviations)")

    def _defineMotion(self, form):
        form.addSection(label="Motion and dose")
        form.addParam(
            "useShifts",
            params.BooleanParam,
            default=True,
            label="Apply stored shifts?",
            help="Global shifts that a motion correction stored with the movies. Without any it changes nothing.",
        )
        form.addParam(
            "weightByDose",
            params.BooleanParam,
            default=False,
            label="Weight frames by exposure?",
            help="Both halves and the full sum, after Grant & Grigorieff (2015), with the dose per frame, initial dose "
            "and voltage of the imported movies.",
        )

    def _defineResources(self, form):
        form.addSection(label="Resources")
        self._addOption(form, HalvesConfig, "jobs", params.IntParam, "Movies side by side")
        self._addOption(form, HalvesConfig, "memory", params.FloatParam, "Memory for them (GiB)")

    # --------------------------- INSERT steps functions -----------------------
    def _insertAllSteps(self):
        self._insertFunctionStep(self.splitStep, needsGPU=False)
        self._insertFunctionStep(self.closeStep, needsGPU=False)

    def _stepsCheck(self):
        """Add no steps: that this method is here tells Scipion that open sets may be given (`worksInStreaming`)."""

    # --------------------------- STEPS functions ------------------------------
    def splitStep(self):
        """Run `cryoden halves` on the movies that are there, then on what came meanwhile, until the set is closed.

        One command takes all movies of the moment, so that starting it costs little; finished movies are registered
        while it runs.
        """
        launched = None
        while True:
            movies, isComplete = self._loadMovies()
            names = [movie.getFileName() for movie in movies]
            if names != launched and movies:
                launched = names
                self._writeInput(movies)
                self._runAndRegister(movies, isComplete)
            elif isComplete:
                return
            else:
                self.info(f"Waiting for movies: {len(movies)} so far.")
                time.sleep(WAIT_SECONDS)

    def closeStep(self):
        """Say that no more micrographs will come.

        Raises
        ------
        Exception
            If no movie could be split.
        """
        if not self.hasAttribute(OUTPUT_FULL):
            raise Exception(self._lastError() or "The set of movies is empty; nothing was split.")
        self._closeOutputSet()

    def _runAndRegister(self, movies, isComplete):
        with ThreadPoolExecutor(1) as pool:
            job = pool.submit(self._runCryoden, "halves", self._config())
            while not job.done():
                wait([job], timeout=REGISTER_SECONDS)
                self._register(movies)
        try:
            job.result()
        except Exception as error:
            if isComplete or not str(error).startswith(NONE_SPLIT):
                raise
            self.warning(str(error))

    def _register(self, movies):
        """Append every movie of which all sums are there, to each output set that lacks it."""
        finished = [movie for movie in movies if all(map(os.path.exists, self._sumsOf(movie).values()))]
        if not finished:
            return
        outputs = {name: self._openOutput(name) for name in OUTPUT_FOLDERS}
        for name, (micrographs, known) in outputs.items():
            new = [movie for movie in finished if movie.getObjId() not in known]
            for movie in new:
                micrographs.append(self._newMicrograph(movie, name))
            isFirst = not self.hasAttribute(name)
            if new:
                self._updateOutputSet(name, micrographs, Set.STREAM_OPEN)
            if isFirst:
                self._defineSourceRelation(self.inputMovies, getattr(self, name))
            micrographs.close()

    def _openOutput(self, name):
        """Return an output set, ready for more, and the ids that it holds; after a kill, its file is what counts."""
        if self.hasAttribute(name):
            micrographs = SetOfMicrographs(filename=getattr(self, name).getFileName())
            micrographs.loadAllProperties()
            known = micrographs.getIdSet()
            micrographs.enableAppend()
            micrographs.setStreamState(Set.STREAM_OPEN)
            return micrographs, known
        movieSet = self.inputMovies.get()
        micrographs = self._createSetOfMicrographs(suffix=OUTPUT_FOLDERS[name])
        micrographs.setStreamState(Set.STREAM_OPEN)
        micrographs.setAcquisition(movieSet.getAcquisition().clone())
        micrographs.setSamplingRate(self._samplingRate())
        return micrographs, set()

    def _newMicrograph(self, movie, name):
        sums = self._sumsOf(movie)
        micrograph = convert.newMicrograph(movie, sums[OUTPUT_FOLDERS[name]], self._samplingRate())
        if name == OUTPUT_FULL:
            link = CsvList()
            link.set(",".join((sums["odd"], sums["even"])))
            setattr(micrograph, HALVES_LINK, link)
        return micrograph

    # --------------------------- INFO functions -------------------------------
    def _validate(self):
        problems = self._problemsOf(self._config)
        gain = self._gain()
        if gain and not os.path.exists(gain):
            problems.append(f"Gain reference {gain} does not exist; import the movies again with the right one.")
        if self.weightByDose.get() and not self._dose():
            problems.append(
                "The movies say no dose per frame, which the weights need; import them with it, or do not weight."
            )
        return problems

    def _warnings(self):
        first = self._firstMovie()
        isTiff = first is not None and first.getFileName().lower().endswith((".tif", ".tiff"))
        if isTiff and not self.flip_tiff.get() and self._shiftsFolder():
            return [
                "The movies are TIFF and have shifts. RELION and MotionCor count the rows of TIFF files from the "
                "bottom: if the shifts are theirs, say Yes to _TIFF rows count from the bottom_."
            ]
        return []

    def _summary(self):
        if not self.hasAttribute(OUTPUT_FULL):
            return ["No halves yet.", *self._failureLines()]
        full = self.outputMicrographs
        lines = [
            f"*{full.getSize()}* of {self.inputMovies.get().getSize()} movies are split"
            + (", more may come." if full.isStreamOpen() else "."),
            "Of an odd number of frames the odd half has one more. Train on the odd and even sets; estimate CTFs and "
            "extract particles on the full set.",
        ]
        return lines + self._failureLines() + self._sanityLines()

    def _sanityLines(self):
        """Return what the denoiser's command found suspicious in the halves."""
        path = self._getExtraPath(SANITY_NAME)
        if not os.path.exists(path):
            return []
        lines = [f"*Warning:* {line}" for line in read_json(path)["warnings"]]
        picture = self._getExtraPath(PATTERN_PICTURE_NAME)
        return lines + ([f"Picture of the pattern: {picture}"] if lines and os.path.exists(picture) else [])

    # --------------------------- UTILS functions ------------------------------
    def _config(self):
        acquisition = self.inputMovies.get().getAcquisition() if self.inputMovies.get() is not None else None
        isWeighted = self.weightByDose.get() and self._dose()
        return HalvesConfig(
            movies=(self._getExtraPath(MOVIES_STAR),),
            output=self._getExtraPath(),
            gain=self._gain(),
            gain_rotation=self._choice(HalvesConfig, "gain_rotation") if self._gain() else "0",
            gain_flip=self._choice(HalvesConfig, "gain_flip") if self._gain() else "none",
            dark=self.dark.get() or None,
            hot_pixels=self.hot_pixels.get(),
            frames=self._frames(),
            expect_frames=self.expect_frames.get(),
            shifts=self._shiftsFolder(),
            dose_per_frame=self._dose() if isWeighted else None,
            initial_dose=(acquisition.getDoseInitial() or 0.0) if isWeighted else 0.0,
            flip_tiff=self.flip_tiff.get(),
            eer_frames=self.eer_frames.get(),
            eer_dose=self.eer_dose.get(),
            eer_sampling=self._choice(HalvesConfig, "eer_sampling"),
            jobs=self.jobs.get(),
            memory=self.memory.get(),
        )

    def _frames(self):
        first, last = self.firstFrame.get(), self.lastFrame.get()
        if (first, last) == (1, 0):
            if not self._shiftsFolder():
                return None
            first, last = self._firstMovie().getAlignment().getRange()
        return f"{first}-{last or ''}"

    def _shiftsFolder(self):
        """Return where the movies' shifts are written; None if they have none or are not to be moved."""
        first = self._firstMovie()
        hasShifts = self.useShifts.get() and first is not None and first.hasAlignment()
        return self._getExtraPath(SHIFTS_FOLDER) if hasShifts else None

    def _writeInput(self, movies):
        convert.writeImagesStar(self._getExtraPath(MOVIES_STAR), movies, nameLabel=MOVIE_NAME)
        folder = self._shiftsFolder()
        for movie in movies if folder else ():
            os.makedirs(folder, exist_ok=True)
            path = os.path.join(folder, os.path.splitext(mrc_name(movie.getFileName()))[0] + ".star")
            if movie.hasAlignment() and not os.path.exists(path):
                first, _ = movie.getAlignment().getRange()
                shifts = zip(*movie.getAlignment().getShifts())
                write_global_shifts(path, {first + number: shift for number, shift in enumerate(shifts)})

    def _loadMovies(self):
        """Return the movies that the set's file holds now, and whether no more will come."""
        movieSet = SetOfMovies(filename=self.inputMovies.get().getFileName())
        movieSet.loadAllProperties()
        isComplete = movieSet.isStreamClosed()  # asked first: what comes afterwards is not missed
        movies = convert.clonedItems(movieSet)
        movieSet.close()
        return movies, isComplete

    def _firstMovie(self):
        movies = self.inputMovies.get()
        return movies.getFirstItem() if movies is not None else None

    def _dose(self):
        movies = self.inputMovies.get()
        return movies.getAcquisition().getDosePerFrame() if movies is not None else None

    def _gain(self):
        movies = self.inputMovies.get()
        return (movies.getGain() or None) if movies is not None and self.useGain.get() else None

    def _samplingRate(self):
        return self.inputMovies.get().getSamplingRate()

    def _sumsOf(self, movie):
        """Return folder -> file of a movie's sums."""
        name = mrc_name(movie.getFileName())
        return {folder: self._getExtraPath(folder, name) for folder in OUTPUT_FOLDERS.values()}
