"""Import from EMPIAR: the number of an entry -> SetOfMovies, with what the archives know of its acquisition."""

from __future__ import annotations

import os
from enum import Enum
from typing import List, Optional

from pwem.objects import Acquisition, Movie, SetOfMovies
from pyworkflow.constants import BETA
from pyworkflow.protocol import params

from cryoden.config.fetch import FetchConfig
from cryoden.fetch.entry_record import EntryRecord
from cryoden.formats import outputs
from cryoden.wording import counted
from cryoden_scipion.protocols.protocol_base import CryodenProtBase

READABLE_GAINS = (".mrc", ".tif", ".tiff", ".gain")

# What is assumed where neither archive nor form says it.
USUAL_VOLTAGE, USUAL_ABERRATION = 300.0, 2.7


class EmpiarOutputs(Enum):
    """The downloaded movies."""

    outputMovies = SetOfMovies


class CryodenProtImportEmpiar(CryodenProtBase):
    """Download movies of an EMPIAR entry, all or some of them, and import them with acquisition parameters and gain.

    Pixel size and number of frames come from EMPIAR; voltage, spherical aberration and dose come from the EMDB entry it
    refers to. Whatever you fill in takes precedence. An interrupted download is resumed.
    """

    _label = "import from EMPIAR"
    _devStatus = BETA
    _possibleOutputs = EmpiarOutputs

    # --------------------------- DEFINE param functions ----------------------
    def _defineParams(self, form: params.Form) -> None:
        form.addSection(label="Entry")
        form.addParam(
            "entry", params.StringParam, label="EMPIAR entry", important=True, help=FetchConfig.help_of("entry")
        )
        self._addOption(form, FetchConfig, "subset", params.IntParam, "Number of movies (empty = all)")
        self._addOption(form, FetchConfig, "imageset", params.IntParam, "Image set", expertLevel=params.LEVEL_ADVANCED)
        self._addOption(
            form, FetchConfig, "pattern", params.StringParam, "File name pattern", expertLevel=params.LEVEL_ADVANCED
        )
        self._addOption(form, FetchConfig, "jobs", params.IntParam, "Downloads in parallel")
        for name, label in (("api", "Server URL"), ("files", "File server URL"), ("maps", "EMDB server URL")):
            self._addOption(form, FetchConfig, name, params.StringParam, label, expertLevel=params.LEVEL_ADVANCED)
        form.addSection(label="Acquisition")
        empty = "Leave empty to use what the archive says."
        for name, label in (
            ("samplingRate", "Pixel size (Å/px)"),
            ("voltage", "Voltage (kV)"),
            ("sphericalAberration", "Spherical aberration (mm)"),
            ("dosePerFrame", "Dose per frame (e/Å²)"),
        ):
            form.addParam(name, params.FloatParam, allowsNull=True, label=label, help=empty)
        form.addParam(
            "amplitudeContrast", params.FloatParam, default=0.1, label="Amplitude contrast",
            help="Amplitude contrast (0 to 1), which the archive does not say.",
        )  # fmt: skip
        form.addParam(
            "gainFile",
            params.StringParam,
            allowsNull=True,
            label="Gain reference",
            expertLevel=params.LEVEL_ADVANCED,
            help="File name of the gain reference, if the entry has several. _none_: do not use any.",
        )

    # --------------------------- INSERT steps functions -----------------------
    def _insertAllSteps(self) -> None:
        self._insertFunctionStep(self.fetchStep, needsGPU=False)
        self._insertFunctionStep(self.createOutputStep, needsGPU=False)

    # --------------------------- STEPS functions ------------------------------
    def fetchStep(self) -> None:
        """Run `cryoden fetch`."""
        self._runCryoden("fetch", self._config())

    def createOutputStep(self) -> None:
        """Register every movie that arrived."""
        record = self._record()
        samplingRate = self.samplingRate.get() or record.imageset.sampling_rate
        if not samplingRate:
            raise Exception("The archive does not say the pixel size of these movies; fill it in and Continue.")

        acquisition = self._acquisition(record)
        movies = self._createSetOfMovies()
        movies.setAcquisition(acquisition)
        movies.setSamplingRate(samplingRate)
        gain = self._gain(record)
        if gain:
            movies.setGain(self._filePath(gain))

        for number, name in enumerate(record.movies, 1):
            movie = Movie(location=self._filePath(name))
            movie.setObjId(number)
            movie.setMicName(os.path.basename(name))
            movie.setAcquisition(acquisition)
            movie.setSamplingRate(samplingRate)
            movies.append(movie)

        frames = movies.getFirstItem().getDim()[2]
        movies.setFramesRange([1, frames, 1])
        self._defineOutputs(**{EmpiarOutputs.outputMovies.name: movies})

    # --------------------------- INFO functions -------------------------------
    def _validate(self) -> List[str]:
        return self._problemsOf(self._config)

    def _summary(self) -> List[str]:
        if not self.hasAttribute(EmpiarOutputs.outputMovies.name):
            return ["No movies yet."]

        record = self._record()
        acquisition = self.outputMovies.getAcquisition()
        lines = [
            f"EMPIAR-{record.number}: {record.title}",
            f"{counted(self.outputMovies.getSize(), 'movie')}; {acquisition.getVoltage():g} kV, Cs "
            f"{acquisition.getSphericalAberration():g} mm, {acquisition.getDosePerFrame() or 0:.3g} e/Å² per frame.",
            f"Gain reference: {self._gain(record) or 'none'}",
        ]
        microscope = record.microscope
        known = {"voltage": microscope.voltage, "spherical aberration": microscope.spherical_aberration}
        missing = [name for name, value in known.items() if value is None]
        if missing:
            lines.append(f"The archive does not say: {', '.join(missing)}. Usual values are used unless filled in.")
        return lines + self._failureLines()

    def _methods(self) -> List[str]:
        if not self.hasAttribute(EmpiarOutputs.outputMovies.name):
            return []

        movies, acquisition = self.outputMovies, self.outputMovies.getAcquisition()
        x, y, nFrames = movies.getDim()
        dose = f", {acquisition.getDosePerFrame():.3g} e/Å² per frame" if acquisition.getDosePerFrame() else ""
        return [
            f"The data are {counted(movies.getSize(), 'movie')} of EMPIAR-{self._record().number} [Iudin2023] "
            f"({counted(nFrames, 'frame')} of {x} x {y} px, {movies.getSamplingRate():.4g} Å/px, "
            f"{acquisition.getVoltage():g} kV{dose})."
        ]

    def _citations(self) -> List[str]:
        return ["Iudin2023"]

    # --------------------------- UTILS functions ------------------------------
    def _config(self) -> FetchConfig:
        names = ("subset", "imageset", "pattern", "jobs", "api", "files", "maps")
        values = {name: self.getAttributeValue(name) for name in names}
        values["pattern"] = values["pattern"] or None
        return FetchConfig(archive="empiar", entry=self.entry.get() or "", output=self._getExtraPath(), **values)

    def _filePath(self, name: str) -> str:
        return self._getExtraPath(f"EMPIAR-{self._config().number}", name)

    def _record(self) -> EntryRecord:
        return EntryRecord.read(self._filePath(outputs.ENTRY_RECORD))

    def _acquisition(self, record: EntryRecord) -> Acquisition:
        microscope = record.microscope
        nFrames = record.imageset.n_frames
        dose = self.dosePerFrame.get()
        if dose is None and microscope.dose and nFrames:
            dose = microscope.dose / nFrames

        return Acquisition(
            voltage=self.voltage.get() or microscope.voltage or USUAL_VOLTAGE,
            sphericalAberration=self.sphericalAberration.get() or microscope.spherical_aberration or USUAL_ABERRATION,
            amplitudeContrast=self.amplitudeContrast.get(),
            magnification=50000,  # Scipion asks for one; nothing follows from it
            doseInitial=0.0,
            dosePerFrame=dose,
        )

    def _gain(self, record: EntryRecord) -> Optional[str]:
        """Return the gain reference to use: the named one, or the only or first one that can be read."""
        wanted = (self.gainFile.get() or "").strip()
        if wanted.lower() == "none":
            return None
        readable = [name for name in record.gains if name.endswith(READABLE_GAINS) and "defect" not in name.lower()]
        return next((name for name in readable if not wanted or os.path.basename(name) == wanted), None)
