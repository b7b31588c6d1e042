"""cryoden: denoise cryo-EM micrographs with a network trained on the user's own data."""

from __future__ import annotations

import importlib
from typing import Any, List

__version__ = "0.2.0"

_API = {
    "Denoiser": "cryoden.model.denoiser",
    "choose": "cryoden.api",
    "denoise": "cryoden.api",
    "evaluate": "cryoden.api",
    "split_movies": "cryoden.api",
    "train": "cryoden.api",
}
"""What the library offers, and where it is: `cryoden.api` says how it is used."""

__all__ = ["Denoiser", "choose", "denoise", "evaluate", "split_movies", "train"]


def __getattr__(name: str) -> Any:
    """Import a part of the library when it is asked for (PEP 562): `import cryoden` alone loads no PyTorch."""
    if name not in _API:
        raise AttributeError(f"module 'cryoden' has no attribute {name!r}")
    return getattr(importlib.import_module(_API[name]), name)


def __dir__() -> List[str]:
    return sorted({*globals(), *_API})
