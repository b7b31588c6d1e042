"""Movies in, odd, even and full sums out. No torch: this command starts fast and stays small."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple, Union

from cryoden.config import HalvesConfig
from cryoden.config.halves import NONE
from cryoden.config.shared import AUTO, OFF, device_of
from cryoden.errors import (
    NOT_REACHED,
    CryodenError,
    FileError,
    FullDiskError,
    NothingDoneError,
    Problem,
    Remedy,
    problem_of,
)
from cryoden.formats import cryosparc, outputs
from cryoden.formats.files import make_folder, mrc_name, whole_file, write_json
from cryoden.formats.images import TIFF_ENDINGS, image_ending
from cryoden.formats.mrc import MrcStack, MrcWriter
from cryoden.formats.outcome import Outcome
from cryoden.formats.output_folder import failures_of, fills_folder, require_own_folder
from cryoden.formats.progress_log import ProgressLog
from cryoden.formats.relion_job import MovieCorrection, finished_job, require_finished, write_movie_correction
from cryoden.formats.run_record import (
    Result,
    RunRecord,
    deleted_file,
    options_of_0_1,
    require_distinct,
    require_no_input,
)
from cryoden.formats.shared_list import SharedList
from cryoden.formats.star import ImageTable, listed_table, require_in_project, star_path, write_results
from cryoden.movies.calibration import Calibration
from cryoden.movies.corrected_movies import CorrectedMovies
from cryoden.movies.fixed_pattern import FixedPattern
from cryoden.movies.full_and_difference import image_name, list_differences
from cryoden.movies.image_halves import affordable_images, image_halves
from cryoden.movies.preprocessing import (
    affordable_jobs,
    align_prepared,
    facts_for_relion,
    moves_frames,
    open_calibration,
    prepare_movie,
    preprocessed_halves,
    require_gain_orientation,
)
from cryoden.system.host import n_cpus
from cryoden.system.progress import Tell, part_of, tell_nobody
from cryoden.system.ranks import local_rank, n_ranks, rank
from cryoden.system.signals import StoppablePool

if TYPE_CHECKING:
    from cryoden.movies.motion.arrays import Arrays

log = logging.getLogger(__name__)

RECORDED = (
    "gain", "gain_rotation", "gain_flip", "dark", "hot_pixels", "frames", "shifts", "dose_per_frame", "initial_dose",
    "eer_frames", "eer_dose", "eer_sampling", "sampling_rate",
)  # fmt: skip
"""Options that change the sums of movies."""

NOT_SAID = {
    "thin": False, "from_difference": False, "align": False, "align_patches": None, "eer_grouping": None,
    "dose_weighting": AUTO, "local_motion": NONE,
}  # fmt: skip
"""What records mean that were written before these options could be chosen."""

COMMON_FILES = (
    outputs.MICROGRAPHS_STAR, f"{outputs.ODD}/{outputs.MICROGRAPHS_STAR}", f"{outputs.EVEN}/{outputs.MICROGRAPHS_STAR}",
    outputs.EXPOSURES_CS, outputs.SANITY, outputs.PATTERN, outputs.PATTERN_PICTURE,
    outputs.MOTION_REPORT, outputs.MOTION_PICTURE,
)  # fmt: skip
"""Files in a folder of halves that belong to all of its movies."""


@dataclass(frozen=True)
class MovieItem:
    """One movie and where its sums go.

    Attributes
    ----------
    row
        Its place in the list.
    path
        The movie.
    targets
        Files of its sums, in the order of `outputs.SUMS`.
    difference
        The difference of its halves, where it is an image that has one.
    metadata
        STAR file about it, of a finished motion correction.
    error
        Why it cannot be found.
    motion
        STAR file that is written about its motion.
    """

    row: int
    path: str
    targets: Tuple[Path, ...]
    difference: Optional[str] = None
    metadata: Optional[str] = None
    error: Optional[Exception] = None
    motion: Optional[Path] = None

    @property
    def name(self) -> str:
        """Of its sums, in their folders."""
        return self.targets[0].name

    @property
    def result(self) -> Result:
        """Its sums, as they are recorded."""
        files = self.targets if self.motion is None else (*self.targets, self.motion)
        return Result(self.name, files, (self.path, *filter(None, [self.difference, self.metadata])))


@dataclass(frozen=True)
class Split:
    """What is known of one movie's sums.

    Attributes
    ----------
    sampling_rate
        A/px.
    n_odd, n_even
        Frames of each half.
    n_bad_pixels
        Pixels that were replaced.
    alignment
        What is known of its motion, JSON types; None where frames were not aligned.
    """

    sampling_rate: float
    n_odd: int
    n_even: int
    n_bad_pixels: int
    alignment: Optional[Dict[str, Any]] = None

    @property
    def facts(self) -> Dict[str, Any]:
        """What is logged, JSON types."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Dealt:
    """What is known of the halves of one image that is no movie.

    Attributes
    ----------
    sampling_rate
        A/px.
    found
        What was found about the image, JSON types.
    """

    sampling_rate: float
    found: Dict[str, Any]

    @property
    def facts(self) -> Dict[str, Any]:
        """What is logged, JSON types."""
        return {"sampling_rate": self.sampling_rate, **self.found}


@dataclass(frozen=True)
class Work:
    """What the movies of one command have in common.

    Attributes
    ----------
    config
        The options.
    table
        The STAR file that lists the movies, if there is one.
    calibration
        Opened references.
    job
        The finished motion correction that lists the movies, if it does.
    pattern
        What was found in the halves so far.
    record
        Says of every sum from which movie and with which options it was made.
    finished
        Names of the movies that an earlier run split.
    arrays
        What computes where frames are moved or weighted.
    doubts
        Name of a movie -> what is doubtful about its alignment.
    disk_is_full
        Set by the first movie that found it so.
    """

    config: HalvesConfig
    table: Optional[ImageTable]
    calibration: Calibration
    job: Optional[CorrectedMovies]
    pattern: FixedPattern
    record: RunRecord
    finished: Set[str]
    arrays: Optional[Arrays] = None
    doubts: Dict[str, List[str]] = field(default_factory=dict)
    disk_is_full: threading.Event = field(default_factory=threading.Event)

    def sampling_rate(self, row: int) -> Optional[float]:
        """Return the pixel size (A/px) that was given for a movie; None = what the movie says."""
        if self.config.sampling_rate or self.table is None:
            return self.config.sampling_rate
        return None if self.job else self.table.sampling_rate(row)  # a job's table says the one of its binned sums

    def voltage(self, row: int) -> float:
        """Return the voltage (kV) of a movie."""
        return (self.table.voltage(row) if self.table else None) or self.config.voltage


@fills_folder("halves", failures_of, is_shared=True)
def split_movies(config: HalvesConfig) -> Outcome:
    """Write odd, even and full sums of every movie and `micrographs.star`; finished movies are skipped.

    Where a launcher started several processes, each takes its share of the list, and one of them writes the tables.

    Raises
    ------
    CryodenError
        If nothing can be done: no movie can be split, a reference is unusable, two movies would be written under one
        name, or the folder holds what this command did not make.
    """
    table, job = _read_table(config)
    movies = _list_movies(config, table, job)
    config = _with_listed_gain(config)
    output = Path(config.output)
    config = _as_begun(config, output)
    calibration = open_calibration(config, job is not None)
    calibration.require_usable()
    paths = [movie.path for movie in movies]

    arrays = _arrays(config, job)
    n_jobs = _affordable(config, paths, calibration, job, arrays)
    if arrays is not None:
        arrays = arrays.shared_by(n_jobs)

    references = {"gain": config.gain, "dark": config.dark}
    record = RunRecord(
        output / outputs.HALVES_RECORD,
        _lasting_options(config, movies, job),
        references,
        rank=rank(),
        in_words_of_today=_in_words_of_today,
    )
    require_own_folder(output, outputs.HALVES_RECORD, COMMON_FILES)
    finished = record.finished([movie.result for movie in movies])
    if rank() == 0:
        if not finished:
            _require_usable_inputs(config, movies, table, job, calibration)
        for kind in (*outputs.SUMS, *([outputs.MOTION] if config.align else [])):
            make_folder(output / kind)
        record.begin()

    with SharedList(output, "cryoden halves") as shared:
        mine = set(shared.share([movie.name for movie in movies if movie.name not in finished]))
        if rank() == 0:
            mine |= finished
        own_movies = [movie for movie in movies if movie.name in mine]

        pattern = _load_pattern(output) if rank() == 0 else FixedPattern()
        work = Work(config, table, calibration, job, pattern, record, finished, arrays)
        rates, failures = _split_all(own_movies, work, n_jobs)
        if not _gather(shared, movies, work, rates, failures):
            return Outcome(len(movies), is_reported=False)
        return _finish(movies, work, rates, failures)


def _require_usable_inputs(
    config: HalvesConfig,
    movies: Sequence[MovieItem],
    table: Optional[ImageTable],
    job: Optional[CorrectedMovies],
    calibration: Calibration,
) -> None:
    """Refuse, before the first movie, what would make all of them useless; raises CryodenError."""
    paths = [movie.path for movie in movies]
    if job is None:
        if table:  # a job's movies are found from its own folder
            require_in_project(table.source, paths)
        require_gain_orientation(config, paths)
    else:
        located = [(movie.path, movie.metadata) for movie in movies if movie.metadata and not movie.error]
        job.require_gain_orientation(located, calibration)


def _gather(
    shared: SharedList,
    movies: Sequence[MovieItem],
    work: Work,
    rates: Dict[int, float],
    failures: Dict[str, Problem],
) -> bool:
    """Add what the other processes split and found; return whether this one goes on with it."""
    output = Path(work.config.output)
    if n_ranks() > 1:
        with suppress(CryodenError):  # the sums count without it
            work.pattern.save(output / outputs.part_pattern(rank()))
    part = {
        "rates": rates,
        "failures": {path: problem.to_dict() for path, problem in failures.items()},
        "doubts": work.doubts,
    }
    gathered = shared.gather(part)
    if gathered is None:
        return False

    for part in gathered.parts:
        rates.update({int(row): rate for row, rate in part["rates"].items()})
        failures.update({path: Problem.from_dict(problem) for path, problem in part["failures"].items()})
        work.doubts.update(part["doubts"])
    if n_ranks() > 1:
        _gather_patterns(output, work.pattern)

    # What a process split that ended early, or had found split if it was the first, is there all the same.
    left = [movie for movie in movies if movie.row not in rates and movie.path not in failures]
    finished = work.record.finished_since([movie.result for movie in left]) if left else set()
    for movie in left:
        if movie.name in gathered.lost and movie.name not in finished:
            failures[movie.path] = gathered.lost[movie.name]
            continue
        try:
            rates[movie.row] = work.sampling_rate(movie.row) or _rate_of_sum(movie)
        except CryodenError as error:
            failures[movie.path] = error.problem
    return True


def _gather_patterns(output: Path, pattern: FixedPattern) -> None:
    """Add what the other processes found, and remove their files."""
    for path in sorted(output.glob(outputs.PART_PATTERNS)):
        try:
            if path.name != outputs.part_pattern(rank()):
                pattern.merge(FixedPattern.load(path))
            path.unlink()
        except (CryodenError, OSError) as error:
            log.warning("What the halves have in common was not read from %s: %s", path, error)


def _finish(
    movies: Sequence[MovieItem], work: Work, rates: Mapping[int, float], failures: Dict[str, Problem]
) -> Outcome:
    """Write what lists the sums, and what was found in all of them."""
    config = work.config
    failures = {**failures, **_missing(movies, rates)}
    done = [movie for movie in movies if movie.path not in failures]
    if not done:
        raise NothingDoneError("movie", "split", len(movies), failures)
    _write_tables(config, work.table, done, rates)
    doubtful = [
        Problem("warning", f"Alignment of {name}: {'; '.join(work.doubts[name])}.") for name in sorted(work.doubts)
    ]
    return Outcome(len(movies), failures, (*doubtful, *_write_findings(Path(config.output), work.pattern, config)))


def write_halves(
    path: str,
    targets: Sequence[Path],
    config: HalvesConfig,
    calibration: Calibration,
    sampling_rate: Optional[float],
    voltage: float,
    arrays: Optional[Arrays] = None,
    tell: Tell = tell_nobody,
    correction: Optional[MovieCorrection] = None,
    motion: Optional[Path] = None,
) -> Split:
    """Write the full, odd and even sums of one movie.

    Parameters
    ----------
    path
        The movie.
    targets
        Files to write, in the order of `outputs.SUMS`; all of them or none.
    config
        Frames, shifts, weights and rendering.
    calibration
        Opened references.
    sampling_rate
        A/px, None = what the movie says.
    voltage
        kV, for the weights.
    arrays
        What computes where frames are moved or weighted; needed if they are aligned.
    tell
        Is called with how much of the movie is read.
    correction
        What a finished motion correction found of the movie.
    motion
        STAR file to write about the motion, if frames are aligned.

    Raises
    ------
    CryodenError
        If the movie is unusable or nothing says its pixel size; then no file is written.
    """
    prepared = prepare_movie(path, config, calibration, sampling_rate, correction)
    movie = prepared.movie
    rate = _known_rate(sampling_rate or movie.sampling_rate, "Movie", path)

    alignment = None
    if config.align and arrays is not None:
        prepared, alignment = align_prepared(prepared, config, rate, arrays, part_of(tell, 0, 2))
        tell = part_of(tell, 1, 2)

    binned_rate = rate * movie.shape[0] / prepared.shape[0]
    with ExitStack() as files:
        temporaries = [files.enter_context(whole_file(target)) for target in targets]
        with ExitStack() as writers:
            full, odd, even = (writers.enter_context(MrcWriter(t, prepared.shape, binned_rate)) for t in temporaries)
            for odd_rows, even_rows in preprocessed_halves(prepared, config, rate, voltage, arrays, tell):
                odd.write_rows(odd_rows)
                even.write_rows(even_rows)
                full.write_rows(odd_rows + even_rows)
        movie.stack.verify()  # before the sums get their names
        if alignment is not None and motion is not None:
            is_from_top = image_ending(path) in TIFF_ENDINGS and not config.is_tiff_flipped()
            found = alignment.correction(movie, star_path(path), rate, is_from_top)
            found = replace(found, voltage=voltage, **facts_for_relion(path, config))
            write_movie_correction(files.enter_context(whole_file(motion)), found)

    facts = alignment.facts if alignment else None
    return Split(binned_rate, len(movie.halves[0]), len(movie.halves[1]), movie.n_bad_pixels, facts)


def write_image_halves(movie: MovieItem, config: HalvesConfig, sampling_rate: Optional[float]) -> Dealt:
    """Write the full, odd and even sums of one image that is no movie.

    Parameters
    ----------
    movie
        The image.
    config
        What it is.
    sampling_rate
        A/px, None = what the image says.

    Raises
    ------
    CryodenError
        If no halves can be made of it or nothing says its pixel size; then no file is written.
    """
    halves = image_halves(movie.path, movie.difference, config)
    rate = _known_rate(sampling_rate or halves.sampling_rate, "Image", movie.path)
    with ExitStack() as files:
        temporaries = [files.enter_context(whole_file(target)) for target in movie.targets]
        for temporary, image in zip(temporaries, (halves.odd + halves.even, halves.odd, halves.even)):
            with MrcWriter(temporary, image.shape, rate) as writer:
                writer.write_rows(image)
    return Dealt(rate, halves.facts)


def _known_rate(rate: Optional[float], kind: str, path: str) -> float:
    if not rate:
        raise FileError(
            f"{kind} {path} does not say its pixel size.", subject=path, remedy=Remedy("set", "sampling_rate")
        )
    return rate


# ---------------------------------------------------------------------- what is to be done
def _read_table(config: HalvesConfig) -> Tuple[Optional[ImageTable], Optional[CorrectedMovies]]:
    """Return the STAR table, if one was given, and the finished motion correction that it is of.

    Raises
    ------
    CryodenError
        If it cannot be read, the motion correction did not finish, or options contradict it.
    """
    if config.is_star:
        require_finished(config.movies[0])
    table = listed_table(config.movies, are_movies=not config.are_images)
    job = finished_job(table)
    return table, CorrectedMovies(job, config) if job else None


def _list_movies(config: HalvesConfig, table: Optional[ImageTable], job: Optional[CorrectedMovies]) -> List[MovieItem]:
    """Return the movies.

    Raises
    ------
    FileError
        If two movies would be written under one name, or an input would be overwritten.
    """
    output = Path(config.output)
    differences = list_differences(config.difference) if config.difference is not None else {}
    if job is not None:
        movies = [
            MovieItem(row, found.path, _targets(output, found.name), metadata=found.metadata, error=found.error)
            for row, found in enumerate(job.movies())
        ]
    else:
        paths = table.paths if table else list(config.movies)
        movies = [
            MovieItem(
                row, path, _targets(output, mrc_name(path)), differences.get(image_name(path)),
                motion=(output / outputs.MOTION / mrc_name(path)).with_suffix(".star") if config.align else None,
            )
            for row, path in enumerate(paths)
        ]  # fmt: skip
    require_distinct((movie.path, movie.name) for movie in movies)

    written = [file for movie in movies for file in movie.result.files]
    written += [*(_star_of(output, kind) for kind in outputs.SUMS), output / outputs.EXPOSURES_CS]
    references = [path for path in (config.gain, config.dark) if path]
    inputs = [movie.path for movie in movies]
    require_no_input(written, [*inputs, *config.movies, *references, *differences.values()])
    return movies


def _targets(output: Path, name: str) -> Tuple[Path, ...]:
    return tuple(output / kind / name for kind in outputs.SUMS)


def _as_begun(config: HalvesConfig, output: Path) -> HalvesConfig:
    """Return the options with which a folder of version 0.1 goes on: nothing said of hot pixels meant keeping them."""
    before = options_of_0_1(output / outputs.HALVES_RECORD)
    if before is None or config.hot_pixels != AUTO:
        return config
    kept = HalvesConfig.with_words(before)["hot_pixels"]
    log.info("%s was begun by version 0.1 with hot pixels %s; that goes on.", output, kept)
    return replace(config, hot_pixels=kept)


def _in_words_of_today(recorded: Mapping[str, Any]) -> Dict[str, Any]:
    """Return what an older version recorded as this one does."""
    return {**NOT_SAID, **HalvesConfig.with_words(recorded)}


def _are_exposures(config: HalvesConfig) -> bool:
    """Return whether the movies are listed by a .cs file."""
    return len(config.movies) == 1 and cryosparc.is_exposures(config.movies[0])


def _with_listed_gain(config: HalvesConfig) -> HalvesConfig:
    """Return the options with the gain reference that a .cs file of movies names, unless another one is given.

    Raises
    ------
    CryodenError
        If the file has several gain references, one that is to be turned, or motion in a form that is not known.
    """
    if not _are_exposures(config) or config.are_images:
        return config
    if config.shifts is None:
        cryosparc.require_no_motion(config.movies[0])
    return replace(config, gain=cryosparc.movie_gain(config.movies[0])) if config.gain is None else config


def _lasting_options(
    config: HalvesConfig, movies: Sequence[MovieItem], job: Optional[CorrectedMovies]
) -> Dict[str, Any]:
    """Return what the sums of one folder have in common."""
    record = {key: getattr(config, key) for key in RECORDED}
    record.update(thin=config.thin, from_difference=config.difference is not None)
    if config.thin:
        record["seed"] = config.seed
    if config.difference is not None:
        record["full_is"] = config.full_is

    has_tiff = any(image_ending(movie.path) in TIFF_ENDINGS for movie in movies)
    record["flip_tiff"] = config.is_tiff_flipped(job is not None) if has_tiff else config.flip_tiff

    record.update(align=config.align, align_patches=config.align_patches if config.align else None)
    record.update(eer_grouping=config.eer_grouping, dose_weighting=config.dose_weighting if job else AUTO)
    has_local_motion = job is not None or config.local_motion not in (AUTO, NONE)
    record["local_motion"] = config.local_motion if has_local_motion else NONE
    if config.dose_per_frame is not None:  # without weights it is only written into the STAR file
        record["voltage"] = config.voltage
    return record


def _affordable(
    config: HalvesConfig,
    paths: List[str],
    calibration: Calibration,
    job: Optional[CorrectedMovies],
    arrays: Optional[Arrays],
) -> int:
    """Return how many movies or images may be processed in parallel."""
    if config.are_images:
        return max(1, affordable_images(config, paths))
    kept_bytes = arrays.kept_bytes if arrays else 0
    return affordable_jobs(config, paths, calibration, job.bytes_needed() if job else None, kept_bytes)


def _arrays(config: HalvesConfig, job: Optional[CorrectedMovies]) -> Optional[Arrays]:
    """Return what computes where frames are moved or weighted; raises CryodenError if it is not there."""
    device = device_of(config.device, config.gpus, local_rank(), n_ranks())
    if not moves_frames(config, job is not None):
        return None
    from cryoden.movies.motion.arrays import arrays_on  # its Fourier transforms take time to load

    return arrays_on(device, n_cpus())


def _load_pattern(output: Path) -> FixedPattern:
    """Return what earlier runs found in the halves; nothing where that cannot be read: it is made again."""
    try:
        return FixedPattern.load(output / outputs.PATTERN)
    except CryodenError as error:
        log.warning("%s", error)
        return FixedPattern()


# ---------------------------------------------------------------------- one movie after the other
def _split_all(movies: Sequence[MovieItem], work: Work, n_jobs: int) -> Tuple[Dict[int, float], Dict[str, Problem]]:
    """Split the movies, several in parallel; return row -> A/px of those that are split, and why others are not."""
    log_path = Path(work.config.output) / outputs.log_of(rank())
    progress_log = ProgressLog(log_path, len(movies), "movie", "Splitting", rank() == 0)
    with progress_log as progress, StoppablePool(n_jobs) as pool:
        results = list(pool.map(lambda movie: _process(movie, work, progress), movies))
    rates = {movie.row: result for movie, result in zip(movies, results) if isinstance(result, float)}
    failures = {movie.path: result for movie, result in zip(movies, results) if isinstance(result, Problem)}
    return rates, failures


def _process(movie: MovieItem, work: Work, progress: ProgressLog) -> Union[float, Problem]:
    """Split one movie unless it is split already; return its A/px, or what went wrong, whatever it is."""
    if work.disk_is_full.is_set():
        return NOT_REACHED
    begun = time.monotonic()
    try:
        if movie.error is not None:
            raise movie.error
        rate = _finished_rate(movie, work)
        if rate is not None:
            facts: Dict[str, Any] = {"status": "kept"}
        else:
            split = _split(movie, work, progress)
            rate = split.sampling_rate
            facts = {"status": "split", "seconds": round(time.monotonic() - begun, 3), **split.facts}
    except Exception as error:
        if isinstance(error, FullDiskError):
            work.disk_is_full.set()
        problem = problem_of(error, movie.path)
        progress.report_failure(movie.path, problem, error, movie=movie.path)
        return problem

    if facts.get("alignment", {}).get("doubts"):
        work.doubts[movie.name] = facts["alignment"]["doubts"]
    _add_to_pattern(work.pattern, movie)
    progress.report(movie.path, is_kept=facts["status"] == "kept", movie=movie.path, **facts)
    return float(rate)


def _split(movie: MovieItem, work: Work, progress: ProgressLog) -> Union[Split, Dealt]:
    def tell(share: float) -> None:
        progress.part(movie.path, share)

    with work.record.making(movie.result):
        if work.config.are_images:
            return write_image_halves(movie, work.config, work.sampling_rate(movie.row))
        if work.job is not None and movie.metadata is not None:
            return _split_corrected(movie, movie.metadata, work, work.job, tell)
        return write_halves(
            movie.path,
            movie.targets,
            work.config,
            work.calibration,
            work.sampling_rate(movie.row),
            work.voltage(movie.row),
            work.arrays,
            tell,
            motion=movie.motion,
        )


def _split_corrected(movie: MovieItem, metadata: str, work: Work, job: CorrectedMovies, tell: Tell) -> Split:
    """Split a movie of a finished motion correction, as that found it."""
    found = job.read(metadata, work.calibration)
    return write_halves(
        movie.path,
        movie.targets,
        found.config,
        found.calibration,
        found.config.sampling_rate or job.original_rate(movie.row),
        found.config.voltage,
        work.arrays,
        tell,
        found.correction,
    )


def _finished_rate(movie: MovieItem, work: Work) -> Optional[float]:
    """Return the A/px of a movie that is split already, None of one that is not."""
    if movie.name not in work.finished:
        return None
    return work.sampling_rate(movie.row) or _rate_of_sum(movie)


def _rate_of_sum(movie: MovieItem) -> float:
    """Return the A/px of a movie's sum, which its header says: nothing is split without."""
    return MrcStack(movie.targets[0]).sampling_rate or 0.0


def _add_to_pattern(pattern: FixedPattern, movie: MovieItem) -> None:
    """Look at the halves of a movie, unless an earlier run did; a movie that is split stays so if they are gone."""
    if movie.name in pattern:
        return
    target = dict(zip(outputs.SUMS, movie.targets))
    try:
        pattern.add(movie.name, target[outputs.ODD], target[outputs.EVEN])
    except (CryodenError, OSError) as error:
        log.warning("The halves of %s were not searched for a fixed pattern: %s", movie.name, error)


# ---------------------------------------------------------------------- what came out
def _missing(movies: Sequence[MovieItem], rates: Mapping[int, float]) -> Dict[str, Problem]:
    """Return the movies whose sums were deleted after they were written: no STAR file may list them."""
    problems = {}
    for movie in movies:
        error = deleted_file(movie.targets) if movie.row in rates else None
        if error is not None:
            problems[movie.path] = error.problem
    return problems


def _write_tables(
    config: HalvesConfig, table: Optional[ImageTable], done: Sequence[MovieItem], rates: Mapping[int, float]
) -> None:
    """Write a STAR file of every kind of sum."""
    rows = [movie.row for movie in done]
    pixel_sizes = [rates[row] for row in rows]
    optics = (config.voltage, config.spherical_aberration, config.amplitude_contrast)
    for number, kind in enumerate(outputs.SUMS):
        written = [star_path(movie.targets[number]) for movie in done]
        write_results(_star_of(Path(config.output), kind), table, optics, rows, written, pixel_sizes)

    if _are_exposures(config):
        files = [[str(movie.targets[number]) for movie in done] for number in range(len(outputs.SUMS))]
        slots = dict(zip((cryosparc.MICROGRAPH, *cryosparc.HALF_SLOTS.values()), files))
        cryosparc.write_exposures(Path(config.output) / outputs.EXPOSURES_CS, config.movies[0], rows, slots)


def _star_of(output: Path, kind: str) -> Path:
    """Return the STAR file of a kind of sum: that of the full sums is in the output folder itself."""
    return (output if kind == outputs.FULL else output / kind) / outputs.MICROGRAPHS_STAR


def _write_findings(output: Path, pattern: FixedPattern, config: HalvesConfig) -> Tuple[Problem, ...]:
    """Write what the halves have in common, and return what is suspicious; the halves count without these files."""
    found = pattern.found()
    warnings = found.warnings(are_hot_pixels_kept=config.hot_pixels == OFF)
    content = {
        **asdict(found),
        "share": found.share,
        "is_fixed_pattern": found.is_fixed_pattern,
        "warnings": [warning.to_dict() for warning in warnings],
    }

    try:
        pattern.save(output / outputs.PATTERN)
        write_json(output / outputs.SANITY, content)
    except CryodenError as error:
        unsaved = f"What the halves have in common was not saved: {error.problem.message}"
        warnings.append(Problem("warning", unsaved, error.problem.subject, error.problem.remedy))
    return tuple(warnings)
