"""The last state of a training on disk, to go on from."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Tuple

import torch

from cryoden.config import TrainConfig
from cryoden.errors import CryodenError, ExistingResultsError, FileError, FullDiskError, Remedy
from cryoden.formats import outputs
from cryoden.formats.file_errors import reading_errors, reason, require_file
from cryoden.formats.files import whole_file
from cryoden.formats.model_file import read_card
from cryoden.formats.run_record import option_differences
from cryoden.model.training_state import TrainingState

log = logging.getLogger(__name__)

PARTS = ("network", "averaged", "optimizer", "progress", "options")
"""Of a checkpoint; each is a dictionary."""


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Replace the checkpoint by a newer one; the old one survives if this fails.

    Raises
    ------
    FullDiskError
        If the disk is full.
    FileError
        If the folder cannot be written.
    """
    path = folder / outputs.CHECKPOINT
    with whole_file(path) as temporary:
        try:
            torch.save(dict(state), str(temporary))
        except RuntimeError as error:  # torch does not say what the system said
            if shutil.disk_usage(str(folder)).free < _n_bytes(state):
                raise FullDiskError(
                    f"The disk is full: {path} cannot be written; the one before is kept.",
                    subject=str(path),
                    remedy=Remedy("free_disk"),
                ) from error
            raise FileError(f"{path} cannot be written; the one before is kept.", subject=str(path)) from error


def restore(folder: Path, state: TrainingState, options: Mapping[str, Any]) -> None:
    """Bring a training to where its checkpoint was written.

    Parameters
    ----------
    folder
        Of the training.
    state
        Becomes that of the checkpoint.
    options
        Those of the training, and its `micrographs`.

    Raises
    ------
    FileError
        If the checkpoint cannot be read or used.
    ExistingResultsError
        If the training was started with other options or micrographs.
    """
    path = folder / outputs.CHECKPOINT
    saved = _read(path)

    differing = changed_options(saved["options"], options)
    is_other_set = differing.pop("micrographs", None) is not None  # a list without an end is no help
    if differing or is_other_set:
        what = "options" if differing else "micrographs"
        raise ExistingResultsError(
            f"The training in {folder} was started with other {what}.",
            subject=str(folder),
            remedy=Remedy("other_folder"),
            differences=differing,
        )

    try:
        state.load_state_dict(saved)
    except (AttributeError, KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise _unusable(path, f"does not fit this training: {reason(error)}") from error
    log.info("Resumed after epoch %d, batch %d.", state.progress.epoch, state.progress.batch)


def recorded_options(folder: Path) -> Optional[Dict[str, Any]]:
    """Return the options of the training in a folder, from its checkpoint, else its model; None without either.

    Raises
    ------
    FileError
        If the checkpoint cannot be read.
    """
    path = folder / outputs.CHECKPOINT
    return dict(_read(path)["options"]) if path.exists() else options_of_model(folder / outputs.MODEL)


def options_of_model(path: Path) -> Optional[Dict[str, Any]]:
    """Return the options by which a model was trained; None where that is unknown."""
    try:
        options = read_card(path).training.get("options")
    except CryodenError:
        return None
    return options if isinstance(options, dict) else None


def changed_options(recorded: Mapping[str, Any], options: Mapping[str, Any]) -> Dict[str, Tuple[Any, Any]]:
    """Return option -> (value then, value now) of those that differ from a record, also one of an older version."""
    return option_differences(TrainConfig.completed(recorded), options)


def _read(path: Path) -> Dict[str, Any]:
    """Return the content of a checkpoint, in host memory; nothing in it is executed."""
    with reading_errors(require_file(path)), open(str(path), "rb"):
        pass  # what torch says of a file that cannot be opened names no file
    try:
        saved = torch.load(str(path), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds; its own advice is to trust the file
        raise _unusable(path, "is damaged, or holds more than numbers") from error
    if not isinstance(saved, dict):
        raise _unusable(path, "is no checkpoint of a training")
    missing = [part for part in PARTS if not isinstance(saved.get(part), dict)]
    if missing:
        raise _unusable(path, f"lacks {' and '.join(missing)}")
    return saved


def _unusable(path: Path, what: str) -> FileError:
    return FileError(f"{path} {what}. Remove it to train from the start.", subject=str(path))


def _n_bytes(part: Any) -> int:
    """Return how many bytes the tensors of a state take."""
    if isinstance(part, torch.Tensor):
        return part.numel() * part.element_size()
    if isinstance(part, Mapping):
        return sum(map(_n_bytes, part.values()))
    return 0
