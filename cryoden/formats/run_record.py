"""What made the results of a folder: so that "finished" means made by this input with these options.

The record of a command (`halves.json`, `denoise.json`...) holds the options of every run that filled the folder. Beside
it, a file of lines (`halves.results.jsonl`) says of every result by which run and from which input it was made: one
line before it is begun, one when it is there. Lines are only ever appended, so that a set of 20,000 costs no more per
result than one of 20, and a kill at any moment leaves at most a line that is begun.

Records of version 0.1 hold the options alone; their results count as made from whatever input has their name.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, Mapping, Optional, Sequence, Set, Tuple, Union

from cryoden import __version__
from cryoden.errors import ExistingResultsError, FileError, Remedy
from cryoden.formats.file_errors import reading_errors
from cryoden.formats.files import PathLike, append_line, digest, read_json, real_paths, write_json

BEGUN, DONE = "begun", "done"

SECOND_NS = 1_000_000_000

RUN_DIGITS = 16
"""Hexadecimal digits by which runs are told apart."""


@dataclass(frozen=True)
class InputIdentity:
    """By what an input file is known again: also after its folder was moved or copied with its times.

    Attributes
    ----------
    name
        Without its folder.
    size
        Bytes.
    changed_ns
        Time of its last change, ns since 1970.
    path
        Where it was, for messages.
    """

    name: str
    size: int
    changed_ns: int
    path: str

    @classmethod
    def of(cls, path: PathLike) -> Optional[InputIdentity]:
        """Return the identity of a file; None where it cannot be looked at."""
        try:
            status = Path(path).stat()
        except OSError:
            return None
        return cls(Path(path).name, status.st_size, status.st_mtime_ns, str(path))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> InputIdentity:
        """Return an identity from its fields; raises KeyError, TypeError or ValueError where they are none."""
        return cls(str(values["name"]), int(values["size"]), int(values["changed_ns"]), str(values["path"]))

    def is_same(self, other: Optional[InputIdentity]) -> bool:
        """Return whether two identities are those of one file; some copies keep whole seconds only."""
        if other is None or (self.name, self.size) != (other.name, other.size):
            return False
        is_rounded = self.changed_ns % SECOND_NS == 0 or other.changed_ns % SECOND_NS == 0
        unit = SECOND_NS if is_rounded else 1
        return self.changed_ns // unit == other.changed_ns // unit


@dataclass(frozen=True)
class Result:
    """One result that a command is to make.

    Attributes
    ----------
    name
        By which it is known in the record, such as its file's place in the folder.
    files
        All of its files: it is finished when every one is there.
    inputs
        Files that it is made from.
    """

    name: str
    files: Tuple[Path, ...]
    inputs: Tuple[str, ...] = ()


@dataclass(frozen=True)
class _Line:
    """The last that is known of a result."""

    run: str
    state: str
    inputs: Tuple[InputIdentity, ...]
    ns: int
    facts: Mapping[str, Any]


class RunRecord:
    """The record of the results in one folder.

    Parameters
    ----------
    path
        The record's file.
    options
        What makes the results what they are, JSON types.
    files
        Option -> file or files that it names, such as models or a gain reference: known by their content, not by their
        place.
    renamed
        Names that version 0.1 recorded -> options that are meant.
    in_words_of_today
        Returns options that an older version recorded as today's would be.
    is_overwritten
        Whether results that are there are made again, whoever made them; None where the command has no such option.
    rank
        Of this process among those that share the work; each has lines of its own.
    """

    def __init__(
        self,
        path: PathLike,
        options: Mapping[str, Any],
        files: Optional[Mapping[str, Union[str, Sequence[str], None]]] = None,
        is_overwritten: Optional[bool] = None,
        rank: int = 0,
        renamed: Optional[Mapping[str, str]] = None,
        in_words_of_today: Callable[[Mapping[str, Any]], Dict[str, Any]] = dict,
    ) -> None:
        self.path = Path(path)
        self.options: Dict[str, Any] = json.loads(json.dumps(dict(options)))
        self._digests = {name: _digest_of(named) for name, named in (files or {}).items() if named}
        self._run = _run_name(self.options, self._digests)
        self._in_words_of_today = in_words_of_today
        self._is_overwritten = bool(is_overwritten)
        self._remedy = Remedy("other_folder" if is_overwritten is None else "overwrite")
        self._identities: Dict[str, Tuple[Optional[InputIdentity], ...]] = {}
        self._lock = threading.Lock()
        self._rank = rank
        self._lines_path = lines_path(self.path, rank)
        self._content = _read_content(self.path, renamed or {})
        self._lines = _read_lines(self.path)

    def finished(self, results: Sequence[Result]) -> Set[str]:
        """Return the names of the results that are there, made by these options from these inputs.

        Of several processes the first one says it for all, the others nothing: it may have begun already.

        Raises
        ------
        ExistingResultsError
            If one is there that other options, another input or another program made, and is not to be overwritten.
        """
        for result in results:
            self._identities[result.name] = tuple(InputIdentity.of(path) for path in result.inputs)
        if self._is_overwritten or self._rank:
            return set()
        return {result.name for result in results if self._is_finished(result)}

    def finished_since(self, results: Sequence[Result]) -> Set[str]:
        """Return the same of results that another process had found finished, or was to make, when all have ended."""
        self._lines = _read_lines(self.path)
        return {result.name for result in results if self._is_finished(result)}

    def facts(self, name: str) -> Mapping[str, Any]:
        """Return what was noted of a finished result; nothing of those of version 0.1."""
        line = self._lines.get(name)
        return line.facts if line is not None and line.state == DONE else {}

    def begin(self) -> None:
        """Write the options of this run into the record: before its first result."""
        content = self._content or {"runs": {}}
        content["version"] = __version__
        content["runs"][self._run] = {"options": self.options, "digests": self._digests}
        content["current"] = self._run
        if self._is_overwritten:
            content["overwriting"] = self._run
        self._content = content
        write_json(self.path, content)

    @contextmanager
    def making(self, result: Result) -> Iterator[Dict[str, Any]]:
        """Record a result as begun, and as done when the context ends without an error.

        Its inputs are recorded as they were when `finished` was asked: what is replaced since then is used again.

        Yields
        ------
        dict
            For facts about the result that a later run shall know without opening it, JSON types.
        """
        facts: Dict[str, Any] = {}
        self._append(result, BEGUN, facts)
        yield facts
        self._append(result, DONE, facts)

    # ------------------------------------------------------------------ what is there
    def _is_finished(self, result: Result) -> bool:
        there = [file for file in result.files if os.path.isfile(str(file))]
        if not there:
            return False
        is_whole = len(there) == len(result.files)
        line = self._lines.get(result.name)
        if line is None:
            if LEGACY not in self._runs:
                raise ExistingResultsError(
                    f"{there[0]} is there, and was not made by this command.",
                    subject=str(there[0]),
                    remedy=self._remedy,
                )
            self._require_same_run(LEGACY, there[0])
            return is_whole

        if line.run != self._run:
            if self._run == (self._content or {}).get("overwriting") or line.run not in self._runs:
                return False  # an overwriting that was stopped goes on; a run that was killed before it began is ours
            self._require_same_run(line.run, there[0])
        return self._has_same_inputs(result, line, there[0]) and line.state == DONE and is_whole

    def _has_same_inputs(self, result: Result, line: _Line, file: Path) -> bool:
        """Return whether a result was made from its inputs as they are now; False if they were replaced."""
        known, now = line.inputs, self._identities[result.name]
        if len(now) == len(known) and all(map(is_unchanged, known, now, result.inputs)):
            return True

        foreign = [before.path for before in known if before.path not in result.inputs]
        if foreign:
            raise ExistingResultsError(
                f"{file} was made from {foreign[0]}, not from {result.inputs[0]}.",
                subject=str(file),
                remedy=self._remedy,
            )
        return False

    def _require_same_run(self, run: str, file: Path) -> None:
        differing = self._differences(run)
        if differing:
            raise ExistingResultsError(
                f"{file} was made with other options.",
                subject=str(file),
                remedy=self._remedy,
                differences=differing,
            )

    def _differences(self, run: str) -> Dict[str, Tuple[Any, Any]]:
        """Return option -> (value then, value now) of those in which a run differs from this one."""
        before = self._runs[run]
        options = self._in_words_of_today(before["options"])
        return option_differences(options, self.options, before["digests"], self._digests)

    @property
    def _runs(self) -> Dict[str, Dict[str, Any]]:
        """What is known of every run that filled the folder."""
        return self._content["runs"] if self._content else {}

    def _append(self, result: Result, state: str, facts: Mapping[str, Any]) -> None:
        line = {
            "result": result.name,
            "run": self._run,
            "state": state,
            "inputs": [asdict(identity) for identity in self._identities[result.name] if identity is not None],
            "ns": time.time_ns(),
            "facts": facts,
        }
        with self._lock:
            append_line(self._lines_path, json.dumps(line))


LEGACY = "0.1"
"""Under this name the options of a record of version 0.1 are kept."""


def option_differences(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    digests_before: Mapping[str, str] = {},
    digests_now: Mapping[str, str] = {},
) -> Dict[str, Tuple[Any, Any]]:
    """Return option -> (value before, value now) of those that differ; what `before` lacks does not.

    Files with digests on both sides are compared by them: they may have moved.
    """
    differing = {}
    for name, value in now.items():
        if name in digests_before and name in digests_now:
            is_same = digests_before[name] == digests_now[name]
        else:
            is_same = name not in before or before[name] == value
        if not is_same:
            differing[name] = (before.get(name), value)
    return differing


def recorded_options(path: PathLike) -> Optional[Dict[str, Any]]:
    """Return the options of the last run that filled a folder, from its record; None without a record.

    Raises
    ------
    FileError
        If the record is damaged.
    """
    content = _read_content(Path(path))
    return None if content is None else content["runs"][content["current"]]["options"]


def options_of_0_1(path: PathLike) -> Optional[Dict[str, Any]]:
    """Return the options with which version 0.1 began a folder, also if this one has filled it since; else None.

    Raises
    ------
    FileError
        If the record is damaged.
    """
    run = (_read_content(Path(path)) or {"runs": {}})["runs"].get(LEGACY)
    return None if run is None else run["options"]


def lines_path(record: Path, rank: int = 0) -> Path:
    """Return the file with the lines that belong to a record."""
    return record.with_name(f"{record.stem}.results{f'_{rank}' if rank else ''}.jsonl")


def is_unchanged(before: InputIdentity, now: Optional[InputIdentity], path: str) -> bool:
    """Return whether an input is what it was. One removed since, as movies are to save room, counts as unchanged."""
    return before.path == path if now is None else before.is_same(now)


def _digest_of(files: Union[str, Sequence[str]]) -> str:
    """Return the digest of a file's content, or of several files in their order."""
    paths = [files] if isinstance(files, str) else files
    return " ".join(digest(path).hexdigest() for path in paths)


def _run_name(options: Mapping[str, Any], digests: Mapping[str, str]) -> str:
    known_by_content = {name: value for name, value in options.items() if name not in digests}
    text = json.dumps([known_by_content, dict(digests)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:RUN_DIGITS]


def _read_content(path: Path, renamed: Mapping[str, str] = {}) -> Optional[Dict[str, Any]]:
    """Return a record's content, that of version 0.1 in the form of today; None where there is none."""
    if not path.is_file():
        return None
    content = read_json(path)
    if not isinstance(content, dict):
        raise FileError(f"{path} is damaged: it is no JSON object. Remove it with the results beside it.")
    if "runs" not in content:
        options = {renamed.get(name, name): value for name, value in content.items()}
        return {"runs": {LEGACY: {"options": options, "digests": {}}}, "current": LEGACY}
    if not _is_whole(content):
        raise FileError(f"{path} is damaged: it does not say the options of its runs. Remove it and the results.")
    return content


def _is_whole(content: Dict[str, Any]) -> bool:
    runs, current = content["runs"], content.get("current")
    if not isinstance(runs, dict) or not isinstance(current, str) or current not in runs:
        return False
    return all(
        isinstance(run, dict) and isinstance(run.get("options"), dict) and isinstance(run.get("digests"), dict)
        for run in runs.values()
    )


def _read_lines(record: Path) -> Dict[str, _Line]:
    """Return result -> the last that was recorded of it; a line that a kill cut off is passed over."""
    lines: Dict[str, _Line] = {}
    for path in sorted(record.parent.glob(f"{record.stem}.results*.jsonl")):
        with reading_errors(path):
            content = path.read_bytes().decode("utf-8", "replace")

        latest: Dict[str, _Line] = {}
        for text in content.splitlines():
            try:
                line = json.loads(text)
                inputs = tuple(InputIdentity.from_dict(identity) for identity in line["inputs"])
                read = _Line(str(line["run"]), str(line["state"]), inputs, int(line["ns"]), dict(line["facts"]))
                name = str(line["result"])
            except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
                continue
            latest[name] = read  # in one file the order counts, not the clock, which may have been set back
        for name, read in latest.items():
            if name not in lines or read.ns >= lines[name].ns:  # several processes have a file each
                lines[name] = read
    return lines


# ---------------------------------------------------------------------- checks that all commands share
def require_distinct(targets: Iterable[Tuple[str, str]]) -> None:
    """Refuse two inputs whose results would have one name.

    Parameters
    ----------
    targets
        Input and name of its result.

    Raises
    ------
    FileError
        If there are such.
    """
    known: Dict[str, str] = {}
    for source, name in targets:
        if name in known:
            message = f"{known[name]} and {source} would both be written as {name}; rename one of them."
            raise FileError(message, subject=source)
        known[name] = source


def require_no_input(targets: Iterable[PathLike], inputs: Iterable[PathLike]) -> None:
    """Refuse to write over a file that is read.

    Raises
    ------
    FileError
        If a target is an input.
    """
    given = list(inputs)
    sources = dict(zip(real_paths(given), given))
    for place in real_paths(targets):
        source = sources.get(place)
        if source is not None:
            raise FileError(
                f"{source} would be overwritten by a result.", subject=str(source), remedy=Remedy("other_folder")
            )


def deleted_file(files: Iterable[Path]) -> Optional[FileError]:
    """Return which of the files that were written is gone, as an error; None if all are there to be listed."""
    for file in files:
        if not os.path.isfile(str(file)):
            message = f"{file} was deleted while the command ran."
            return FileError(message, subject=str(file), remedy=Remedy("continue"))
    return None
