"""Windows for pictures that lay themselves out, and a cursor that says that one has to wait for them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Iterator, Optional, Tuple

from pwem.viewers import EmPlotter
from pyworkflow.protocol import Protocol


def newPlotter(run: Optional[Protocol], title: str, inches: Tuple[float, float]) -> EmPlotter:
    """Return a plotter whose figure arranges its parts; Scipion's own tightening refuses colour bars.

    Parameters
    ----------
    run
        Its name stands before the title of the window; None where there is no run.
    title
        What the window shows.
    inches
        Width and height.
    """
    windowTitle = f"{run.getRunName()}: {title}" if run is not None else title
    plotter = EmPlotter(windowTitle=windowTitle, figsize=inches)
    plotter.tightLayoutOn = False
    plotter.getFigure().set_layout_engine("constrained")
    return plotter


@contextmanager
def waiting(window: Any) -> Iterator[None]:
    """Show a wait cursor on a window of Tk; None where there is no window."""
    if window is None:
        yield
        return
    window.configure(cursor="watch")
    window.update_idletasks()
    try:
        yield
    finally:
        window.configure(cursor="")
