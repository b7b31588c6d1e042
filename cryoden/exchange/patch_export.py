"""Halves into patch files, a band of rows at a time: memory stays small whatever the data set."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, BinaryIO, Dict, Iterator, List

import numpy as np
from tqdm import tqdm

from cryoden.config.exchange import PatchesExportConfig
from cryoden.data.normalize import GreyScale, Normalization, measure_file
from cryoden.data.pairs import find_pairs
from cryoden.errors import CryodenError, FileError, Problem, Remedy
from cryoden.exchange.patch_plan import Source, needed_bytes, plan_sources
from cryoden.formats import outputs
from cryoden.formats.files import digest, make_folder, read_json, require_room, write_json
from cryoden.formats.images import Stack, open_micrograph
from cryoden.formats.outcome import Outcome
from cryoden.formats.output_folder import failures_of, fills_folder
from cryoden.formats.patch_file import DTYPE, FILE_NAMES, FORMAT, PARTS, ROLES, patch_file_name
from cryoden.formats.pixels import file_context, require_finite

log = logging.getLogger(__name__)

PROGRESS_NAME = ".patches.part"
"""In the output folder while an export is under way: what is finished. Files have their final names at the end."""


@fills_folder("patches export", failures_of)
def export_patches(config: PatchesExportConfig) -> Outcome:
    """Write patch files and their manifest; a stopped export goes on at the first unfinished micrograph.

    Raises
    ------
    CryodenError
        If no pair of halves can be used, the disk is too small, or the folder holds other patches.
    """
    pairs, failures = find_pairs(config.odd, config.even)
    sources, too_small = plan_sources(pairs, config)
    failures.update(too_small)
    output = Path(config.output)
    _check_room(output, sources, config)
    make_folder(output)
    export = _Export(output, config)
    if export.is_done():
        log.info("%s is complete already.", output / outputs.MANIFEST)
        return Outcome(len(sources) + len(failures), {**failures, **export.failures})
    with export:
        bar = tqdm(sources, unit="micrograph", desc="Cutting", disable=None)
        for source in bar:
            export.add(source)
        failures.update(export.failures)
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
        self.options = {key: value for key, value in config.to_dict().items() if key != "output"}
        self.progress: Dict[str, Any] = {"options": self.options, "micrographs": [], "failures": {}}
        self.counts = dict.fromkeys(PARTS, 0)
        path = output / PROGRESS_NAME
        for file in (output / outputs.MANIFEST, path):
            if file.is_file() and read_json(file).get("options") != self.options:
                raise FileError(
                    f"{output} holds patches that were cut with other options ({file.name}).",
                    subject=str(output),
                    remedy=Remedy("other_folder"),
                )
        if path.is_file():
            self.progress = read_json(path)
        elif self.is_done():
            self.progress["failures"] = read_json(output / outputs.MANIFEST)["failures"]
        else:
            self._guard_foreign_files()
        self.files: Dict[str, BinaryIO] = {}
        self.digests: Dict[str, Any] = {}

    def _guard_foreign_files(self) -> None:
        for path in (self.output / name for name in FILE_NAMES):
            if path.exists():
                raise FileError(
                    f"{path} is there already, without a manifest: another program made it.",
                    subject=str(path),
                    remedy=Remedy("other_folder"),
                )

    @property
    def failures(self) -> Dict[str, Problem]:
        """Micrographs that could not be used, and why."""
        return {name: Problem.from_dict(problem) for name, problem in self.progress["failures"].items()}

    def is_done(self) -> bool:
        """Return whether the manifest, which is written last, is there."""
        return (self.output / outputs.MANIFEST).is_file()

    def __enter__(self) -> _Export:
        """Open the files where the last finished micrograph ended."""
        for record in self.progress["micrographs"]:
            self.counts[record["part"]] += record["count"]
        if self.progress["micrographs"]:
            log.info("Going on after %d finished micrographs.", len(self.progress["micrographs"]))
        for part in PARTS:
            size = self.counts[part] * self.config.patch**2 * DTYPE.itemsize
            for role in ROLES:
                name = patch_file_name(part, role)
                path = _growing(self.output, name)
                if size and not path.exists() and (self.output / name).is_file():
                    # Of a run that was killed while it gave the files their names.
                    os.replace(str(self.output / name), str(path))
                path.touch()
                self.digests[name] = digest(path, n_bytes=size)
                self.files[name] = open(str(path), "r+b")
                self.files[name].truncate(size)
                self.files[name].seek(size)
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        for file in self.files.values():
            file.close()

    def add(self, source: Source) -> None:
        """Append a micrograph's patches, unless an earlier run did; one that cannot be used is noted and left out."""
        name, part = source.pair.name, source.part
        done = [(record["name"], record["part"]) for record in self.progress["micrographs"]]
        if (name, part) in done or name in self.progress["failures"]:
            return
        names = {role: patch_file_name(part, role) for role in ROLES}
        before = {role: (self.files[names[role]].tell(), self.digests[names[role]].copy()) for role in ROLES}
        try:
            scales = [
                self._append(path, source, names[role])
                for role, path in zip(ROLES, (source.pair.odd, source.pair.even))
            ]
        except OSError as error:
            raise FileError(
                f"{self.output} cannot be written ({error.strerror}); free the disk and start the same export again: "
                "it goes on where it stopped."
            ) from error
        except CryodenError as error:
            self.progress["failures"][name] = error.problem.to_dict()
            for role, (size, state) in before.items():
                self.files[names[role]].seek(size)
                self.files[names[role]].truncate()
                self.digests[names[role]] = state
        else:
            self.progress["micrographs"].append(self._record(source, scales))
            self.counts[part] += source.n
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())
        write_json(self.output / PROGRESS_NAME, self.progress)

    def _append(self, path: str, source: Source, name: str) -> GreyScale:
        normalization = Normalization(self.config.normalization)
        stack = open_micrograph(path)
        scale = measure_file(stack, normalization)
        with file_context(path):
            for patch in _cut(stack, scale, source, self.config):
                self.digests[name].update(patch.data)
                self.files[name].write(patch.data)
        return scale

    def _record(self, source: Source, scales: List[GreyScale]) -> Dict[str, Any]:
        values = {
            role: {"percentile_95": scale.percentile, "mean": scale.mean, "deviation": scale.deviation}
            for role, scale in zip(ROLES, scales)
        }
        if self.config.normalization == "p95":
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
                reason = next(iter(self.failures.values())).message
                raise FileError(f"None of the {n_wanted} micrographs gave a {part} patch; the first reason: {reason}")
        files = {}
        for part in PARTS:
            for role in ROLES:
                name = patch_file_name(part, role)
                self.files[name].close()
                path = _growing(self.output, name)
                size, expected = path.stat().st_size, DTYPE.itemsize * self.config.patch**2 * self.counts[part]
                if size != expected:
                    raise FileError(f"{path} has {size} bytes instead of {expected}; export again.")
                files[name] = {"bytes": size, "sha256": self.digests[name].hexdigest()}
                os.replace(str(path), str(self.output / name))
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
            "sampling_rate": self.progress["micrographs"][0]["sampling_rate"],
            "seed": self.config.seed,
            "validation": self.config.validation,
            "files": files,
            **self.progress,
        }
        write_json(self.output / outputs.MANIFEST, manifest)
        (self.output / PROGRESS_NAME).unlink()


def _cut(stack: Stack, scale: GreyScale, source: Source, config: PatchesExportConfig) -> Iterator[np.ndarray]:
    """Yield the patches of a micrograph, row by row of patches, each float32 `(patch, patch)` and contiguous."""
    patch = config.patch
    band = np.empty((patch, stack.shape[1]), DTYPE)
    for first in source.rows:
        for row in range(0, patch, stack.band_rows):
            last = min(row + stack.band_rows, patch)
            pixels = stack.read_rows(0, first + row, first + last).astype(np.float32)
            require_finite(pixels)
            band[row:last] = scale.standardize(pixels)
        if config.normalization == "p95":
            np.minimum(band, 1, out=band)  # the division rounds
        for column in source.columns:
            yield np.ascontiguousarray(band[:, column : column + patch])
