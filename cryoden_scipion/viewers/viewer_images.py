"""Two images of every micrograph side by side, with their difference and power spectra; browse with the buttons."""

import os

from matplotlib.widgets import Button
from pwem.viewers import EmPlotter
from pyworkflow.viewer import DESKTOP_TKINTER, Viewer

from cryoden_scipion.convert import clonedItems, linkedHalves, micNameKey
from cryoden_scipion.protocols import CryodenProtDenoise, CryodenProtSplitHalves
from cryoden_scipion.protocols.protocol_split_halves import PATTERN_NAME, PATTERN_PICTURE_NAME


class _PairViewer(Viewer):
    """Base: draws one pair of image files and steps through the list with buttons."""

    _environments = [DESKTOP_TKINTER]
    _names = ("", "")

    def _pairsOf(self, protocol):
        """Return (title, first file, second file) of every micrograph."""
        raise NotImplementedError

    def _visualize(self, obj, **kwargs):
        pairs = self._pairsOf(obj)
        if not pairs:
            return [self.infoMessage("The protocol has no output yet.", "Nothing to show yet")]
        plotter = EmPlotter(windowTitle=self._label, figsize=(15, 9.5))
        plotter.browser = _Browser(plotter.getFigure(), pairs, self._names)  # kept, or its buttons would be collected
        return [plotter]


class CryodenHalvesViewer(_PairViewer):
    """Odd and even half of every micrograph: the same specimen, independent noise."""

    _label = "halves"
    _targets = [CryodenProtSplitHalves]
    _names = ("odd", "even")

    def _visualize(self, obj, **kwargs):
        """Show the halves, and, where one was found, the fixed pattern of all micrographs."""
        plots = super()._visualize(obj, **kwargs)
        if os.path.exists(obj._getExtraPath(PATTERN_PICTURE_NAME)):
            from cryoden.quality.figures import plot_fixed_pattern

            plotter = EmPlotter(windowTitle="fixed pattern", figsize=(12, 5.6))
            plot_fixed_pattern(plotter.getFigure(), obj._getExtraPath(PATTERN_NAME))
            plots.append(plotter)
        return plots

    def _pairsOf(self, protocol):
        full = getattr(protocol, "outputMicrographs", None)
        return [(micNameKey(mic), *linkedHalves(mic)) for mic in clonedItems(full)] if full is not None else []


class CryodenDenoiseViewer(_PairViewer):
    """Raw and denoised micrograph, matched by name, at the denoiser's pixel size."""

    _label = "raw and denoised"
    _targets = [CryodenProtDenoise]
    _names = ("raw", "denoised")

    def _pairsOf(self, protocol):
        denoised = getattr(protocol, "outputMicrographs", None)
        if denoised is None:
            return []
        raw = {micNameKey(mic): mic.getFileName() for mic in protocol.inputMicrographs.get()}
        return [(name, raw[name], mic.getFileName()) for mic in clonedItems(denoised) for name in [micNameKey(mic)]]


class _Browser:
    """One figure that shows one pair at a time."""

    def __init__(self, figure, pairs, names):
        self._figure, self._pairs, self._names, self._current = figure, pairs, names, 0
        self._draw()

    def _draw(self):
        from cryoden.quality.figures import plot_files

        title, first, second = self._pairs[self._current]
        self._figure.clear()
        plot_files(self._figure, first, second, self._names, f"{title}   ({self._current + 1} of {len(self._pairs)})")
        self._buttons = []
        for left, label, step in ((0.005, "< previous", -1), (0.915, "next >", 1)):
            button = Button(self._figure.add_axes((left, 0.955, 0.08, 0.04)), label)
            button.on_clicked(lambda event, step=step: self._move(step))
            self._buttons.append(button)
        self._figure.canvas.draw_idle()

    def _move(self, step):
        self._current = (self._current + step) % len(self._pairs)
        self._draw()
