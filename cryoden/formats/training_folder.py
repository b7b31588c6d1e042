"""What a training leaves in its folder: its status, its log, samples to look at. No torch is needed to read it.

The model is in `cryoden.formats.model_file`, the state to go on from in `cryoden.model.checkpoints`.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

import numpy as np

from cryoden.config import TrainConfig
from cryoden.errors import CryodenError, FileError
from cryoden.formats import outputs
from cryoden.formats.arrays import opened_arrays, write_arrays
from cryoden.formats.file_errors import decoding_errors, reason, writing_errors
from cryoden.formats.files import PathLike, read_json, whole_file, write_json
from cryoden.formats.model_file import read_card
from cryoden.formats.outcome import DONE, SOME_FAILED, read_ending
from cryoden.formats.run_record import option_differences
from cryoden.system.progress import said_duration


@dataclass(frozen=True)
class TrainingStatus:
    """How far a training is.

    Attributes
    ----------
    epoch, n_epochs
        The one that runs, counted from 1, and how many there are; None where minutes count.
    step, n_steps
        Finished ones, and how many there are; None where minutes count.
    share
        How much of the training is over, 0 to 1.
    seconds_left
        None where nothing shows the pace yet.
    loss
        Mean of the epoch until now, None before its first step.
    r2
        Of the last validation, None before the first.
    activity
        What is done between steps: `validating, 2 of 3 micrographs`.
    warnings
        What is wrong with the data, in sentences.
    """

    epoch: int = 1
    n_epochs: Optional[int] = None
    step: int = 0
    n_steps: Optional[int] = None
    share: float = 0.0
    seconds_left: Optional[float] = None
    loss: Optional[float] = None
    r2: Optional[float] = None
    activity: str = ""
    warnings: Sequence[str] = ()

    @property
    def place(self) -> str:
        """Where the training is, for a line: `epoch 3 of 20, step 240 of 2000`."""
        epoch, step = (
            f"{word} {number}" + (f" of {n}" if n is not None else "")
            for word, number, n in (("epoch", self.epoch, self.n_epochs), ("step", self.step, self.n_steps))
        )
        return f"{epoch}, {self.activity or step}"

    @property
    def facts(self) -> str:
        """How well it goes, for a line: `R2 0.213, loss 0.9512`."""
        r2 = "" if self.r2 is None else f"R2 {self.r2:.3f}"
        loss = "" if self.loss is None else f"loss {self.loss:.4f}"
        return ", ".join(filter(None, [r2, loss]))

    def sentence(self, is_running: bool = True) -> str:
        """Return all of it as a sentence for a summary: epoch 3 of 20, R2 0.21, 12 minutes left."""
        parts = [self.place.split(", ", 1)[0]]
        if self.r2 is not None:
            parts.append(f"R2 {self.r2:.2f}")
        if is_running and self.activity:
            parts.append(self.activity)
        if is_running and self.seconds_left is not None:
            parts.append(f"{said_duration(self.seconds_left)} left")
        text = ", ".join(parts)
        return f"{text[0].upper()}{text[1:]}." if is_running else f"Stopped in {text}."


def write_status(folder: PathLike, status: TrainingStatus) -> None:
    """Write how far a training is."""
    write_json(Path(folder) / outputs.TRAINING_STATUS, asdict(status))


def read_status(folder: PathLike) -> Optional[TrainingStatus]:
    """Return what `write_status` wrote; None where no training runs or was stopped.

    Raises
    ------
    FileError
        If the file is damaged.
    """
    path = Path(folder) / outputs.TRAINING_STATUS
    if not path.is_file():
        return None
    with decoding_errors(path, "the status of a training"):
        return TrainingStatus(**read_json(path))


def remove_status(folder: PathLike) -> None:
    """Remove what `write_status` wrote: the training is over."""
    path = Path(folder) / outputs.TRAINING_STATUS
    with writing_errors(path), suppress(FileNotFoundError):
        path.unlink()


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


def is_finished_training(config: TrainConfig) -> bool:
    """Return whether a training with these options came to its end: its micrographs need not be read again."""
    folder = Path(config.output)
    try:
        ending = read_ending(folder / outputs.OUTCOME)
        recorded = read_card(folder / outputs.MODEL).training.get("options")
    except CryodenError:  # what is wrong is said by the training
        return False
    if ending is None or ending.status not in (DONE, SOME_FAILED) or not isinstance(recorded, dict):
        return False
    now = config.begun_with(recorded).lasting_options()
    return not option_differences(TrainConfig.completed(recorded), now)
