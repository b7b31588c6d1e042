"""The last state of a training on disk, to go on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

import torch

from cryoden.errors import FileError, TrainingError
from cryoden.formats.files import whole_file
from cryoden.formats.training_folder import CHECKPOINT_NAME


def save_state(folder: Path, state: Dict[str, Any]) -> None:
    """Replace the checkpoint by a newer one; the old one survives if this fails.

    Raises
    ------
    FileError
        If the disk is full or the folder cannot be written.
    """
    path = folder / CHECKPOINT_NAME
    with whole_file(path) as temporary:
        try:
            torch.save(state, str(temporary))
        except RuntimeError as error:  # what torch raises for a full disk
            raise FileError(
                f"{path} cannot be written ({error.args[0].splitlines()[0]}); the one before is kept. "
                "Free the disk and go on with --resume."
            ) from error


def load_state(folder: Path, device: torch.device, options: Dict[str, Any]) -> Dict[str, Any]:
    """Read the checkpoint of a training that was started with the same options.

    Raises
    ------
    TrainingError
        If it cannot be read or the options differ.
    """
    path = folder / CHECKPOINT_NAME
    try:
        state = torch.load(str(path), map_location=device, weights_only=True)
        saved = [state[part] for part in ("network", "averaged", "optimizer", "progress", "options")][-1]
    except Exception as error:  # torch raises many kinds; all mean a damaged file
        raise TrainingError(f"{path} cannot be read ({error}); remove it to train from the start.") from error
    changed = [key for key, value in options.items() if saved.get(key) != value]
    if changed:
        raise TrainingError(
            f"The training in {folder} was started with other values of {', '.join(changed)}; resume with the same "
            "options, or choose another --output folder."
        )
    return state
