"""Two images of every micrograph side by side, with their difference and power spectra; browse with the buttons."""

from __future__ import annotations

import os
from functools import partial
from typing import Any, List

from pyworkflow.protocol import Protocol
from pyworkflow.viewer import DESKTOP_TKINTER, Viewer

from cryoden.config import DenoiseConfig
from cryoden.formats import outputs
from cryoden_scipion.convert import itemsOfFile, linkedHalves, micNameKey
from cryoden_scipion.protocols import CryodenProtDenoise, CryodenProtImportHalves, CryodenProtSplitHalves
from cryoden_scipion.protocols.protocol_split_halves import OUTPUT_EVEN, OUTPUT_FULL, OUTPUT_ODD
from cryoden_scipion.viewers.browsing import ImagePair, MotionBrowser, PairBrowser
from cryoden_scipion.viewers.plotting import newPlotter, waiting


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
            plotter.browser = PairBrowser(  # kept, or its buttons would be collected
                plotter.getFigure(), partial(self._pairsOf, obj), self._names, self._isOtherScale(obj), obj._errorText
            )
        return [plotter]


class CryodenHalvesViewer(_PairViewer):
    """Odd and even half of every micrograph: the same specimen, independent noise."""

    _label = "halves"
    _targets = [CryodenProtSplitHalves, CryodenProtImportHalves]
    _names = ("odd", "even")

    def _visualize(self, obj: Protocol, **kwargs: Any) -> List[Any]:
        """Show the halves; where movies were aligned, their motion; where one was found, the fixed pattern of all."""
        from cryoden.report.alignment_table import read_alignments

        plots = super()._visualize(obj, **kwargs)
        if read_alignments(obj._getExtraPath()):
            from cryoden.report.motion_figures import MOTION_INCHES

            plotter = newPlotter(obj, "motion, the worst movie first", MOTION_INCHES)
            with waiting(self.getTkRoot()):
                plotter.browser = MotionBrowser(plotter.getFigure(), obj)
            plots.append(plotter)
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
