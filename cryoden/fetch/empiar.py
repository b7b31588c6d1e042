"""The Electron Microscopy Public Image Archive: what an entry holds, where its files are, how it was taken.

Sources: the entry API (www.ebi.ac.uk/empiar/api/entry/ID) gives title, size and image sets; the files lie below
ftp.ebi.ac.uk/empiar/world_availability/ID as folders that a web server lists; voltage, spherical aberration and dose
are known to the EMDB entry that an EMPIAR entry refers to (www.ebi.ac.uk/emdb/api/entry/EMD-ID).
"""

from __future__ import annotations

import logging
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import PurePosixPath
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple
from urllib.parse import quote, unquote

import requests

from cryoden.config.fetch import FetchConfig
from cryoden.errors import NetworkError
from cryoden.fetch.download import RemoteFile, get, remote_size

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


def read_entry(session: requests.Session, config: FetchConfig) -> Entry:
    """Ask the archive for an entry.

    Raises
    ------
    NetworkError
        If the archive is away, has no such entry, or its answer makes no sense.
    """
    url = f"{config.api.rstrip('/')}/entry/{config.number}/"
    answer = get(session, url)
    if answer.status_code == 404:
        raise NetworkError(f"EMPIAR has no entry {config.number}; look for its number at https://www.ebi.ac.uk/empiar.")
    if answer.status_code != 200:
        raise NetworkError(f"{url}: the archive answers {answer.status_code} {answer.reason}. Try again later.")
    try:
        content = answer.json()[f"EMPIAR-{config.number}"]
        imagesets = [_imageset(item) for item in content["imagesets"]]
        maps = [str(name) for name in content.get("cross_references") or () if str(name).startswith("EMD-")]
        return Entry(config.number, str(content["title"]), str(content.get("dataset_size", "?")), imagesets, maps)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NetworkError(f"{url} gives an answer that is no EMPIAR entry ({error!r}). Try again later.") from error


def choose_imageset(entry: Entry, number: Optional[int]) -> ImageSet:
    """Return the image set that was asked for, or the first one of movies.

    Raises
    ------
    NetworkError
        If there is none.
    """
    if number is not None:
        if number > len(entry.imagesets):
            raise NetworkError(f"EMPIAR-{entry.number} has {len(entry.imagesets)} image sets, not {number}.")
        return entry.imagesets[number - 1]
    movies = [item for item in entry.imagesets if item.is_movies]
    if not movies:
        kinds = ", ".join(sorted({item.category for item in entry.imagesets})) or "nothing"
        raise NetworkError(f"EMPIAR-{entry.number} holds no movies, but {kinds}; choose one with --imageset.")
    return movies[0]


def read_microscope(session: requests.Session, config: FetchConfig, entry: Entry) -> Microscope:
    """Ask the EMDB how the movies were taken, by the first map of the entry; that it does not say is no error."""
    if not entry.maps:
        return Microscope()
    try:
        answer = get(session, f"{config.maps.rstrip('/')}/entry/{entry.maps[0]}")
        structure = answer.json()["structure_determination_list"]["structure_determination"][0]
        microscopy = structure["microscopy_list"]["microscopy"][0]
    except (NetworkError, ValueError, KeyError, TypeError, IndexError) as error:
        log.warning("%s does not say how the movies were taken (%s); say it yourself.", entry.maps[0], error)
        return Microscope()
    recordings = (microscopy.get("image_recording_list") or {}).get("image_recording") or [{}]
    return Microscope(
        _number(microscopy.get("acceleration_voltage")),
        _number(microscopy.get("nominal_cs")),
        _number(recordings[0].get("average_electron_dose_per_image")),
    )


def list_files(
    session: requests.Session, config: FetchConfig, imageset: ImageSet
) -> Tuple[List[RemoteFile], List[RemoteFile]]:
    """Return the movies that are wanted, and gain references and defect maps beside them, with sizes and checksums.

    Raises
    ------
    NetworkError
        If folders cannot be listed, or no file matches.
    """
    root = f"{config.files.rstrip('/')}/{config.number}/"
    directory = imageset.directory.strip("/")
    inside, above = list(_walk(session, root, f"{directory}/" if directory else "")), []
    if directory not in ("", "data"):  # references often lie above the movies
        above = [name for name in _listing(session, root, "data/") if not name.endswith("/")]
    names = [*inside, *above]
    gains = [name for name in names if _is_gain(name)]
    pattern = config.pattern or "*"
    movies = [
        name
        for name in inside
        if name.lower().endswith(MOVIE_ENDINGS) and not _is_gain(name) and fnmatch(PurePosixPath(name).name, pattern)
    ]
    if not movies:
        wanted = f"matches {config.pattern!r}" if config.pattern else "is a movie"
        raise NetworkError(f"None of {len(names)} files of EMPIAR-{config.number} in {directory} {wanted}.")
    chosen = spread(sorted(set(movies)), config.subset)
    checksums = _checksums(session, root, names)
    sized = [_sized(session, root, part, checksums, config.jobs) for part in (chosen, sorted(set(gains)))]
    return sized[0], sized[1]


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
    return [
        f"ascp -QT -l 300M -P33001 -k 2 -i asperaweb_id_dsa.openssh emp_ext2@fasp.ebi.ac.uk:/{place} .",
        f"globus transfer --recursive {GLOBUS_COLLECTION}:/empiar/world_availability/{place} COLLECTION:/~/{number}",
    ]


class _Links(HTMLParser):
    """The links of a page that lists a folder."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.targets: List[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: List[Tuple[str, Optional[str]]]) -> None:
        target = dict(attrs).get("href")
        if tag == "a" and target:
            self.targets.append(unquote(target))


def _listing(session: requests.Session, root: str, folder: str) -> List[str]:
    """Return files and folders (with a slash at the end) of a folder, as paths below the root."""
    answer = get(session, root + quote(folder))
    if answer.status_code != 200:
        raise NetworkError(
            f"{root}{folder}: the archive answers {answer.status_code} {answer.reason}. Try again later."
        )
    inside = [target[2:] if target.startswith("./") else target for target in _Links(answer.text).targets]
    # Links to sort the list, to the parent and to elsewhere are none of this folder's.
    return [folder + t for t in inside if re.fullmatch(r"[^/?#:]+/?", t) and t not in ("./", "../", ".", "..")]


def _walk(session: requests.Session, root: str, folder: str) -> Iterator[str]:
    folders = [folder]
    for _ in range(MOST_FOLDERS):
        if not folders:
            return
        for name in _listing(session, root, folders.pop(0)):
            if name.endswith("/"):
                folders.append(name)
            else:
                yield name
    log.warning("%s%s has more than %d folders; the rest is left out.", root, folder, MOST_FOLDERS)


def _checksums(session: requests.Session, root: str, names: Sequence[str]) -> Dict[str, Tuple[str, str]]:
    """Return path -> algorithm and digest from every list of checksums among the files."""
    found: Dict[str, Tuple[str, str]] = {}
    for name in names:
        path = PurePosixPath(name)
        if not CHECKSUM_NAMES.search(path.name):
            continue
        for line in get(session, root + quote(name)).text.splitlines():
            match = re.match(r"\s*([0-9a-fA-F]{32,64})\s+\*?(\S.*?)\s*$", line)
            if match and len(match[1]) in ALGORITHMS:
                found[str(path.parent / match[2])] = (ALGORITHMS[len(match[1])], match[1])
    return found


def _sized(
    session: requests.Session, root: str, names: Sequence[str], sums: Dict[str, Tuple[str, str]], jobs: int
) -> List[RemoteFile]:
    def ask(name: str) -> RemoteFile:
        url = root + quote(name)
        return RemoteFile(url, name, remote_size(session, url), sums.get(str(PurePosixPath(name))))

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(ask, names))


def _imageset(item: Dict[str, Any]) -> ImageSet:
    width, height = _number(item.get("image_width")), _number(item.get("image_height"))
    frames = _number(item.get("frames_per_image"))
    return ImageSet(
        str(item.get("name") or "unnamed"),
        str(item.get("directory") or "data"),
        str(item.get("category") or "unknown"),
        int(_number(item.get("num_images_or_tilt_series")) or 0),
        int(frames) if frames else None,
        _number(item.get("pixel_width")),
        (int(width), int(height)) if width and height else None,
        str(item.get("data_format") or "unknown"),
    )


def _number(value: Any) -> Optional[float]:
    """Return a number above 0 that the archive gives as number, text or {valueOf_: ...}; None where there is none."""
    try:
        number = float(value["valueOf_"] if isinstance(value, dict) else value)
    except (TypeError, ValueError, KeyError):
        return None
    return number if 0 < number < float("inf") else None
