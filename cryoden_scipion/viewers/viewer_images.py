"""Two images of every micrograph side by side, with their difference and power spectra; browse with the buttons."""

import os
from functools import partial

from matplotlib.widgets import Button
from pyworkflow.viewer import DESKTOP_TKINTER, Viewer

from cryoden.config import DenoiseConfig
from cryoden.formats import outputs
from cryoden_scipion.convert import itemsOfFile, linkedHalves, micNameKey
from cryoden_scipion.protocols import CryodenProtDenoise, CryodenProtSplitHalves
from cryoden_scipion.viewers.plotting import newPlotter


class _PairViewer(Viewer):
    """Base: draws one pair of image files and steps through the list with buttons and arrow keys."""

    _environments = [DESKTOP_TKINTER]
    _names = ("", "")

    def _pairsOf(self, protocol):
        """Return (title, first file, second file) of every micrograph that is there now."""
        raise NotImplementedError

    def _isOtherScale(self, protocol):
        """Return whether the second images have another grey scale than the first."""
        return False

    def _visualize(self, obj, **kwargs):
        if not self._pairsOf(obj):
            return [self.infoMessage("The protocol has no output yet.", "Nothing to show yet")]
        plotter = newPlotter(self._label, (15, 9.5))
        plotter.browser = _Browser(  # kept, or its buttons would be collected
            plotter.getFigure(), partial(self._pairsOf, obj), self._names, self._isOtherScale(obj)
        )
        return [plotter]


class CryodenHalvesViewer(_PairViewer):
    """Odd and even half of every micrograph: the same specimen, independent noise."""

    _label = "halves"
    _targets = [CryodenProtSplitHalves]
    _names = ("odd", "even")

    def _visualize(self, obj, **kwargs):
        """Show the halves, and, where one was found, the fixed pattern of all micrographs."""
        plots = super()._visualize(obj, **kwargs)
        if os.path.exists(obj._getExtraPath(outputs.PATTERN_PICTURE)):
            from cryoden.report.figures import plot_fixed_pattern

            plotter = newPlotter("fixed pattern", (12, 5.6))
            plot_fixed_pattern(plotter.getFigure(), obj._getExtraPath(outputs.PATTERN))
            plots.append(plotter)
        return plots

    def _pairsOf(self, protocol):
        full = getattr(protocol, "outputMicrographs", None)
        return (
            [(micNameKey(mic), *linkedHalves(mic)) for mic in itemsOfFile(full.getFileName())]
            if full is not None
            else []
        )


class CryodenDenoiseViewer(_PairViewer):
    """Raw and denoised micrograph, matched by name, at the denoiser's pixel size."""

    _label = "raw and denoised"
    _targets = [CryodenProtDenoise]
    _names = ("raw", "denoised")

    def _pairsOf(self, protocol):
        denoised = getattr(protocol, "outputMicrographs", None)
        if denoised is None:
            return []
        raw = {micNameKey(mic): mic.getFileName() for mic in itemsOfFile(protocol.inputMicrographs.get().getFileName())}
        pairs = [(micNameKey(mic), mic.getFileName()) for mic in itemsOfFile(denoised.getFileName())]
        return [(name, raw[name], file) for name, file in pairs if name in raw]

    def _isOtherScale(self, protocol):
        return DenoiseConfig.choices_of("scale")[protocol.scale.get()] != "input"


class _Browser:
    """One figure that shows one pair at a time; what came meanwhile is there at the next step."""

    KEYS = {"left": -1, "right": 1}

    def __init__(self, figure, listPairs, names, isOtherScale):
        self._figure, self._listPairs, self._names, self._isOtherScale = figure, listPairs, names, isOtherScale
        self._current = 0
        figure.canvas.mpl_connect("key_press_event", lambda event: self._move(self.KEYS.get(event.key, 0)))
        self._draw()

    def _draw(self):
        from cryoden.errors import CryodenError
        from cryoden.report.figures import plot_files

        pairs = self._listPairs()
        self._current %= len(pairs)
        title, first, second = pairs[self._current]
        title = f"{title}   ({self._current + 1} of {len(pairs)})"
        self._figure.clear()
        try:
            plot_files(self._figure, first, second, self._names, title, self._isOtherScale)
        except CryodenError as error:  # one bad file must not end the browsing
            self._figure.clear()
            self._figure.text(0.5, 0.5, f"{title}\n{error}", ha="center", wrap=True)
        self._buttons = []
        for left, label, step in ((0.005, "< previous", -1), (0.915, "next >", 1)):
            button = Button(self._figure.add_axes((left, 0.955, 0.08, 0.04)), label)
            button.on_clicked(lambda event, step=step: self._move(step))
            self._buttons.append(button)
        self._figure.canvas.draw_idle()

    def _move(self, step):
        if step:
            self._current += step
            self._draw()
