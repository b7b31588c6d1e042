"""Import halves that another program made: odd, even and full SetOfMicrographs that know each other."""

from __future__ import annotations

import itertools
import os
import time
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import pyworkflow.utils as pwutils
from pwem import Config
from pwem.objects import Acquisition, Micrograph, SetOfMicrographs
from pyworkflow import HELP_DURATION_FORMAT
from pyworkflow.constants import BETA
from pyworkflow.protocol import params

from cryoden.config import HalvesConfig
from cryoden.data.half_sources import Trio, list_trios
from cryoden.data.pairs import check_pair
from cryoden.errors import CryodenError, FileError, NothingDoneError, PairError, Problem, Remedy, problem_of
from cryoden.formats import outputs
from cryoden.formats.files import mrc_name, read_json, write_json
from cryoden.formats.images import open_stack
from cryoden.formats.outcome import write_failures
from cryoden.movies.full_and_difference import is_difference, list_images
from cryoden.wording import counted
from cryoden_scipion.convert import linkHalves
from cryoden_scipion.protocols.continuing import optionProblems
from cryoden_scipion.protocols.protocol_base import CommandError
from cryoden_scipion.protocols.protocol_split_halves import OUTPUT_EVEN, OUTPUT_FOLDERS, OUTPUT_FULL, OUTPUT_ODD
from cryoden_scipion.protocols.streaming import StreamingRun

ONE_SOURCE, TWO_SOURCES, DIFFERENCES = 0, 1, 2
"""Where the halves are."""

IMPORT_RECORD = "import.json"
"""In the run's folder: from where its micrographs came."""

STOP_FILE = "STOP_STREAMING.TXT"
"""Name by which Scipion's own import protocols are told to stop."""


@dataclass(frozen=True)
class ImportedTrio:
    """The files of a micrograph in the run's folder.

    Attributes
    ----------
    objId
        The same in all sets.
    files
        Folder (`outputs.SUMS`) -> file; without the full one where there is none.
    samplingRate
        Å/px.
    """

    objId: int
    files: Dict[str, str]
    samplingRate: float

    def getObjId(self) -> int:
        """Return the id."""
        return self.objId


class CryodenProtImportHalves(StreamingRun):
    """Import odd and even micrographs that another program made, with their full sums, as linked sets.

    Supported are RELION 5 (--even_odd_split), MotionCor2 and MotionCor3 (-SplitSum 1), WarpTools
    (--out_average_halves), CryoCRAB, and the folders of cryoden. Micrographs and halves are matched by name. Which half
    is called odd differs between programs and does not matter.
    """

    _label = "import halves"
    _devStatus = BETA
    _possibleOutputs = dict.fromkeys(OUTPUT_FOLDERS, SetOfMicrographs)
    _fields = {"difference": "differencePath", "sampling_rate": "samplingRate"}

    # --------------------------- DEFINE param functions ----------------------
    def _defineParams(self, form: params.Form) -> None:
        self._defineSource(form)
        self._defineAcquisition(form)
        self._defineStreaming(form)

    def _defineSource(self, form: params.Form) -> None:
        form.addSection(label="Import")
        form.addParam(
            "importFrom",
            params.EnumParam,
            choices=["one folder or STAR file", "two folders or STAR files", "full images and differences"],
            default=ONE_SOURCE,
            label="Import from",
            help="*one folder or STAR file* holds both halves: NAME_ODD.mrc and NAME_EVN.mrc side by side (MotionCor, "
            "RELION 5), folders odd and even in it (WarpTools, cryoden), or a STAR file of RELION 5, with columns "
            "rlnMicrographNameOdd and rlnMicrographNameEven or of the full sums beside which the halves lie.\n"
            "*two folders or STAR files*: one for each half.\n"
            "*full images and differences*: CryoCRAB; halves are computed.",
        )
        for name, source, label, text in (
            ("filesPath", ONE_SOURCE, "Folder or STAR file", "Folder or STAR file of both halves. If there "
             "are unweighted and dose-weighted halves, the unweighted ones are used."),
            ("oddPath", TWO_SOURCES, "Odd halves", "Folder or STAR file."),
            ("evenPath", TWO_SOURCES, "Even halves", "Folder or STAR file; matched with the odd ones by name."),
            ("fullPath", DIFFERENCES, "Full images", "Folder of the full images; names may end in _full."),
            ("differencePath", DIFFERENCES, "Differences", "Folder of the differences odd - even; names may end in "
             "_diff. It may be the same folder."),
        ):  # fmt: skip
            form.addParam(
                name, params.PathParam, condition=f"importFrom=={source}", label=label, important=True, help=text
            )
        self._addChoice(form, HalvesConfig, "full_is", "Full images are", condition=f"importFrom=={DIFFERENCES}")
        form.addParam(
            "copyFiles",
            params.BooleanParam,
            default=False,
            expertLevel=params.LEVEL_ADVANCED,
            condition=f"importFrom!={DIFFERENCES}",
            label="Copy files?",
            help="By default files are linked, which saves disk space. Copy them if the project will be moved to "
            "another computer.",
        )

    @staticmethod
    def _defineAcquisition(form: params.Form) -> None:
        group = form.addGroup("Acquisition info")
        group.addParam(
            "samplingRate",
            params.FloatParam,
            allowsNull=True,
            label="Pixel size (Å/px)",
            help="Leave empty to use the pixel size of the headers. If filled in, micrographs whose headers say "
            "something else are left out.",
        )
        for name, default, label, text in (
            ("voltage", 300.0, pwutils.Message.LABEL_VOLTAGE, pwutils.Message.TEXT_VOLTAGE),
            ("sphericalAberration", 2.7, pwutils.Message.LABEL_SPH_ABERRATION, pwutils.Message.TEXT_SPH_ABERRATION),
            ("amplitudeContrast", 0.1, pwutils.Message.LABEL_AMPLITUDE, pwutils.Message.TEXT_AMPLITUDE),
        ):
            group.addParam(name, params.FloatParam, default=default, label=label, help=text)
        group.addParam(
            "magnification",
            params.IntParam,
            default=50000,
            label=pwutils.Message.LABEL_MAGNI_RATE,
            help=pwutils.Message.TEXT_MAGNI_RATE,
        )

    @staticmethod
    def _defineStreaming(form: params.Form) -> None:
        form.addSection("Streaming")
        form.addParam(
            "dataStreaming",
            params.BooleanParam,
            default=False,
            label="Process data in streaming?",
            help="Keep looking for new micrographs while another program makes them. Other protocols can already use "
            "the growing outputs.",
        )
        form.addParam(
            "timeout",
            params.StringParam,
            default="12h",
            condition="dataStreaming",
            label="Timeout",
            help="The import ends when there was nothing new for this long. _STOP STREAMING_ (right click on the box) "
            "ends it "
            f"at once. {HELP_DURATION_FORMAT}.",
        )
        form.addParam(
            "fileTimeout",
            params.StringParam,
            default="30",
            condition="dataStreaming",
            label="File timeout",
            help=f"A file counts as finished when it has not changed for this long. {HELP_DURATION_FORMAT}.",
        )

    # --------------------------- INSERT steps functions -----------------------
    def _insertAllSteps(self) -> None:
        now = time.time()  # steps that are others at each launch: a finished run is continued for what came since
        self._insertFunctionStep(self.importStep, now, needsGPU=False)
        self._insertFunctionStep(self.closeStep, now, needsGPU=False)

    # --------------------------- STEPS functions ------------------------------
    def importStep(self, launchTime: float) -> None:
        """Import what is there; in streaming, what comes until nothing came for a while."""
        write_json(self._getExtraPath(IMPORT_RECORD), self._sources())
        if os.path.exists(self._getExtraPath(STOP_FILE)):  # of the launch before
            os.remove(self._getExtraPath(STOP_FILE))
        self._openOutputsAgain()

        importAll: Callable[[], int] = self._convert if self.importFrom.get() == DIFFERENCES else self._link
        lastNews = time.monotonic()
        while True:
            if importAll():
                lastNews = time.monotonic()
            isQuiet = time.monotonic() - lastNews > (self.timeout.toSeconds() if self.dataStreaming else 0)
            if not self.dataStreaming or isQuiet or os.path.exists(self._getExtraPath(STOP_FILE)):
                return
            time.sleep(Config.SCIPION_EM_NEW_FILE_CHECK_SEC)

    def closeStep(self, launchTime: float) -> None:
        """Say that no more micrographs will come."""
        if not any(True for _ in self.iterOutputAttributes()):
            failures = self._failures()
            error = NothingDoneError("micrograph", "imported", len(failures), failures)
            raise CommandError(self._errorText(error) if failures else self._nothingFound())
        self._closeOutputSet()

    def _link(self) -> int:
        """Link or copy every micrograph that is whole and not imported yet; return how many were new."""
        known = self._importedIds()
        objIds = self._nextIds(known)
        failures: Dict[str, Problem] = {}
        new: List[ImportedTrio] = []
        for trio in self._listTriosOfNow():
            name = _safeName(trio.name)
            if name in known or not self._isSettled(trio):
                continue
            try:
                rate = self._checkedRate(trio)
                files = self._bringIn(trio)
                known[name] = next(objIds)
                new.append(ImportedTrio(known[name], files, rate))
            except Exception as error:  # one bad micrograph never ends a list
                failures[trio.name] = problem_of(error, trio.name)

        write_failures(self._getExtraPath(), failures)
        self._registerTrios(new)
        return len(new)

    def _convert(self) -> int:
        """Make halves of all full images that are there; return how many were new."""
        images = [path for path in self._listImages() if self._areSettled([path])]
        known = self._importedIds()
        if images and any(_nameOf(mrc_name(path)) not in known for path in images):
            self._runCryoden("halves", self._halvesConfig(images))

        objIds = self._nextIds(known)
        new = []
        for path in images:
            name = _nameOf(mrc_name(path))
            files = {folder: self._getExtraPath(folder, mrc_name(path)) for folder in outputs.SUMS}
            if name not in known and all(map(os.path.exists, files.values())):
                known[name] = next(objIds)
                new.append(ImportedTrio(known[name], files, open_stack(files[outputs.FULL]).sampling_rate or 0.0))
        self._registerTrios(new)
        return len(new)

    def _registerTrios(self, trios: List[ImportedTrio]) -> None:
        """Append micrographs to the output sets; without full sums there are only the two sets of halves."""
        for name, folder in OUTPUT_FOLDERS.items():
            items = [trio for trio in trios if folder in trio.files]
            self._appendToOutput(name, folder, items, partial(self._newMicrograph, folder), self._prepareOutput)

    def _prepareOutput(self, micrographs: SetOfMicrographs, first: ImportedTrio) -> None:
        micrographs.setAcquisition(self._acquisition())
        micrographs.setSamplingRate(first.samplingRate)

    def _newMicrograph(self, folder: str, trio: ImportedTrio) -> Micrograph:
        micrograph = Micrograph()
        micrograph.setObjId(trio.objId)
        micrograph.setAcquisition(self._acquisition())
        micrograph.setSamplingRate(trio.samplingRate)
        micrograph.setFileName(trio.files[folder])
        micrograph.setMicName(os.path.basename(trio.files[folder]))
        if folder == outputs.FULL:
            linkHalves(micrograph, trio.files[outputs.ODD], trio.files[outputs.EVEN])
        return micrograph

    # --------------------------- INFO functions -------------------------------
    def _validate(self) -> List[str]:
        missing = [name for name in self._sources() if name.endswith("Path") and not self.getAttributeValue(name)]
        if missing:
            return [f"*{self._labelOf(name)}* is empty; say where the halves are." for name in missing]
        try:
            found = bool(self._listImages() if self.importFrom.get() == DIFFERENCES else self._listTrios())
        except CryodenError as error:
            return [self._errorText(error)]
        if not found and not self.dataStreaming:
            return [self._nothingFound()]
        return self._validateContinued()

    def _continueProblems(self) -> List[str]:
        path = self._getExtraPath(IMPORT_RECORD)
        if not os.path.exists(path):
            return []
        return optionProblems(read_json(path), self._sources(), self._words)

    def _summary(self) -> List[str]:
        odd = getattr(self, OUTPUT_ODD, None)
        if odd is None:
            return ["No halves yet.", *self._failureLines()]

        lines = [
            f"{counted(odd.getSize(), 'micrograph')} with both halves"
            + (", more may come." if odd.isStreamOpen() else ".")
        ]
        full = getattr(self, OUTPUT_FULL, None)
        if full is None:
            lines.append("There are no full sums beside the halves: train and denoise with _separate sets_ as input.")
        elif full.getSize() < odd.getSize():
            lines.append(
                f"Without a full sum beside the halves: {counted(odd.getSize() - full.getSize(), 'micrograph')}."
            )
        lines.append(f"{odd.getSamplingRate():.4g} Å/px. Which half is called odd does not matter.")
        return lines + self._failureLines()

    def _methods(self) -> List[str]:
        odd = getattr(self, OUTPUT_ODD, None)
        if odd is None:
            return []
        where = " and ".join(str(value) for name, value in self._sources().items() if name.endswith("Path"))
        return [
            f"Sums of the odd and even frames of {counted(odd.getSize(), 'movie')} ({odd.getSamplingRate():.4g} Å/px) "
            f"were imported from {where}, for Noise2Noise [Lehtinen2018] training."
        ]

    # --------------------------- streaming, as in Scipion's own imports --------
    def getActions(self) -> List[Tuple[str, Callable[[Any], None]]]:
        """Return what a right click on the box offers."""
        return [("STOP STREAMING", self.stopImport)] if self.dataStreaming and self.isRunning() else []

    def stopImport(self, event: Any) -> None:
        """Tell the run, which is another process, to end."""
        with open(self._getExtraPath(STOP_FILE), "w"):
            pass

    # --------------------------- UTILS functions ------------------------------
    def _sources(self) -> Dict[str, Any]:
        """Return the fields that say where the halves are, with their values."""
        names = {
            ONE_SOURCE: ("filesPath",),
            TWO_SOURCES: ("oddPath", "evenPath"),
            DIFFERENCES: ("fullPath", "differencePath"),
        }[self.importFrom.get()]
        return {name: self.getAttributeValue(name) for name in ("importFrom", *names)}

    def _listTrios(self) -> List[Trio]:
        if self.importFrom.get() == ONE_SOURCE:
            return list_trios(self._path("filesPath"), self._path("filesPath"))
        return list_trios(self._path("oddPath"), self._path("evenPath"))

    def _listTriosOfNow(self) -> List[Trio]:
        """Return what is there; in streaming, nothing where another program writes the list at this moment."""
        try:
            return self._listTrios()
        except CryodenError as error:
            if not self.dataStreaming:
                raise CommandError(self._errorText(error)) from error
            self.info(f"Looking again later: {self._errorText(error)}")
            return []

    def _listImages(self) -> List[str]:
        """Return the full images."""
        images = list_images(self._path("fullPath"))
        isShared = os.path.realpath(self._path("fullPath")) == os.path.realpath(self._path("differencePath"))
        return [path for path in images if not (isShared and is_difference(path))]

    def _path(self, name: str) -> str:
        return os.path.expanduser(self.getAttributeValue(name).strip())

    def _nothingFound(self) -> str:
        where = " and ".join(self._path(name) for name in self._sources() if name.endswith("Path"))
        return f"There are no micrographs with halves in {where}; check the path."

    def _halvesConfig(self, images: List[str]) -> HalvesConfig:
        return HalvesConfig(
            movies=tuple(images),
            output=self._getExtraPath(),
            difference=self._path("differencePath"),
            full_is=self._choice(HalvesConfig, "full_is"),
            sampling_rate=self.samplingRate.get(),
            voltage=self.voltage.get(),
            spherical_aberration=self.sphericalAberration.get(),
            amplitude_contrast=self.amplitudeContrast.get(),
        )

    def _acquisition(self) -> Acquisition:
        return Acquisition(
            voltage=self.voltage.get(),
            sphericalAberration=self.sphericalAberration.get(),
            amplitudeContrast=self.amplitudeContrast.get(),
            magnification=self.magnification.get(),
        )

    def _importedIds(self) -> Dict[str, int]:
        """Return name -> id of what the outputs hold; after a kill, their files are what counts."""
        ids: Dict[str, int] = {}
        for name in (OUTPUT_FULL, OUTPUT_ODD, OUTPUT_EVEN):
            if self.hasAttribute(name):
                known = SetOfMicrographs(filename=getattr(self, name).getFileName())
                known.loadAllProperties()
                ids.update({_nameOf(mic.getMicName()): mic.getObjId() for mic in known})
                known.close()
        return ids

    @staticmethod
    def _nextIds(known: Dict[str, int]) -> Iterator[int]:
        """Return the ids of new micrographs, one after the other."""
        return itertools.count(max(known.values(), default=0) + 1)

    def _isSettled(self, trio: Trio) -> bool:
        return self._areSettled([path for path in (trio.odd, trio.even, trio.full) if path])

    def _areSettled(self, paths: List[str]) -> bool:
        """Return whether files are no longer written: where micrographs still come, unchanged for a while."""
        if not self.dataStreaming:
            return True
        newest = max((os.path.getmtime(path) for path in paths if os.path.exists(path)), default=0.0)
        return time.time() - newest >= self.fileTimeout.toSeconds()

    def _checkedRate(self, trio: Trio) -> float:
        """Return the Å/px of a micrograph whose halves belong together; raises CryodenError where they do not."""
        if not trio.odd or not trio.even:
            have, lack = ("odd", "even") if trio.odd else ("even", "odd")
            raise PairError(
                f"'{trio.name}' has an {have} half but no {lack} half. Make the halves of its movie again.",
                subject=trio.name,
            )
        rate = check_pair(trio.name, trio.odd, trio.even).file_rate
        given = self.samplingRate.get()
        if given and abs(rate / given - 1) > 1e-3:
            raise FileError(
                f"The headers of the halves of '{trio.name}' say {rate:g} Å/px, not {given:g}.",
                subject=trio.name,
                remedy=Remedy("change", "sampling_rate"),
            )
        return rate

    def _bringIn(self, trio: Trio) -> Dict[str, str]:
        """Link or copy the files of a micrograph into the run's folder, all under its name; return folder -> file."""
        copyOrLink = pwutils.copyFile if self.copyFiles else pwutils.createAbsLink
        files = {}
        for folder, source in zip(outputs.SUMS, (trio.full, trio.odd, trio.even)):
            if source is None:
                continue
            os.makedirs(self._getExtraPath(folder), exist_ok=True)
            target = self._getExtraPath(folder, _safeName(trio.name) + os.path.splitext(source)[1])
            copyOrLink(os.path.abspath(source), target)
            files[folder] = target
        return files


def _safeName(name: str) -> str:
    """Return a name without blanks, which many programs do not take; Scipion's own imports leave them out too."""
    return name.replace(" ", "")


def _nameOf(micName: Optional[str]) -> str:
    return os.path.splitext(micName or "")[0]
