"""The movies of a finished motion correction: where they are, and which options its files say of each."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Dict, Iterable, Iterator, Optional, Set, Tuple, Union

from cryoden.config import HalvesConfig
from cryoden.config.halves import ON
from cryoden.config.shared import AUTO
from cryoden.errors import CryodenError, FileError, OptionError, Remedy, option_problem
from cryoden.formats.images import GAIN_ENDING, image_ending
from cryoden.formats.relion_job import (
    FinishedJob,
    MovieCorrection,
    is_image_name,
    read_movie_correction,
    read_movie_name,
)
from cryoden.movies.calibration import Calibration
from cryoden.movies.preprocessing import bytes_of_warped, open_calibration, require_gain_orientation

EER_SAMPLINGS = {1: "4K", 2: "8K"}
"""`rlnEERUpsampling` -> the grid."""


@dataclass(frozen=True)
class FoundMovie:
    """One movie of the job.

    Attributes
    ----------
    path
        The movie; the micrograph's name where it cannot be found.
    name
        Of its sums.
    metadata
        STAR file about it.
    error
        Why it cannot be found.
    """

    path: str
    name: str
    metadata: str
    error: Optional[Exception] = None


@dataclass(frozen=True)
class CorrectedMovie:
    """What the job says of one movie.

    Attributes
    ----------
    correction
        Its STAR file.
    config
        The options, with what that file says.
    calibration
        Opened references.
    """

    correction: MovieCorrection
    config: HalvesConfig
    calibration: Calibration


class CorrectedMovies:
    """The movies of a finished motion correction.

    Parameters
    ----------
    job
        The motion correction.
    config
        What the user wants otherwise.

    Raises
    ------
    OptionError
        If options contradict the job.
    """

    def __init__(self, job: FinishedJob, config: HalvesConfig) -> None:
        given = [name for name in ("shifts", "align") if getattr(config, name)]
        if given:
            reason = "has no meaning with a finished motion correction, which has its own shifts."
            raise OptionError([option_problem(name, reason, Remedy("leave_out", name)) for name in given])
        self._job, self._config = job, config
        self._lock = threading.Lock()
        self._calibrations: Dict[str, Union[Calibration, CryodenError]] = {}

    def movies(self) -> Iterator[FoundMovie]:
        """Yield where each movie is.

        Sums are called as the job called its own. Of several with one name in different sub-folders, the second and the
        later ones get as many folders in front of it as tell them apart; so the names stay when the job grows.
        """
        taken: Set[str] = set()
        for micrograph, metadata in zip(self._job.table.paths, self._job.metadata):
            name = _free_name(micrograph, taken)
            taken.add(name)
            try:
                yield FoundMovie(self._find(metadata), name, metadata)
            except Exception as error:  # whatever it is, the others are split
                yield FoundMovie(micrograph, name, metadata, error)

    def _find(self, metadata: str) -> str:
        written = read_movie_name(metadata)
        path = self._job.located(written, self._config.movie_folder)
        if path is None:
            raise FileError(
                f"Movie {written}, which {metadata} names, is not in {self._config.movie_folder or self._job.project}.",
                subject=written,
                remedy=Remedy("change" if self._config.movie_folder else "set", "movie_folder"),
            )
        return str(path)

    def read(self, metadata: str, given: Calibration) -> CorrectedMovie:
        """Return what the job says of a movie.

        Parameters
        ----------
        metadata
            STAR file about it.
        given
            References that the user gave, which count instead of those of the job.

        Raises
        ------
        CryodenError
            If the file, its gain reference or its defects cannot be used.
        """
        correction = read_movie_correction(metadata)
        if correction.defects is not None:
            correction = replace(correction, defects=self._located_reference("Defects", correction, correction.defects))
        options = self._options(correction)
        gain = options.gain if given.gain is None and options.gain else None
        is_divisor = correction.eer_grouping is not None and image_ending(gain or "") != GAIN_ENDING
        calibration = self._calibration(gain, options, is_divisor) if gain else given
        return CorrectedMovie(correction, options, calibration)

    def original_rate(self, row: int) -> Optional[float]:
        """Return the pixel size in A/px of the unbinned movies, as the table says it; None where it does not."""
        return self._job.table.original_sampling_rate(row)

    def bytes_needed(self) -> int:
        """Return about how much memory a movie takes, from the first whose STAR file can be read."""
        for metadata in self._job.metadata:
            try:
                return bytes_of_warped(read_movie_correction(metadata).shape)
            except CryodenError:  # is that movie's failure, which is named when its turn comes
                continue
        return 0

    def require_gain_orientation(self, movies: Iterable[Tuple[str, str]], given: Calibration) -> None:
        """Refuse a gain reference of the job that has another orientation than the frames of its first readable movie.

        Then the rows of its files were counted from the other end.

        Parameters
        ----------
        movies
            Movies and the STAR files about them.
        given
            References that the user gave.

        Raises
        ------
        FileError
            With the orientation that matches.
        """
        for path, metadata in movies:
            try:
                movie = self.read(metadata, given)
            except CryodenError:  # is that movie's failure, which is named when its turn comes
                continue
            if movie.correction.eer_grouping is not None:
                return  # its rows are read in one order only
            require_gain_orientation(movie.config, [path], is_corrected=True)
            return

    def _options(self, correction: MovieCorrection) -> HalvesConfig:
        """Return the options with what the job says; what the user gave counts."""
        config = self._config
        gain = config.gain
        if gain is None and correction.gain is not None:
            gain = self._located_reference("Gain reference", correction, correction.gain)

        dose = config.dose_per_frame
        initial_dose = config.initial_dose
        is_weighted = config.dose_weighting == ON or (config.dose_weighting == AUTO and self._job.is_dose_weighted)
        if dose is None and is_weighted:
            dose, initial_dose = correction.dose_per_frame, correction.initial_dose or 0.0
            if not dose:
                raise FileError(
                    f"{correction.source} does not say the dose per frame, which dose weighting needs.",
                    subject=correction.source,
                    remedy=Remedy("set", "dose_per_frame"),
                )

        return replace(
            _with_eer_options(config, correction),
            gain=gain,
            dose_per_frame=dose,
            initial_dose=initial_dose,
            voltage=correction.voltage or config.voltage,
            sampling_rate=config.sampling_rate or correction.sampling_rate,
        )

    def _located_reference(self, kind: str, correction: MovieCorrection, name: str) -> str:
        if kind != "Defects" and not is_image_name(name):
            raise FileError(
                f"{correction.source} names {name!r} as gain reference, which is no name of an image.",
                subject=correction.source,
                remedy=Remedy("set", "gain"),
            )
        path = self._job.located(name, self._config.movie_folder)
        if path is None:
            raise FileError(
                f"{kind} {name}, which {correction.source} names, is not there.",
                subject=name,
                remedy=Remedy("set", "gain" if kind != "Defects" else "movie_folder"),
            )
        return str(path)

    def _calibration(self, gain: str, config: HalvesConfig, is_divisor: bool) -> Calibration:
        """Open and check a gain reference once for all movies that have it.

        RELION (3.1 to 5) divides EER movies by any gain but that of Thermo Fisher's software, a `.gain` file.
        """
        with self._lock:
            if gain not in self._calibrations:
                self._calibrations[gain] = _usable(gain, config, is_divisor)
            found = self._calibrations[gain]
        if isinstance(found, CryodenError):
            raise found
        return found


def _usable(gain: str, config: HalvesConfig, is_divisor: bool) -> Union[Calibration, CryodenError]:
    """Return a calibration by the gain of a job, which is oriented already, or why it cannot be used."""
    try:
        as_it_is = replace(config, gain=gain, gain_rotation="0", gain_flip="none")
        calibration = open_calibration(as_it_is, is_corrected=True, is_gain_divisor=is_divisor)
        calibration.require_usable(may_be_zero=True)
    except CryodenError as error:
        return error
    return calibration


def _free_name(micrograph: str, taken: Set[str]) -> str:
    """Return a name for the sums of a micrograph that no other has."""
    parts = [part for part in PurePosixPath(micrograph).parts if part not in ("/", "..")]
    names = ["_".join(parts[first:]) for first in reversed(range(len(parts)))]
    return next((name for name in names if name not in taken), names[-1])


def _with_eer_options(config: HalvesConfig, correction: MovieCorrection) -> HalvesConfig:
    """Return the options with the job's frames and grid of EER movies, on which its shifts are."""
    if correction.eer_grouping is None:
        return config
    upsampling = correction.eer_upsampling or 1
    if upsampling not in EER_SAMPLINGS:
        raise FileError(
            f"{correction.source} has rlnEERUpsampling {upsampling}; it must be one of "
            f"{', '.join(map(str, EER_SAMPLINGS))}. Correct the motion of this movie again.",
            subject=correction.source,
        )
    sampling = EER_SAMPLINGS[upsampling]
    return replace(config, eer_grouping=correction.eer_grouping, eer_frames=None, eer_dose=None, eer_sampling=sampling)
