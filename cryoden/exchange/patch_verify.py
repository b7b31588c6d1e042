"""Patch files, read again and compared with what their manifest promises."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Optional

import numpy as np
from tqdm import tqdm

from cryoden.config.exchange import PatchesVerifyConfig
from cryoden.errors import FileError, Problem, problem_of
from cryoden.formats import outputs
from cryoden.formats.files import digest
from cryoden.formats.patch_file import open_patches, value_range


def verify_patches(config: PatchesVerifyConfig) -> Dict[str, Problem]:
    """Read patch files again and compare them with their manifest.

    Returns
    -------
    problems
        Name of the file -> what is wrong; empty if all is well.

    Raises
    ------
    FileError
        If sizes and counts are wrong already.
    """
    folder = open_patches(config.folder, config.patch)
    problems: Dict[str, Problem] = {}
    promised = folder.manifest.get("files", {})
    is_scaled = folder.manifest.get("normalization") == "p95"

    for part in tqdm(folder.parts.values(), unit="part", desc="Reading", disable=None):
        for path in (part.input, part.target):
            try:
                _verify_values(path, promised.get(path.name, {}).get("sha256"), is_scaled)
            except Exception as error:  # the other files are verified all the same
                problems[path.name] = problem_of(error, str(path))

    # The records say from which micrographs the patches come, and so which ones an evaluation must leave out.
    manifest = folder.path / outputs.MANIFEST
    for part_name, files in folder.parts.items():
        records = [record for record in folder.manifest.get("micrographs", ()) if record["part"] == part_name]
        counted = sum(record["count"] for record in records)
        if records and counted != files.n:
            problems[outputs.MANIFEST] = FileError(
                f"{manifest} lists micrographs with {counted} {part_name} patches, but the files hold {files.n}; "
                "export again.",
                subject=str(manifest),
            ).problem
    return problems


def _verify_values(path: Path, sha256: Optional[str], is_scaled: bool) -> None:
    """Read a patch file to its end.

    Raises
    ------
    FileError
        If it cannot be read, or holds what it must not hold.
    """
    low, high = value_range(path)
    if not np.isfinite(low + high):
        wrong = "has values that are NaN or infinite; export it again."
    elif is_scaled and not 0 <= low <= high <= 1:
        wrong = f"has values from {low:g} to {high:g}, but p95 means 0 to 1; export again."
    elif sha256 is not None and digest(path).hexdigest() != sha256:
        wrong = "has another SHA-256 than the manifest says; it was changed or damaged. Copy it again."
    else:
        return
    raise FileError(f"{path} {wrong}", subject=str(path))
