"""What the command of fetching does: say what an entry holds, check the disk, download, leave a record."""

from __future__ import annotations

import json
import threading
import traceback
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Dict, List, Optional

from tqdm import tqdm

from cryoden.config import GIB
from cryoden.config.fetch import FetchConfig
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
from cryoden.fetch.download import RemoteFile, bytes_here, download
from cryoden.fetch.empiar import (
    Entry,
    ImageSet,
    Listing,
    Microscope,
    choose_imageset,
    list_files,
    other_ways,
    read_entry,
    read_microscope,
)
from cryoden.fetch.entry_record import EntryRecord
from cryoden.fetch.session import Session, open_session
from cryoden.formats import outputs
from cryoden.formats.files import append_line, make_folder, require_room
from cryoden.formats.images import ENDINGS, open_stack
from cryoden.formats.output_folder import fills_folder
from cryoden.system.signals import StoppablePool
from cryoden.wording import counted, counted_of


@fills_folder("fetch", dict)
def run_fetch(config: FetchConfig) -> Dict[str, Problem]:
    """Download an entry or a part of it; returns what failed, file -> reason.

    Raises
    ------
    CryodenError
        If the archive is away, has no such entry, the disk is too small, or no file could be fetched.
    """
    folder = Path(config.entry_folder)
    with open_session() as session:
        entry = read_entry(session, config)
        imageset = choose_imageset(entry, config.imageset)
        microscope = read_microscope(session, config, entry)
        listing = list_files(session, config, imageset)
        _tell(entry, imageset, microscope, listing)
        if config.dry_run:
            return listing.failures

        files = [*listing.gains, *listing.movies]
        needed = sum(max(0, file.size - bytes_here(folder, file)) for file in files)
        require_room("The files", needed, folder, Remedy("change", "subset"))
        make_folder(folder)
        failures = {**listing.failures, **_Downloads(session, folder, files).run(config.jobs)}

    arrived = [file.name for file in listing.movies if file.name not in failures]
    if not arrived:
        raise NothingDoneError("movie", "fetched", len(failures), failures)

    gains = tuple(file.name for file in listing.gains if file.name not in failures)
    record = EntryRecord(entry.number, entry.title, imageset, microscope, tuple(arrived), gains)
    record.write(folder)
    print(f"{counted_of(len(arrived), len(listing.movies), 'movie')} in {folder}")
    return failures


def _tell(entry: Entry, imageset: ImageSet, microscope: Microscope, listing: Listing) -> None:
    print(f"EMPIAR-{entry.number}: {entry.title} ({entry.size} in all)")
    for number, item in enumerate(entry.imagesets, 1):
        chosen = "*" if item is imageset else " "
        print(
            f"{chosen} {number}. {item.name}: {item.n_images} x {item.category}, {item.data_format}, {item.directory}"
        )

    known = {
        "Å/px": imageset.sampling_rate,
        "frames": imageset.n_frames,
        "kV": microscope.voltage,
        "mm Cs": microscope.spherical_aberration,
        "e/Å²": microscope.dose,
    }
    print("  " + ", ".join(f"{value:g} {unit}" if value else f"? {unit}" for unit, value in known.items()))

    files = (*listing.movies, *listing.gains)
    size = sum(file.size for file in files) / GIB
    n_sums = sum(file.checksum is not None for file in files)
    sums = f"{n_sums} with checksums" if n_sums else "the archive gives no checksums"
    movies, references = counted(len(listing.movies), "movie"), counted(len(listing.gains), "reference")
    print(f"To download: {movies} and {references}, {size:.2f} GiB; {sums}.")

    print("The same with Aspera or Globus, for those who have them:")
    for command in other_ways(entry.number, imageset.directory):
        print(f"  {command}")


class _Downloads:
    """Files on their way into a folder, several in parallel.

    Parameters
    ----------
    session
        Of `open_session`.
    folder
        Of the entry.
    files
        What to download.
    """

    def __init__(self, session: Session, folder: Path, files: List[RemoteFile]) -> None:
        self._session = session
        self._folder = folder
        self._files = files
        self._lock = threading.Lock()
        self._is_stopped = threading.Event()
        self._disk_is_full = threading.Event()
        self._bar = tqdm(total=sum(file.size for file in files), unit="B", unit_scale=True, disable=None)

    def run(self, n_jobs: int) -> Dict[str, Problem]:
        """Download them; return what failed, file -> reason."""
        failures: Dict[str, Problem] = {}
        with self._bar, StoppablePool(n_jobs) as pool:
            try:
                for file, future in [(file, pool.submit(self._fetch, file)) for file in self._files]:
                    problem = future.result()
                    if problem is not None:
                        failures[file.name] = problem
            except BaseException:
                self._is_stopped.set()
                raise
        return failures

    def _fetch(self, file: RemoteFile) -> Optional[Problem]:
        """Download one file; return what went wrong, whatever it is."""
        if self._disk_is_full.is_set():
            return NOT_REACHED
        try:
            _check_image(download(self._session, file, self._folder, self._count))
            return None
        except CancelledError:
            raise
        except Exception as error:
            if isinstance(error, FullDiskError):
                self._disk_is_full.set()
            problem = problem_of(error, file.name)
            if not isinstance(error, CryodenError):
                lines = traceback.format_exception(type(error), error, error.__traceback__)
                facts = {"file": file.name, "status": "failed", "reason": str(problem), "traceback": "".join(lines)}
                append_line(self._folder / outputs.LOG, json.dumps(facts))
            return problem

    def _count(self, n_bytes: int) -> None:
        if self._is_stopped.is_set():
            raise CancelledError
        with self._lock:
            self._bar.update(n_bytes)


def _check_image(path: Path) -> None:
    """Refuse a movie that is whole by its size but not by its header; keep it under another name.

    Raises
    ------
    FileError
        If it cannot be opened.
    """
    if path.suffix.lower() not in ENDINGS:
        return
    try:
        open_stack(path)
    except CryodenError as error:
        spoiled = path.with_name(f"{path.name}.bad")
        path.replace(spoiled)
        raise FileError(
            f"{error.problem.message} The archive sent it so; it is kept as {spoiled.name}.",
            subject=error.problem.subject,
            remedy=error.problem.remedy,
        ) from error
