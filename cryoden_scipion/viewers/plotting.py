"""Windows for pictures that lay themselves out."""

from pwem.viewers import EmPlotter


def newPlotter(title, inches):
    """Return a plotter whose figure arranges its parts; Scipion's own tightening refuses colour bars."""
    plotter = EmPlotter(windowTitle=title, figsize=inches)
    plotter.tightLayoutOn = False
    plotter.getFigure().set_layout_engine("constrained")
    return plotter
