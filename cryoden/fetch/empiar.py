"""The Electron Microscopy Public Image Archive: what an entry holds, where its files are, how it was taken.

Sources: the entry API (www.ebi.ac.uk/empiar/api/entry/ID) gives title, size and image sets; the files lie below
ftp.ebi.ac.uk/empiar/world_availability/ID as folders that a web server lists; voltage, spherical aberration and dose
are known to the EMDB entry that an EMPIAR entry refers to (www.ebi.ac.uk/emdb/api/entry/EMD-ID).
"""

from __future__ import annotations

import logging
import re
import shlex
from dataclasses import dataclass
from fnmatch import fnmatch
from html import unescape
from pathlib import PurePosixPath
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple
from urllib.parse import quote, unquote

from cryoden.config.fetch import FetchConfig
from cryoden.errors import NetworkError, Problem, Remedy
from cryoden.fetch.download import RemoteFile, remote_size
from cryoden.fetch.session import Session, ask
from cryoden.fetch.untrusted import BadAnswerError, part_of, path_below, positive_number, printable
from cryoden.system.signals import StoppablePool
from cryoden.wording import counted

log = logging.getLogger(__name__)

MOVIE_ENDINGS = (
    ".mrc", ".mrcs", ".tif", ".tiff", ".eer", ".mrc.gz", ".mrc.bz2", ".mrcs.gz", ".mrcs.bz2",
)  # fmt: skip
GAIN_ENDINGS = (".mrc", ".tif", ".tiff", ".gain", ".dm4")
"""Of the formats that `cryoden halves` reads, and of gain references beside them."""

GAIN_WORDS = re.compile(r"gain|norm[-_.]|countref|superref|defect", re.IGNORECASE)
"""In the names that acquisition programs give to gain references and defect maps."""

CHECKSUM_NAMES = re.compile(r"(md5|sha1|sha256)(sums?)?(\.txt)?$|checksums?(\.txt)?$", re.IGNORECASE)
"""Of files that list checksums, one `digest  name` a line, as md5sum writes them."""

ALGORITHMS = {32: "md5", 40: "sha1", 64: "sha256"}
"""Digits of a hexadecimal digest, and the algorithm that gives so many."""

MOST_FOLDERS = 2000
"""Folders of an image set that are looked into."""

MOST_NAMES = 2_000_000
"""Files and folders of an image set."""

LINK = re.compile(r"""<a\s[^<>]*?\bhref\s*=\s*(?:"([^"<>]*)"|'([^'<>]*)')""", re.IGNORECASE)
"""Of a page that lists a folder; unlike Python's parser of HTML it takes linear time whatever the page is."""

GLOBUS_COLLECTION = "47772002-3e5b-4fd3-b97c-18cee38d6df2"
"""EMBL-EBI Public Data."""


@dataclass(frozen=True)
class ImageSet:
    """One image set of an entry, with what is known of its images; None is what the archive does not say.

    Attributes
    ----------
    name, directory, category
        As the archive gives them; the directory lies below the entry's.
    n_images, n_frames
        Images, and frames of each.
    sampling_rate
        A/px.
    size_px
        Columns and rows.
    data_format
        In the archive's words.
    """

    name: str
    directory: str
    category: str
    n_images: int
    n_frames: Optional[int]
    sampling_rate: Optional[float]
    size_px: Optional[Tuple[int, int]]
    data_format: str

    @property
    def is_movies(self) -> bool:
        """Whether it is multi-frame micrographs."""
        return "multiframe" in self.category.lower() or "'T2'" in self.category


@dataclass(frozen=True)
class Entry:
    """An entry of EMPIAR.

    Attributes
    ----------
    number
        Its digits.
    title, size
        As the archive gives them.
    imagesets
        In the archive's order.
    maps
        EMDB entries that it refers to, `EMD-...`.
    """

    number: str
    title: str
    size: str
    imagesets: List[ImageSet]
    maps: List[str]


@dataclass(frozen=True)
class Microscope:
    """How the movies were taken, as far as the EMDB says: kV, mm, e/A^2 of a whole movie; None = it does not say."""

    voltage: Optional[float] = None
    spherical_aberration: Optional[float] = None
    dose: Optional[float] = None


@dataclass(frozen=True)
class Listing:
    """Files of an image set.

    Attributes
    ----------
    movies, gains
        Movies that are wanted; gain references and defect maps beside them.
    failures
        File -> why it is in neither list.
    """

    movies: List[RemoteFile]
    gains: List[RemoteFile]
    failures: Dict[str, Problem]


def read_entry(session: Session, config: FetchConfig) -> Entry:
    """Ask the archive for an entry.

    Raises
    ------
    NetworkError
        If the archive is away, has no such entry, or its answer makes no sense.
    """
    url = f"{config.api.rstrip('/')}/entry/{config.number}/"
    answer = ask(session, url)
    if answer.status == 404:
        raise NetworkError(
            f"EMPIAR has no entry {config.number}; look for its number at https://www.ebi.ac.uk/empiar.",
            subject=config.number,
        )
    answer.require_success()
    try:
        content = answer.json()[f"EMPIAR-{config.number}"]
        imagesets = [_imageset(item) for item in content["imagesets"]]
        names = map(str, content.get("cross_references") or ())
        maps = [name for name in names if re.fullmatch(r"EMD-[0-9]{1,9}", name)]
        title, size = printable(str(content["title"])), printable(str(content.get("dataset_size", "?")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        said = printable(repr(error))
        raise BadAnswerError(f"{url} gives an answer that is no EMPIAR entry ({said}). Try again later.") from error
    return Entry(config.number, title, size, imagesets, maps)


def choose_imageset(entry: Entry, number: Optional[int]) -> ImageSet:
    """Return the image set that was asked for, or the first one of movies.

    Raises
    ------
    NetworkError
        If there is none.
    """
    if number is not None:
        if number > len(entry.imagesets):
            raise NetworkError(
                f"EMPIAR-{entry.number} has {counted(len(entry.imagesets), 'image set')}, not {number}.",
                subject=entry.number,
                remedy=Remedy("change", "imageset"),
            )
        return entry.imagesets[number - 1]
    movies = [item for item in entry.imagesets if item.is_movies]
    if not movies:
        kinds = ", ".join(sorted({item.category for item in entry.imagesets})) or "nothing"
        raise NetworkError(
            f"EMPIAR-{entry.number} holds no movies, but {kinds}.",
            subject=entry.number,
            remedy=Remedy("set", "imageset"),
        )
    return movies[0]


def read_microscope(session: Session, config: FetchConfig, entry: Entry) -> Microscope:
    """Ask the EMDB how the movies were taken, by the first map of the entry; that it does not say is no error."""
    if not entry.maps:
        return Microscope()
    try:
        answer = ask(session, f"{config.maps.rstrip('/')}/entry/{entry.maps[0]}")
        answer.require_success()
        content = answer.json()
    except (NetworkError, ValueError) as error:
        log.warning("%s does not say how the movies were taken (%s); say it yourself.", entry.maps[0], error)
        return Microscope()
    structure = part_of(content, "structure_determination_list", "structure_determination", 0)
    microscopy = part_of(structure, "microscopy_list", "microscopy", 0)
    recording = part_of(microscopy, "image_recording_list", "image_recording", 0)
    return Microscope(
        positive_number(part_of(microscopy, "acceleration_voltage")),
        positive_number(part_of(microscopy, "nominal_cs")),
        positive_number(part_of(recording, "average_electron_dose_per_image")),
    )


def list_files(session: Session, config: FetchConfig, imageset: ImageSet) -> Listing:
    """Return the movies that are wanted, and gain references and defect maps beside them, with sizes and checksums.

    Raises
    ------
    NetworkError
        If folders cannot be listed, or no file matches.
    """
    root = f"{config.files.rstrip('/')}/{config.number}/"
    directory = path_below(imageset.directory)
    inside = list(_walk(session, root, f"{directory}/" if directory else ""))
    above: List[str] = []
    if directory not in ("", "data"):  # references often lie above the movies
        above = [name for name in _listing(session, root, "data/") if not name.endswith("/")]

    names = [*inside, *above]
    gains = {name for name in names if _is_gain(name)}
    pattern = config.pattern or "*"
    movies = {
        name
        for name in inside
        if name.lower().endswith(MOVIE_ENDINGS) and name not in gains and fnmatch(PurePosixPath(name).name, pattern)
    }
    if not movies:
        wanted = f"matches {config.pattern!r}" if config.pattern else "is a movie"
        raise NetworkError(
            f"None of {counted(len(names), 'file')} of EMPIAR-{config.number} in '{directory}' {wanted}.",
            subject=config.number,
        )

    checksums = _checksums(session, root, names)
    failures: Dict[str, Problem] = {}
    sized = [
        _with_sizes(session, root, part, checksums, config.jobs, failures)
        for part in (spread(sorted(movies), config.subset), sorted(gains))
    ]
    return Listing(sized[0], sized[1], failures)


def _is_gain(name: str) -> bool:
    return bool(GAIN_WORDS.search(PurePosixPath(name).name)) and name.lower().endswith(GAIN_ENDINGS)


def spread(names: Sequence[str], n: Optional[int]) -> List[str]:
    """Return `n` names, spread evenly; all where there are fewer."""
    if n is None or n >= len(names):
        return list(names)
    return [names[index * len(names) // n] for index in range(n)]


def other_ways(number: str, directory: str) -> List[str]:
    """Return the commands that download the same with Aspera and with Globus."""
    place = f"{number}/{directory.strip('/')}"
    source = shlex.quote(f"emp_ext2@fasp.ebi.ac.uk:/{place}")
    return [
        f"ascp -QT -l 300M -P33001 -k 2 -i asperaweb_id_dsa.openssh {source} .",
        "globus transfer --recursive "
        + shlex.quote(f"{GLOBUS_COLLECTION}:/empiar/world_availability/{place}")
        + f" COLLECTION:/~/{number}",
    ]


def _listing(session: Session, root: str, folder: str) -> List[str]:
    """Return files and folders (with a slash at the end) of a folder, as paths below the root."""
    answer = ask(session, root + quote(folder))
    answer.require_success()
    links = [unquote(unescape(match[1] or match[2] or "")) for match in LINK.finditer(answer.text)]
    inside = [link[2:] if link.startswith("./") else link for link in links]
    # Links to sort the list, to the parent and to elsewhere are none of this folder's.
    is_here = re.compile(r"[^/?#:]+/?")
    return [folder + name for name in inside if is_here.fullmatch(name) and name not in ("./", "../", ".", "..")]


def _walk(session: Session, root: str, folder: str) -> Iterator[str]:
    folders = [folder]
    n_names = 0
    for _ in range(MOST_FOLDERS):
        if not folders:
            return
        for name in _listing(session, root, folders.pop(0)):
            n_names += 1
            if n_names > MOST_NAMES:
                log.warning("%s%s has more than %d files; the rest is left out.", root, folder, MOST_NAMES)
                return
            if name.endswith("/"):
                folders.append(name)
            else:
                yield name
    log.warning("%s%s has more than %d folders; the rest is left out.", root, folder, MOST_FOLDERS)


def _checksums(session: Session, root: str, names: Sequence[str]) -> Dict[str, Tuple[str, str]]:
    """Return path -> algorithm and digest from every list of checksums among the files."""
    found: Dict[str, Tuple[str, str]] = {}
    for name in names:
        path = PurePosixPath(name)
        if not CHECKSUM_NAMES.search(path.name):
            continue
        for line in ask(session, root + quote(name)).text.splitlines():
            match = re.match(r"\s*([0-9a-fA-F]{32,64})\s+\*?(\S.*?)\s*$", line)
            if match and len(match[1]) in ALGORITHMS:
                found[str(path.parent / match[2])] = (ALGORITHMS[len(match[1])], match[1])
    return found


def _with_sizes(
    session: Session,
    root: str,
    names: Sequence[str],
    checksums: Dict[str, Tuple[str, str]],
    n_jobs: int,
    failures: Dict[str, Problem],
) -> List[RemoteFile]:
    """Ask for the sizes of files; add those that get no good answer to `failures`."""

    def ask_size(name: str) -> RemoteFile:
        path_below(name)
        url = root + quote(name)
        return RemoteFile(url, name, remote_size(session, url), checksums.get(str(PurePosixPath(name))))

    files = []
    with StoppablePool(n_jobs) as pool:
        for name, future in [(name, pool.submit(ask_size, name)) for name in names]:
            try:
                files.append(future.result())
            except BadAnswerError as error:  # a server that cannot be reached ends all
                failures[printable(name)] = error.problem
    return files


def _imageset(item: Dict[str, Any]) -> ImageSet:
    width = positive_number(item.get("image_width"))
    height = positive_number(item.get("image_height"))
    n_frames = positive_number(item.get("frames_per_image"))
    return ImageSet(
        printable(str(item.get("name") or "unnamed")),
        printable(str(item.get("directory") or "data")),
        printable(str(item.get("category") or "unknown")),
        int(positive_number(item.get("num_images_or_tilt_series")) or 0),
        int(n_frames) if n_frames else None,
        positive_number(item.get("pixel_width")),
        (int(width), int(height)) if width and height else None,
        printable(str(item.get("data_format") or "unknown")),
    )
