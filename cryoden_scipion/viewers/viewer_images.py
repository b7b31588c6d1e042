"""Two images of every micrograph side by side, with their difference and power spectra; browse with the buttons."""

from __future__ import annotations

import os
from functools import partial
from typing import Any, Callable, List, Tuple

from matplotlib.figure import Figure
from matplotlib.widgets import Button
from pyworkflow.protocol import Protocol
from pyworkflow.viewer import DESKTOP_TKINTER, Viewer

from cryoden.config import DenoiseConfig
from cryoden.errors import CryodenError
from cryoden.formats import outputs
from cryoden_scipion.convert import itemsOfFile, linkedHalves, micNameKey
from cryoden_scipion.protocols import CryodenProtDenoise, CryodenProtImportHalves, CryodenProtSplitHalves
from cryoden_scipion.protocols.protocol_split_halves import OUTPUT_EVEN, OUTPUT_FULL, OUTPUT_ODD
from cryoden_scipion.viewers.plotting import newPlotter, waiting

ImagePair = Tuple[str, str, str]
"""Title, first file, second file."""


class _PairViewer(Viewer):
    """Base: draws one pair of image files and steps through the list with buttons and arrow keys."""

    _environments = [DESKTOP_TKINTER]
    _names = ("", "")

    def _pairsOf(self, protocol: Protocol) -> List[ImagePair]:
        """Return the pair of every micrograph that is there now."""
        raise NotImplementedError

    def _isOtherScale(self, protocol: Protocol) -> bool:
        """Return whether the second images have another grey scale than the first."""
        return False

    def _visualize(self, obj: Protocol, **kwargs: Any) -> List[Any]:
        if not self._pairsOf(obj):
            return [self.infoMessage("The protocol has no output yet.", "Nothing to show yet")]
        plotter = newPlotter(obj, self._label, (15, 9.5))
        with waiting(self.getTkRoot()):
            plotter.browser = _Browser(  # kept, or its buttons would be collected
                plotter.getFigure(), partial(self._pairsOf, obj), self._names, self._isOtherScale(obj), obj._errorText
            )
        return [plotter]


class CryodenHalvesViewer(_PairViewer):
    """Odd and even half of every micrograph: the same specimen, independent noise."""

    _label = "halves"
    _targets = [CryodenProtSplitHalves, CryodenProtImportHalves]
    _names = ("odd", "even")

    def _visualize(self, obj: Protocol, **kwargs: Any) -> List[Any]:
        """Show the halves, and, where one was found, the fixed pattern of all micrographs."""
        plots = super()._visualize(obj, **kwargs)
        if os.path.exists(obj._getExtraPath(outputs.PATTERN_PICTURE)):
            from cryoden.report.figures import plot_fixed_pattern

            plotter = newPlotter(obj, "fixed pattern", (12, 5.6))
            plot_fixed_pattern(plotter.getFigure(), obj._getExtraPath(outputs.PATTERN))
            plots.append(plotter)
        return plots

    def _pairsOf(self, protocol: Protocol) -> List[ImagePair]:
        full = getattr(protocol, OUTPUT_FULL, None)
        if full is None:  # imported halves may lack full sums
            return self._pairsOfTwoSets(protocol)

        pairs = []
        for micrograph in itemsOfFile(full.getFileName()):
            odd, even = linkedHalves(micrograph) or ("", "")
            pairs.append((micNameKey(micrograph), odd, even))
        return pairs

    @staticmethod
    def _pairsOfTwoSets(protocol: Protocol) -> List[ImagePair]:
        sets = [getattr(protocol, name) for name in (OUTPUT_ODD, OUTPUT_EVEN) if protocol.hasAttribute(name)]
        if len(sets) < 2:
            return []
        odd, even = ({micNameKey(mic): mic.getFileName() for mic in itemsOfFile(half.getFileName())} for half in sets)
        return [(name, file, even[name]) for name, file in odd.items() if name in even]


class CryodenDenoiseViewer(_PairViewer):
    """Raw and denoised micrograph, matched by name, at the denoiser's pixel size."""

    _label = "raw and denoised"
    _targets = [CryodenProtDenoise]
    _names = ("raw", "denoised")

    def _pairsOf(self, protocol: CryodenProtDenoise) -> List[ImagePair]:
        denoised = getattr(protocol, "outputMicrographs", None)
        if denoised is None:
            return []

        raw = {micNameKey(mic): mic.getFileName() for mic in itemsOfFile(protocol.inputMicrographs.get().getFileName())}
        pairs = [(micNameKey(mic), mic.getFileName()) for mic in itemsOfFile(denoised.getFileName())]
        return [(name, raw[name], file) for name, file in pairs if name in raw]

    def _isOtherScale(self, protocol: CryodenProtDenoise) -> bool:
        return DenoiseConfig.choices_of("scale")[protocol.scale.get()] != "input"


class _Browser:
    """One figure that shows one pair at a time; what came meanwhile is there at the next step.

    Parameters
    ----------
    figure
        Drawn on again and again.
    listPairs
        Returns the pairs of this moment.
    names
        Of the first and the second image.
    isOtherScale
        Whether the second images have another grey scale than the first.
    errorText
        Returns an error in the form's words.
    """

    KEYS = {"left": -1, "right": 1}

    def __init__(
        self,
        figure: Figure,
        listPairs: Callable[[], List[ImagePair]],
        names: Tuple[str, str],
        isOtherScale: bool,
        errorText: Callable[[CryodenError], str],
    ) -> None:
        self._figure = figure
        self._listPairs = listPairs
        self._names = names
        self._isOtherScale = isOtherScale
        self._errorText = errorText
        self._current = 0
        figure.canvas.mpl_connect("key_press_event", self._onKey)
        self._draw()

    def _draw(self) -> None:
        with waiting(getattr(self._figure.canvas.manager, "window", None)):  # only Tk has one
            self._drawPair()

    def _drawPair(self) -> None:
        from cryoden.report.figures import plot_files

        pairs = self._listPairs()
        self._current %= len(pairs)
        title, first, second = pairs[self._current]
        title = f"{title}   ({self._current + 1} of {len(pairs)}; arrow keys: previous, next)"

        self._figure.clear()
        try:
            plot_files(self._figure, first, second, self._names, title, self._isOtherScale)
        except CryodenError as error:  # one bad file must not end the browsing
            self._figure.clear()
            self._figure.text(0.5, 0.5, f"{title}\n{self._errorText(error)}", ha="center", wrap=True)

        self._buttons = []
        for left, label, step in ((0.005, "\N{LEFTWARDS ARROW} previous", -1), (0.085, "next \N{RIGHTWARDS ARROW}", 1)):
            button = Button(self._figure.add_axes((left, 0.96, 0.075, 0.035)), label)
            button.on_clicked(partial(self._onButton, step))
            self._buttons.append(button)
        self._figure.canvas.draw_idle()

    def _onKey(self, event: Any) -> None:
        self._move(self.KEYS.get(event.key, 0))

    def _onButton(self, step: int, event: Any) -> None:
        self._move(step)

    def _move(self, step: int) -> None:
        if step:
            self._current += step
            self._draw()
