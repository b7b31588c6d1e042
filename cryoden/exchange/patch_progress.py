"""What an export of patch files has finished: a file of lines, one for each micrograph.

Lines are only ever added, so that a set of 20,000 micrographs costs no more per micrograph than one of 20. The first
line holds the options; version 0.1 wrote one JSON object with everything, again for every micrograph.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Set, Tuple

from cryoden.config.exchange import PatchesExportConfig
from cryoden.errors import ExistingResultsError, FileError, Problem, Remedy
from cryoden.formats.file_errors import reading_errors
from cryoden.formats.files import append_line, whole_file
from cryoden.formats.run_record import option_differences

PROGRESS_NAME = ".patches.part"
"""In the output folder while an export is under way. Patch files have their final names at the end."""


class PatchProgress:
    """The finished micrographs of an export.

    Parameters
    ----------
    path
        The file of lines.
    options
        Of the export, JSON types.
    micrographs
        Records of those whose patches are in the files, as in the manifest.
    failures
        Those that could not be used, and why.
    """

    def __init__(
        self,
        path: Path,
        options: Mapping[str, Any],
        micrographs: Optional[List[Dict[str, Any]]] = None,
        failures: Optional[Dict[str, Problem]] = None,
    ) -> None:
        self.path, self.options = path, dict(options)
        self.micrographs = micrographs or []
        self.failures = failures or {}
        self._done: Set[Tuple[str, str]] = {(record["name"], record["part"]) for record in self.micrographs}

    @classmethod
    def load(cls, path: Path, options: Mapping[str, Any]) -> PatchProgress:
        """Return the progress of an export that was stopped; a new one where there is none.

        Raises
        ------
        FileError
            If the file is damaged.
        ExistingResultsError
            If the export was started with other options.
        """
        if not path.is_file():
            return cls(path, options)
        with reading_errors(path):
            text = path.read_text()
        try:
            loaded = cls._of_version_01(path, text) or cls._of_lines(path, text)
        except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
            raise FileError(f"{path} is damaged; remove it to export from the start.", subject=str(path)) from error
        require_same_options(path, loaded.options, options)
        return loaded

    @classmethod
    def _of_version_01(cls, path: Path, text: str) -> Optional[PatchProgress]:
        try:
            content = json.loads(text)
        except ValueError:
            return None
        if "micrographs" not in content:
            return None
        failures = {name: Problem.from_dict(problem) for name, problem in content["failures"].items()}
        return cls(path, content["options"], content["micrographs"], failures)

    @classmethod
    def _of_lines(cls, path: Path, text: str) -> PatchProgress:
        lines = text.split("\n")[:-1]  # what follows the last line's end was cut off by a kill
        options, micrographs, failures = json.loads(lines[0])["options"], [], {}
        for line in map(json.loads, lines[1:]):
            if "micrograph" in line:
                micrographs.append(line["micrograph"])
            else:
                failures[line["failure"]] = Problem.from_dict(line["problem"])
        return cls(path, options, micrographs, failures)

    def has(self, name: str, part: str) -> bool:
        """Return whether nothing is left to do of a micrograph in a part (`train` or `test`)."""
        return name in self.failures or (name, part) in self._done

    def begin(self) -> None:
        """Write what is known so far, whole: lines are added to it."""
        lines: List[Dict[str, Any]] = [{"options": self.options}]
        lines += [{"micrograph": record} for record in self.micrographs]
        lines += [_failure_line(name, problem) for name, problem in self.failures.items()]
        with whole_file(self.path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def add(self, record: Dict[str, Any]) -> None:
        """Note a micrograph whose patches are in the files."""
        append_line(self.path, json.dumps({"micrograph": record}))
        self.micrographs.append(record)
        self._done.add((record["name"], record["part"]))

    def fail(self, name: str, problem: Problem) -> None:
        """Note a micrograph that cannot be used."""
        append_line(self.path, json.dumps(_failure_line(name, problem)))
        self.failures[name] = problem


def require_same_options(path: Path, recorded: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Refuse to go on with patches that were cut with other options.

    Raises
    ------
    ExistingResultsError
        If they differ from those in a record.
    """
    differing = option_differences(PatchesExportConfig.completed(recorded), options)
    if differing:
        raise ExistingResultsError(
            f"{path.parent} holds patches that were cut with other options ({path.name}).",
            subject=str(path.parent),
            remedy=Remedy("other_folder"),
            differences=differing,
        )


def _failure_line(name: str, problem: Problem) -> Dict[str, Any]:
    return {"failure": name, "problem": problem.to_dict()}
