"""Halves into patch files, a band of rows at a time: memory stays small whatever the data set."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, Dict, Iterator, List, Sequence

import numpy as np
from tqdm import tqdm

from cryoden.config.exchange import PatchesExportConfig
from cryoden.data.normalize import GreyScale, Normalization, measure_file
from cryoden.data.pairs import find_pairs
from cryoden.errors import CryodenError, ExistingResultsError, FileError, Problem, Remedy, because, problem_of
from cryoden.exchange.patch_plan import Source, needed_bytes, plan_sources
from cryoden.exchange.patch_progress import PROGRESS_NAME, PatchProgress, require_same_options
from cryoden.formats import outputs
from cryoden.formats.file_errors import decoding_errors, writing_errors
from cryoden.formats.files import digest, make_folder, require_room, write_json
from cryoden.formats.images import Stack, open_micrograph
from cryoden.formats.outcome import Outcome
from cryoden.formats.output_folder import failures_of, fills_folder, require_own_folder
from cryoden.formats.patch_file import DTYPE, FILE_NAMES, FORMAT, PARTS, ROLES, open_patches, patch_file_name
from cryoden.formats.pixels import file_context, require_finite
from cryoden.formats.run_record import InputIdentity, is_unchanged
from cryoden.wording import counted

log = logging.getLogger(__name__)


@fills_folder("patches export", failures_of)
def export_patches(config: PatchesExportConfig) -> Outcome:
    """Write patch files and their manifest; a stopped export goes on at the first unfinished micrograph.

    Raises
    ------
    CryodenError
        If no pair of halves can be used, the disk is too small, or the folder holds other patches: of other options,
        of other micrographs, or of halves that were replaced since.
    """
    pairs, failures = find_pairs(config.odd, config.even)
    sources, too_small = plan_sources(pairs, config)
    failures.update(too_small)
    output = Path(config.output)
    _check_room(output, sources, config)

    make_folder(output)
    export = _Export(output, config)
    export.require_same_inputs(sources)
    if export.is_done():
        log.info("%s is complete already.", output / outputs.MANIFEST)
        return Outcome(len(sources) + len(failures), {**failures, **export.progress.failures})

    with export:
        for source in tqdm(sources, unit="micrograph", desc="Cutting", disable=None):
            export.add(source)
        failures.update(export.progress.failures)
        export.finish(len(pairs) - len(too_small))
    names = {source.pair.name for source in sources} | set(failures)
    return Outcome(len(names), failures)


def _check_room(output: Path, sources: List[Source], config: PatchesExportConfig) -> None:
    written = [path for name in FILE_NAMES for path in (output / name, _growing(output, name)) if path.is_file()]
    needed = needed_bytes(sources, config.patch) - sum(path.stat().st_size for path in written)
    require_room("The patch files", needed, output, Remedy("change", "stride"))


def _growing(output: Path, name: str) -> Path:
    """Return where a patch file is while it grows."""
    return output / f".{name}.part"


class _Export:
    """Four growing files and what is known of them; a context manager that closes them.

    Parameters
    ----------
    output
        The folder.
    config
        The options.
    """

    def __init__(self, output: Path, config: PatchesExportConfig) -> None:
        self.output, self.config = output, config
        self.counts = dict.fromkeys(PARTS, 0)
        self.files: Dict[str, BinaryIO] = {}
        self.digests: Dict[str, Any] = {}
        options = {key: value for key, value in config.to_dict().items() if key != "output"}

        path = output / PROGRESS_NAME
        if self.is_done():
            manifest = open_patches(output).manifest
            require_same_options(output / outputs.MANIFEST, manifest.get("options", {}), options)
            failures = {name: Problem.from_dict(problem) for name, problem in manifest.get("failures", {}).items()}
            self.progress = PatchProgress(path, options, manifest.get("micrographs"), failures)
            return
        require_own_folder(output, PROGRESS_NAME, FILE_NAMES)
        self.progress = PatchProgress.load(path, options)

    def is_done(self) -> bool:
        """Return whether the manifest, which is written last, is there."""
        return (self.output / outputs.MANIFEST).is_file()

    def require_same_inputs(self, sources: Sequence[Source]) -> None:
        """Refuse what is there if it is not of these micrographs: of others, of a file that was replaced, or less.

        Other micrographs also mean that others are held out, and what one run trains on, the next would test on.

        Raises
        ------
        ExistingResultsError
            If it is of others.
        """
        pairs = {(source.pair.name, source.part): source.pair for source in sources}
        with decoding_errors(self.output, "an export of patches"):
            for record in self.progress.micrographs:
                pair = pairs.get((record["name"], record["part"]))
                if pair is None:
                    raise self._of_other_inputs("were cut from other micrographs")
                for path, values in zip((pair.odd, pair.even), record.get("files", ())):  # version 0.1 lacks them
                    if not is_unchanged(InputIdentity.from_dict(values), InputIdentity.of(path), path):
                        raise self._of_other_inputs(f"were cut from {path} before it was replaced")
        if self.is_done() and not all(self.progress.has(*key) for key in pairs):
            raise self._of_other_inputs("were cut when there were fewer micrographs")

    def _of_other_inputs(self, what: str) -> ExistingResultsError:
        message = f"The patches in {self.output} {what}."
        return ExistingResultsError(message, subject=str(self.output), remedy=Remedy("other_folder"))

    def __enter__(self) -> _Export:
        """Open the files where the last finished micrograph ended; raises FullDiskError or FileError."""
        try:
            self._open()
        except CryodenError:
            self.__exit__(None, None, None)
            raise
        return self

    def _open(self) -> None:
        for record in self.progress.micrographs:
            self.counts[record["part"]] += record["count"]
        if self.progress.micrographs:
            log.info("Resumed after %s.", counted(len(self.progress.micrographs), "finished micrograph"))
        self.progress.begin()

        for part in PARTS:
            size = self.counts[part] * self.config.patch**2 * DTYPE.itemsize
            for role in ROLES:
                name = patch_file_name(part, role)
                path = _growing(self.output, name)
                if size and not path.exists() and (self.output / name).is_file():
                    # Of a run that was killed while it gave the files their names.
                    os.replace(str(self.output / name), str(path))
                with writing_errors(path):
                    path.touch()
                    self.digests[name] = digest(path, n_bytes=size)
                    self.files[name] = open(str(path), "r+b")  # noqa: SIM115 (closed by `__exit__`)
                    self.files[name].truncate(size)
                    self.files[name].seek(size)

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        for file in self.files.values():
            with suppress(OSError):  # of a full disk; at the end, `finish` has closed them
                file.close()

    def add(self, source: Source) -> None:
        """Append a micrograph's patches, unless an earlier run did; one that cannot be used is noted and left out.

        Raises
        ------
        FileError
            If the files cannot be written.
        """
        name, part = source.pair.name, source.part
        if self.progress.has(name, part):
            return

        names = {role: patch_file_name(part, role) for role in ROLES}
        before = {role: (self.files[names[role]].tell(), self.digests[names[role]].copy()) for role in ROLES}
        halves = zip(ROLES, (source.pair.odd, source.pair.even))
        try:
            scales = [self._append(path, source, names[role]) for role, path in halves]
        except _UnwritableError as error:
            raise error.reason from error
        except Exception as error:  # one bad micrograph never ends a list
            for role, (size, state) in before.items():
                self.files[names[role]].seek(size)
                self.files[names[role]].truncate()
                self.digests[names[role]] = state
            self.progress.fail(name, problem_of(error, name))
            return

        # Patches first, then the word that they are there.
        for role in ROLES:
            file = self.files[names[role]]
            with writing_errors(_growing(self.output, names[role])):
                file.flush()
                os.fsync(file.fileno())
        self.progress.add(self._record(source, scales))
        self.counts[part] += source.n

    def _append(self, path: str, source: Source, name: str) -> GreyScale:
        stack = open_micrograph(path)
        scale = measure_file(stack, Normalization(self.config.normalization))
        with file_context(path):
            for patch in _cut(stack, scale, source, self.config):
                self.digests[name].update(patch.data)
                self._write(name, patch)
        return scale

    def _write(self, name: str, patch: np.ndarray) -> None:
        try:
            with writing_errors(_growing(self.output, name)):
                self.files[name].write(patch.data)
        except FileError as error:
            raise _UnwritableError(error) from error

    def _record(self, source: Source, scales: List[GreyScale]) -> Dict[str, Any]:
        values = {
            role: {"percentile_95": scale.percentile, "mean": scale.mean, "deviation": scale.deviation}
            for role, scale in zip(ROLES, scales)
        }
        if self.config.normalization == "p95":  # which knows no mean and no deviation
            for value in values.values():
                del value["mean"], value["deviation"]

        pair = source.pair
        return {
            "name": pair.name,
            "part": source.part,
            "first": self.counts[source.part],
            "count": source.n,
            "input": pair.odd,
            "target": pair.even,
            "files": [asdict(identity) for identity in map(InputIdentity.of, (pair.odd, pair.even)) if identity],
            "shape": list(pair.shape),
            "sampling_rate": pair.sampling_rate,
            "rows": source.rows,
            "columns": source.columns,
            "scale": values,
        }

    def finish(self, n_wanted: int) -> None:
        """Check the sizes, give the files their names, and write the manifest last.

        Raises
        ------
        FileError
            If no micrograph could be used, for training or testing.
        """
        for part in PARTS:
            if not self.counts[part]:
                first = next(iter(self.progress.failures.values()))
                raise because(FileError, f"None of the {n_wanted} micrographs gave a {part} patch", first)

        # Names first, the manifest last: where it is, everything is.
        files = {}
        for part in PARTS:
            for role in ROLES:
                name = patch_file_name(part, role)
                path = _growing(self.output, name)
                with writing_errors(path):
                    self.files[name].close()
                size, expected = path.stat().st_size, DTYPE.itemsize * self.config.patch**2 * self.counts[part]
                if size != expected:
                    raise FileError(f"{path} has {size} bytes instead of {expected}; export again.", subject=str(path))
                files[name] = {"bytes": size, "sha256": self.digests[name].hexdigest()}
                os.replace(str(path), str(self.output / name))

        progress = self.progress
        manifest = {
            "format": FORMAT,
            "version": 1,
            "dtype": "float32",
            "byte_order": "little",
            "axis_order": ["patch", "row", "column"],
            "patch": self.config.patch,
            "stride": self.config.stride,
            "counts": self.counts,
            "normalization": self.config.normalization,
            "sampling_rate": progress.micrographs[0]["sampling_rate"],
            "seed": self.config.seed,
            "validation": self.config.validation,
            "files": files,
            "options": progress.options,
            "micrographs": progress.micrographs,
            "failures": {name: problem.to_dict() for name, problem in progress.failures.items()},
        }
        write_json(self.output / outputs.MANIFEST, manifest)
        progress.path.unlink()


class _UnwritableError(Exception):
    """The disk does not take the patches: that ends the export, unlike whatever is wrong with one micrograph.

    Parameters
    ----------
    reason
        What is said.
    """

    def __init__(self, reason: FileError) -> None:
        super().__init__(str(reason))
        self.reason = reason


def _cut(stack: Stack, scale: GreyScale, source: Source, config: PatchesExportConfig) -> Iterator[np.ndarray]:
    """Yield the patches of a micrograph, row by row of patches, each float32 `(patch, patch)` and contiguous."""
    patch = config.patch
    band = np.empty((patch, stack.shape[1]), DTYPE)
    for first in source.rows:
        # A row of patches, in as many pieces as the file can be read in.
        for row in range(0, patch, stack.band_rows):
            last = min(row + stack.band_rows, patch)
            pixels = stack.read_rows(0, first + row, first + last).astype(np.float32)
            require_finite(pixels)
            band[row:last] = scale.standardize(pixels)
        if config.normalization == "p95":
            np.minimum(band, 1, out=band)  # the division rounds

        for column in source.columns:
            yield np.ascontiguousarray(band[:, column : column + patch])
