"""What the command of fetching does: say what an entry holds, check the disk, download, leave a record."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Dict, List

from requests import Session
from tqdm import tqdm

from cryoden.config import GIB
from cryoden.config.fetch import FetchConfig
from cryoden.errors import CryodenError, FileError, NetworkError, Problem, Remedy
from cryoden.fetch.download import RemoteFile, download, open_session
from cryoden.fetch.empiar import (
    Entry,
    ImageSet,
    Microscope,
    choose_imageset,
    list_files,
    other_ways,
    read_entry,
    read_microscope,
)
from cryoden.fetch.entry_record import EntryRecord
from cryoden.formats.files import make_folder, require_room
from cryoden.formats.images import ENDINGS, open_stack
from cryoden.formats.output_folder import fills_folder


@fills_folder("fetch", dict)
def run_fetch(config: FetchConfig) -> Dict[str, Problem]:
    """Download an entry or a part of it; returns what failed, file -> reason.

    Raises
    ------
    CryodenError
        If the archive is away, has no such entry, the disk is too small, or no file could be fetched.
    """
    with open_session() as session:
        entry = read_entry(session, config)
        imageset = choose_imageset(entry, config.imageset)
        microscope = read_microscope(session, config, entry)
        movies, gains = list_files(session, config, imageset)
        _tell(entry, imageset, microscope, movies, gains)
        if config.dry_run:
            return {}
        folder = Path(config.entry_folder)
        _check_room(folder, [*movies, *gains])
        make_folder(folder)
        failures = _fetch_all(session, [*gains, *movies], folder, config.jobs)
    arrived = [file.name for file in movies if file.name not in failures]
    if not arrived:
        raise NetworkError(
            f"None of {len(movies)} movies could be fetched; the first reason: {next(iter(failures.values()))}"
        )

    whole_gains = tuple(file.name for file in gains if file.name not in failures)
    record = EntryRecord(entry.number, entry.title, imageset, microscope, tuple(arrived), whole_gains)
    record.write(folder)
    print(f"{len(arrived)} of {len(movies)} movies are in {folder}")
    return failures


def _tell(
    entry: Entry, imageset: ImageSet, microscope: Microscope, movies: List[RemoteFile], gains: List[RemoteFile]
) -> None:
    print(f"EMPIAR-{entry.number}: {entry.title} ({entry.size} in all)")
    for number, item in enumerate(entry.imagesets, 1):
        chosen = "*" if item is imageset else " "
        print(
            f"{chosen} {number}. {item.name}: {item.n_images} x {item.category}, {item.data_format}, {item.directory}"
        )
    known = {
        "A/px": imageset.sampling_rate,
        "frames": imageset.n_frames,
        "kV": microscope.voltage,
        "mm Cs": microscope.spherical_aberration,
        "e/A^2": microscope.dose,
    }
    print("  " + ", ".join(f"{value:g} {unit}" if value else f"? {unit}" for unit, value in known.items()))
    size = sum(file.size for file in (*movies, *gains)) / GIB
    n_sums = sum(file.checksum is not None for file in (*movies, *gains))
    sums = f"{n_sums} with checksums" if n_sums else "the archive gives no checksums"
    print(f"To download: {len(movies)} movies and {len(gains)} references, {size:.2f} GiB; {sums}.")
    print("The same with Aspera or Globus, for those who have them:")
    for command in other_ways(entry.number, imageset.directory):
        print(f"  {command}")


def _fetch_all(session: Session, files: List[RemoteFile], folder: Path, n_jobs: int) -> Dict[str, Problem]:
    """Download files side by side into a folder; return what failed, file -> reason."""
    failures: Dict[str, Problem] = {}
    lock = threading.Lock()
    bar = tqdm(total=sum(file.size for file in files), unit="B", unit_scale=True, disable=None)

    def on_bytes(n: int) -> None:
        with lock:
            bar.update(n)

    def fetch(file: RemoteFile) -> None:
        try:
            download(session, file, folder / file.name, on_bytes)
            _check_image(folder / file.name)
        except (NetworkError, FileError) as error:
            failures[file.name] = error.problem

    with bar, ThreadPoolExecutor(n_jobs) as pool:
        list(pool.map(fetch, files))
    return failures


def _check_room(folder: Path, files: List[RemoteFile]) -> None:
    needed = 0
    for file in files:
        target = folder / file.name
        there = [path.stat().st_size for path in (target, target.with_name(f"{target.name}.part")) if path.is_file()]
        needed += max(0, file.size - sum(there))
    require_room("The files", needed, folder, Remedy("change", "subset"))


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
        raise FileError(f"{error} The archive sent it so; it is kept as {spoiled.name}.") from error
