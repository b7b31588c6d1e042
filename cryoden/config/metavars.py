"""What stands for the value of an option in help texts: the kind of file, or the unit.

A word means the same in every command, so one table serves them all.
"""

from __future__ import annotations

from typing import Any, Dict, Tuple, get_args

HALVES = "DIR|STAR"

TEXTS: Dict[str, str] = {
    "output": "DIR",
    "folder": "DIR",
    "odd": HALVES,
    "even": HALVES,
    "truth": HALVES,
    "inputs": "INPUT",
    "picks": HALVES,
    "picked": "STAR",
    "movies": "MOVIE|STAR|CS",
    "micrographs": "IMAGE|DIR|STAR|CS",
    "images": "IMAGE",
    "gain": "IMAGE",
    "dark": "IMAGE",
    "map": "MRC",
    "hot_pixels": "auto|off|NUMBER",
    "sampling_rate": "auto|full|Å/px",
    "shifts": "DIR",
    "movie_folder": "DIR",
    "difference": "DIR",
    "model": "general|MODEL",
    "from_model": "auto|general|none|MODEL",
    "patches": "DIR",
    "reference": "DIR",
    "frames": "FIRST-LAST",
    "entry": "NUMBER",
    "pattern": "GLOB",
    "api": "URL",
    "files": "URL",
    "maps": "URL",
    "topaz": "auto|no|COMMAND",
    "device": "auto|cpu|cuda[:N]",
}
"""Field of text, or of a number for which there are words -> what it is."""

UNITS: Dict[str, str] = {
    "sampling_rate": "Å/px",
    "pixel_size": "Å/px",
    "band": "Å",
    "dose_per_frame": "e/Å²",
    "initial_dose": "e/Å²",
    "eer_dose": "e/Å²",
    "voltage": "kV",
    "spherical_aberration": "mm",
    "minutes": "MIN",
    "seconds": "S",
    "watch": "MIN",
    "poll_seconds": "S",
    "checkpoint_minutes": "MIN",
    "memory": "GiB",
    "window": "GiB",
}
"""Field of a number -> its unit."""

KINDS: Dict[Any, str] = {str: "TEXT", int: "INT", float: "FLOAT"}

FILES = frozenset(("DIR", "STAR", "CS", "IMAGE", "MOVIE", "MRC", "MODEL", "INPUT"))
"""Words for files and folders: a shell completes their names."""


def is_file(metavar: str) -> bool:
    """Return whether what stands for a value says that it may be a file or a folder."""
    return not FILES.isdisjoint(metavar.split("|"))


def metavar_of(field: str, hint: Any) -> str:
    """Return what stands for a value of an option; nothing for a flag.

    Parameters
    ----------
    field
        Of the command's configuration.
    hint
        Its type. `movies` are files where they are names, and a number where they are counted.
    """
    kinds = _kinds(hint)
    if str in kinds:
        return TEXTS.get(field, KINDS[str])
    if float in kinds:
        return UNITS.get(field, KINDS[float])
    return KINDS[int] if int in kinds else ""


def _kinds(hint: Any) -> Tuple[Any, ...]:
    """Return the types that one value may have, of `Optional[float]` or `Tuple[str, ...]`."""
    return get_args(hint) or (hint,)
