"""Patch files, read again and compared with what their manifest promises."""

from __future__ import annotations

from typing import Dict

import numpy as np
from tqdm import tqdm

from cryoden.config.exchange import PatchesVerifyConfig
from cryoden.errors import FileError, Problem
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
            low, high = value_range(path)
            if not np.isfinite(low + high):
                wrong = "has values that are NaN or infinite; export it again."
            elif is_scaled and not 0 <= low <= high <= 1:
                wrong = f"has values from {low:g} to {high:g}, but p95 means 0 to 1; export again."
            elif path.name in promised and digest(path).hexdigest() != promised[path.name]["sha256"]:
                wrong = "has another SHA-256 than the manifest says; it was changed or damaged. Copy it again."
            else:
                continue
            problems[path.name] = FileError(f"{path} {wrong}", subject=str(path)).problem

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
