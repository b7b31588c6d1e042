"""Windows for pictures that lay themselves out."""

from __future__ import annotations

from typing import Tuple

from pwem.viewers import EmPlotter


def newPlotter(title: str, inches: Tuple[float, float]) -> EmPlotter:
    """Return a plotter whose figure arranges its parts; Scipion's own tightening refuses colour bars."""
    plotter = EmPlotter(windowTitle=title, figsize=inches)
    plotter.tightLayoutOn = False
    plotter.getFigure().set_layout_engine("constrained")
    return plotter
