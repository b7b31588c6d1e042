"""The general model, which comes with cryoden: the word that names it, and its file."""

from __future__ import annotations

from pathlib import Path

from cryoden.config.shared import GENERAL
from cryoden.errors import ModelError
from cryoden.formats.file_errors import PathLike

LABEL = "General model"
"""What people call it."""

GENERAL_FILE = Path(__file__).resolve().parents[1] / "model/general.safetensors"
"""Package data (setup.py)."""


def model_path(model: PathLike) -> str:
    """Return the file that is meant where a model is named: a path, or the word `general`.

    A file of that name is meant by `./general`.

    Raises
    ------
    ModelError
        If the general model is meant, and this installation lacks it.
    """
    if model != GENERAL:
        return str(model)
    if not has_general_model():
        raise ModelError(
            f"This installation of cryoden lacks the general model ({GENERAL_FILE}); install cryoden again, or name a "
            "model file.",
            subject=GENERAL,
        )
    return str(GENERAL_FILE)


def has_general_model() -> bool:
    """Return whether this installation has the general model."""
    return GENERAL_FILE.is_file()
