"""What a training leaves in its folder: names of its files, its log, samples to look at. No torch is needed to read it.

The model is in `cryoden.formats.model_file`, the state to go on from in `cryoden.model.checkpoints`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence

import numpy as np

from cryoden.errors import FileError
from cryoden.formats import outputs
from cryoden.formats.arrays import opened_arrays, write_arrays
from cryoden.formats.file_errors import reason
from cryoden.formats.files import PathLike, whole_file

NEEDED = {"epoch", "loss", "validation_loss", "r2", "r2_per_micrograph"}
"""Of a record: what is drawn."""


def write_log(folder: PathLike, records: Sequence[Mapping[str, Any]]) -> None:
    """Write one JSON line for each epoch."""
    with whole_file(Path(folder) / outputs.LOG) as temporary:
        temporary.write_text("".join(json.dumps(record) + "\n" for record in records))


def read_log(path: PathLike) -> List[Dict[str, Any]]:
    """Return the records of a training's `log.jsonl`, one for each epoch.

    Raises
    ------
    FileError
        If the log is not there or damaged.
    """
    try:
        records = [json.loads(line) for line in Path(path).read_text().splitlines()]
    except (OSError, ValueError, RecursionError) as error:
        unreadable = f"Training log {path} cannot be read ({reason(error)}); has the first epoch ended?"
        raise FileError(unreadable, subject=str(path)) from error
    if not all(isinstance(record, dict) and set(record) >= NEEDED for record in records):
        raise FileError(f"{path} is not the log of a training.", subject=str(path))
    return records


def write_samples(folder: PathLike, samples: Mapping[str, np.ndarray]) -> None:
    """Write cut-outs (input, output, target) of held-out micrographs, `(3, y, x)` each, under their names."""
    write_arrays(Path(folder) / outputs.SAMPLES, samples)


def read_samples(folder: PathLike) -> Dict[str, np.ndarray]:
    """Return what `write_samples` wrote, float32; nothing where no epoch has ended.

    Raises
    ------
    FileError
        If the file is damaged.
    """
    path = Path(folder) / outputs.SAMPLES
    if not path.exists():
        return {}
    with opened_arrays(path, "remove it; the next better epoch makes it again") as file:
        return {name: file[name].astype(np.float32) for name in file.files}
