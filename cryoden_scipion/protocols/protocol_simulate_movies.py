"""Simulate movies: nothing -> SetOfMovies, the true SetOfMicrographs and the SetOfCoordinates."""

from __future__ import annotations

from enum import Enum
from typing import Dict, List, Tuple, Type

from pwem.objects import Acquisition, Coordinate, Movie, SetOfCoordinates, SetOfMicrographs, SetOfMovies
from pyworkflow.constants import BETA
from pyworkflow.protocol import params

from cryoden.config.simulate import SimulateMoviesConfig
from cryoden.formats import outputs
from cryoden.simulate.facts import Facts, read_facts
from cryoden.wording import counted
from cryoden_scipion import __version__, convert
from cryoden_scipion.protocols.protocol_base import CryodenProtBase

SECTIONS: Dict[str, Dict[str, Tuple[Type[params.Param], str]]] = {
    "Movies": {
        "movies": (params.IntParam, "Number of movies"),
        "frames": (params.IntParam, "Frames per movie"),
        "sampling_rate": (params.FloatParam, "Pixel size (Å/px)"),
        "dose_per_frame": (params.FloatParam, "Dose per frame (e/Å²)"),
        "seed": (params.IntParam, "Random seed"),
    },
    "Specimen": {
        "map": (params.FileParam, "Particle map"),
        "potential": (params.FloatParam, "Particle potential (V)"),
        "particles": (params.IntParam, "Particles per movie"),
        "ice_thickness": (params.FloatParam, "Ice thickness (Å)"),
        "ice_gradient": (params.FloatParam, "Ice gradient"),
        "carbon": (params.FloatParam, "Carbon fraction"),
        "drift": (params.FloatParam, "Drift (Å)"),
        "no_damage": (params.BooleanParam, "Switch off radiation damage?"),
    },
    "Microscope": {
        "voltage": (params.FloatParam, "Voltage (kV)"),
        "spherical_aberration": (params.FloatParam, "Spherical aberration (mm)"),
        "amplitude_contrast": (params.FloatParam, "Amplitude contrast"),
        "defocus": (params.FloatParam, "Underfocus (µm)"),
        "defocus_spread": (params.FloatParam, "Underfocus spread (µm)"),
        "blur": (params.FloatParam, "Detector blur (px)"),
        "gain_spread": (params.FloatParam, "Gain spread"),
        "dead_pixels": (params.IntParam, "Dead pixels"),
        "hot_pixels": (params.IntParam, "Hot pixels"),
    },
}
"""Options of the command in the sections of the form."""

BASIC = {"movies", "frames", "sampling_rate", "dose_per_frame", "particles", "defocus"}
"""Those that are shown at the normal expert level."""

BOX_DIAMETERS = 1.5
"""Side of the particles' boxes in diameters of the particle."""

MAX_MOVIES = 10
"""Movies of which the summary says how they were made."""


class SimulateOutputs(Enum):
    """Movies, what they would show without noise, and where the particles are."""

    outputMovies = SetOfMovies
    trueMicrographs = SetOfMicrographs
    trueCoordinates = SetOfCoordinates


class CryodenProtSimulateMovies(CryodenProtBase):
    """Simulate movies of particles in ice with known ground truth, to try out and test a workflow.

    The simulation is physically scaled: particles from a map or built-in ones, contrast transfer, radiation damage,
    drift, electron counting and pixels of different gain. The true micrographs show what all frames together would show
    without motion and counting noise.
    """

    _label = "simulate movies"
    _devStatus = BETA
    _possibleOutputs = SimulateOutputs
    _fields = {"size": "Frame size (px)"}

    # --------------------------- DEFINE param functions ----------------------
    def _defineParams(self, form: params.Form) -> None:
        for section, options in SECTIONS.items():
            form.addSection(label=section)
            if section == "Movies":
                self._addSize(form)
            if section == "Specimen":
                self._addChoice(form, SimulateMoviesConfig, "shape", "Built-in particle")
            for name, (paramClass, label) in options.items():
                level = params.LEVEL_NORMAL if name in BASIC else params.LEVEL_ADVANCED
                self._addOption(form, SimulateMoviesConfig, name, paramClass, label, expertLevel=level)

    @staticmethod
    def _addSize(form: params.Form) -> None:
        rows, columns = SimulateMoviesConfig.default_of("size")
        line = form.addLine("Frame size (px)", help="Columns (x) and rows (y) of the frames.")
        line.addParam("columns", params.IntParam, default=columns, label="x")
        line.addParam("rows", params.IntParam, default=rows, label="y")

    # --------------------------- INSERT steps functions -----------------------
    def _insertAllSteps(self) -> None:
        self._insertFunctionStep(self.simulateStep, needsGPU=False)
        self._insertFunctionStep(self.createOutputStep, needsGPU=False)

    # --------------------------- STEPS functions ------------------------------
    def simulateStep(self) -> None:
        """Run `cryoden simulate movies`."""
        self._runCryoden("simulate movies", self._config())

    def createOutputStep(self) -> None:
        """Register movies, true micrographs and coordinates; they are matched by micrograph name."""
        config = self._config()
        acquisition = Acquisition(
            voltage=config.voltage,
            sphericalAberration=config.spherical_aberration,
            amplitudeContrast=config.amplitude_contrast,
            magnification=50000,  # Scipion asks for one; nothing follows from it
            doseInitial=0.0,
            dosePerFrame=config.dose_per_frame,
        )
        movies, micrographs = self._createSetOfMovies(), self._createSetOfMicrographs()
        for images in (movies, micrographs):
            images.setAcquisition(acquisition)
            images.setSamplingRate(config.sampling_rate)
        movies.setGain(self._getExtraPath(outputs.GAIN))
        movies.setFramesRange([1, config.frames, 1])
        coordinates = self._createSetOfCoordinates(micrographs)

        for number, (name, facts) in enumerate(self._facts().items(), 1):
            movie = Movie(location=self._getExtraPath(outputs.MOVIES, f"{name}.mrcs"))
            movie.setObjId(number)
            movie.setMicName(f"{name}.mrcs")
            movie.setAcquisition(acquisition)
            movie.setSamplingRate(config.sampling_rate)
            movie.setFramesRange([1, config.frames, 1])
            movies.append(movie)

            truth = self._getExtraPath(outputs.TRUTH, f"{name}.mrc")
            micrograph = convert.newMicrograph(movie, truth, config.sampling_rate)
            micrographs.append(micrograph)

            for x, y in facts.coordinates:
                coordinate = Coordinate()
                coordinate.setMicrograph(micrograph)
                coordinate.setPosition(round(x), round(y))
                coordinates.append(coordinate)

        coordinates.setBoxSize(2 * round(BOX_DIAMETERS / 2 * facts.diameter_px))
        self._defineOutputs(outputMovies=movies, trueMicrographs=micrographs)
        self._defineOutputs(trueCoordinates=coordinates)
        self._defineSourceRelation(movies, micrographs)
        self._defineSourceRelation(micrographs, coordinates)

    # --------------------------- INFO functions -------------------------------
    def _validate(self) -> List[str]:
        return self._problemsOf(self._config)

    def _summary(self) -> List[str]:
        if not self.hasAttribute(SimulateOutputs.outputMovies.name):
            return ["No movies yet."]

        movies = self._facts()
        lines = [f"{counted(len(movies), 'movie')} with {counted(self._countParticles(), 'particle')}."]
        for name, facts in list(movies.items())[:MAX_MOVIES]:
            lines.append(
                f"{name}: underfocus {facts.defocus / 1e4:.2f} µm, {facts.counts_per_pixel:.3f} e/px and frame, "
                f"particle contrast {100 * facts.contrast:.1f} %, SNR {facts.snr:.3g} per pixel"
            )
        return lines

    def _methods(self) -> List[str]:
        if not self.hasAttribute(SimulateOutputs.outputMovies.name):
            return []

        config = self._config()
        (rows, columns), underfoci = config.size, [facts.defocus / 1e4 for facts in self._facts().values()]
        damage = "" if config.no_damage else " The critical exposures of [Grant2015] were used for radiation damage."
        return [
            f"With cryoden {__version__}, {counted(len(underfoci), 'movie')} with "
            f"{counted(self._countParticles(), 'particle')} in ice {'was' if len(underfoci) == 1 else 'were'} "
            f"simulated [Vulovic2013] ({counted(config.frames, 'frame')} of {columns} x {rows} px, "
            f"{config.sampling_rate:.4g} Å/px, {config.dose_per_frame:.3g} e/Å² per frame, {config.voltage:g} kV, "
            f"underfocus {min(underfoci):.2f} to {max(underfoci):.2f} µm).{damage}"
        ]

    def _citations(self) -> List[str]:
        return ["Grant2015", "Vulovic2013"]

    # --------------------------- UTILS functions ------------------------------
    def _config(self) -> SimulateMoviesConfig:
        names = [name for options in SECTIONS.values() for name in options]
        values = {name: self.getAttributeValue(name) for name in names}
        return SimulateMoviesConfig(
            **{**values, "map": values["map"] or None},
            output=self._getExtraPath(),
            size=(self.rows.get(), self.columns.get()),
            shape=self._choice(SimulateMoviesConfig, "shape"),
        )

    def _countParticles(self) -> int:
        return sum(len(facts.coordinates) for facts in self._facts().values())

    def _facts(self) -> Dict[str, Facts]:
        """Return what the command recorded of each movie, name -> facts."""
        return read_facts(self._getExtraPath())
