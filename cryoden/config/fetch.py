"""What fetching can be asked; standard library only."""

from __future__ import annotations

import dataclasses
import re
from typing import ClassVar, Iterator, Optional
from urllib.parse import urlsplit

from cryoden.config.options import Groups, Options, option
from cryoden.errors import Problem, option_problem

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclasses.dataclass(frozen=True)
class FetchConfig(Options):
    """Download movies from a public archive; finished files are kept, interrupted downloads are resumed."""

    groups: ClassVar[Groups] = {
        "input and output": ("archive", "entry", "imageset", "pattern", "subset"),
        "download": ("output", "dry_run", "jobs"),
    }

    archive: str = option(positional=True, choices=("empiar",), help="Only EMPIAR so far.")
    entry: str = option(positional=True, help="Number of the entry: 10025 or EMPIAR-10025.")
    output: str = option("empiar", help="Folder in which a folder EMPIAR-10025 is made.")
    subset: Optional[int] = option(
        None, at_least=1, help="Download only this many movies, evenly spread over the entry; default: all."
    )
    imageset: Optional[int] = option(
        None, at_least=1, help="Number of the image set; default: the first one with movies."
    )
    pattern: Optional[str] = option(
        None, help="Only files whose names match, such as *_frames.tif; default: all movies and gain references."
    )
    dry_run: bool = option(False, help="Only list what the entry contains and what would be downloaded.")
    jobs: int = option(4, at_least=1, at_most=8, help="Files downloaded in parallel, 1 to 8.")
    api: str = option("https://www.ebi.ac.uk/empiar/api", help="URL of the archive's API.")
    files: str = option("https://ftp.ebi.ac.uk/empiar/world_availability", help="URL of the archive's files.")
    maps: str = option("https://www.ebi.ac.uk/emdb/api", help="URL of the EMDB's API, which knows the microscope.")

    @property
    def number(self) -> str:
        """The digits of the entry."""
        return re.sub(r"^EMPIAR-", "", self.entry.strip(), flags=re.IGNORECASE)

    @property
    def entry_folder(self) -> str:
        """The entry's own folder below the output folder."""
        return f"{self.output}/EMPIAR-{self.number}"

    @property
    def filled_folder(self) -> Optional[str]:
        """The entry's own folder, unless nothing is to be downloaded."""
        return None if self.dry_run else self.entry_folder

    def _problems(self) -> Iterator[Problem]:
        if not re.fullmatch(r"\d{5,6}", self.number):
            yield option_problem("entry", f"is {self.entry!r}; it must be the digits of an EMPIAR entry: 10025.")
        for name in ("api", "files", "maps"):
            parts = urlsplit(getattr(self, name))
            if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
                yield option_problem(name, f"is {getattr(self, name)!r}; it must be an https:// address.")
