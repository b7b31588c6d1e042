"""Split movies into halves: SetOfMovies -> full, odd and even SetOfMicrographs."""

import os

from pwem.objects import SetOfMicrographs
from pyworkflow.constants import BETA
from pyworkflow.object import CsvList
from pyworkflow.protocol import params

from cryoden.config import HalvesConfig
from cryoden.formats.files import mrc_name
from cryoden.formats.star import MOVIE_NAME
from cryoden_scipion import convert
from cryoden_scipion.constants import HALVES_LINK
from cryoden_scipion.protocols.protocol_base import CryodenProtBase

MOVIES_STAR = "movies.star"


OUTPUT_FULL, OUTPUT_ODD, OUTPUT_EVEN = "outputMicrographs", "outputMicrographsOdd", "outputMicrographsEven"
OUTPUT_FOLDERS = {OUTPUT_FULL: "full", OUTPUT_ODD: "odd", OUTPUT_EVEN: "even"}


class CryodenProtSplitHalves(CryodenProtBase):
    """Sum the odd and the even frames of movies apart: two images of one specimen with independent noise.

    A denoiser is trained on such halves. Frames are summed as they are: use movies without visible drift, or take
    halves from your motion-correction program (its odd and even output), which are better.
    """

    _label = "split movies into halves"
    _devStatus = BETA
    _possibleOutputs = dict.fromkeys(OUTPUT_FOLDERS, SetOfMicrographs)  # an Enum would merge equal classes

    # --------------------------- DEFINE param functions ----------------------
    def _defineParams(self, form):
        form.addSection(label="Input")
        form.addParam(
            "inputMovies",
            params.PointerParam,
            pointerClass="SetOfMovies",
            important=True,
            label="Movies",
            help="Movies (MRC or TIFF stacks). A gain reference that was imported with them is multiplied.",
        )
        line = form.addLine(
            "Frames to use",
            help="First and last frame, counted from 1 and both included; 0 as last means all.",
        )
        line.addParam("firstFrame", params.IntParam, default=1, label="from")
        line.addParam("lastFrame", params.IntParam, default=0, label="to")
        form.addParam(
            "useGain",
            params.BooleanParam,
            default=True,
            label="Multiply by the gain reference?",
            help="Say No if the frames were gain-corrected before. Without an imported reference it changes nothing.",
        )
        self._addOption(
            form, HalvesConfig, "dark", params.FileParam, "Dark reference", expertLevel=params.LEVEL_ADVANCED
        )
        self._addOption(
            form,
            HalvesConfig,
            "jobs",
            params.IntParam,
            "Movies side by side",
            expertLevel=params.LEVEL_ADVANCED,
        )

    # --------------------------- INSERT steps functions -----------------------
    def _insertAllSteps(self):
        self._insertFunctionStep(self.splitStep, needsGPU=False)
        self._insertFunctionStep(self.createOutputStep, needsGPU=False)

    # --------------------------- STEPS functions ------------------------------
    def splitStep(self):
        """Run `cryoden halves` on all movies."""
        movies = convert.clonedItems(self.inputMovies.get())
        convert.writeImagesStar(self._getExtraPath(MOVIES_STAR), movies, nameLabel=MOVIE_NAME)
        self._runCryoden("halves", self._config())

    def createOutputStep(self):
        """Register the sums of every movie that was split."""
        movieSet = self.inputMovies.get()
        outputs = {}
        for output, folder in OUTPUT_FOLDERS.items():
            micrographs = self._createSetOfMicrographs(suffix=folder)
            micrographs.setAcquisition(movieSet.getAcquisition())
            micrographs.setSamplingRate(movieSet.getSamplingRate())
            for movie in movieSet:
                files = {name: self._halfPath(movie, name) for name in OUTPUT_FOLDERS.values()}
                if not all(os.path.exists(file) for file in files.values()):
                    continue
                micrograph = convert.newMicrograph(movie, files[folder], movieSet.getSamplingRate())
                if output == OUTPUT_FULL:
                    link = CsvList()
                    link.set(",".join((files["odd"], files["even"])))
                    setattr(micrograph, HALVES_LINK, link)
                micrographs.append(micrograph)
            outputs[output] = micrographs
        self._defineOutputs(**outputs)
        for micrographs in outputs.values():
            self._defineSourceRelation(self.inputMovies, micrographs)

    # --------------------------- INFO functions -------------------------------
    def _validate(self):
        problems = self._problemsOf(self._config)
        gain = self._gain()
        if gain and not os.path.exists(gain):
            problems.append(f"Gain reference {gain} does not exist; import the movies again with the right one.")
        return problems

    def _summary(self):
        if not self.hasAttribute(OUTPUT_FULL):
            return ["No halves yet."]
        lines = [
            f"*{self.outputMicrographs.getSize()}* of {self.inputMovies.get().getSize()} movies are split.",
            "Of an odd number of frames the odd half has one more. Train on the odd and even sets; estimate CTFs and "
            "extract particles on the full set.",
        ]
        return lines + self._failureLines()

    # --------------------------- UTILS functions ------------------------------
    def _config(self):
        first, last = self.firstFrame.get(), self.lastFrame.get()
        frames = None if (first, last) == (1, 0) else f"{first}-{last or ''}"
        return HalvesConfig(
            movies=(self._getExtraPath(MOVIES_STAR),),
            output=self._getExtraPath(),
            gain=self._gain(),
            dark=self.dark.get() or None,
            frames=frames,
            jobs=self.jobs.get(),
        )

    def _gain(self):
        movies = self.inputMovies.get()
        return (movies.getGain() or None) if movies is not None and self.useGain.get() else None

    def _halfPath(self, movie, folder):
        return self._getExtraPath(folder, mrc_name(movie.getFileName()))
