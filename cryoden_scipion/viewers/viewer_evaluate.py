"""The plots of an evaluation, one click each, and its report in the browser."""

from __future__ import annotations

import os
import webbrowser
from typing import Any, Callable, Dict, List, Tuple

from pwem.viewers import EmPlotter
from pyworkflow.protocol.params import EnumParam, Form, LabelParam
from pyworkflow.viewer import DESKTOP_TKINTER, ProtocolViewer

from cryoden.formats import outputs
from cryoden_scipion.protocols import CryodenProtEvaluate
from cryoden_scipion.viewers.plotting import newPlotter

OVERALL = {
    "scores": ("Scores of all denoisers", "plot_scores", (12, 4.6)),
    "fidelity": ("Fidelity per ring, with the ceiling", "plot_fidelity", (12, 5)),
    "histogram": ("R2 of every micrograph", "plot_micrograph_scores", (11, 6)),
    "residual": ("Residual against the noise", "plot_residual", (12, 5)),
    "spectra": ("Power spectra", "plot_spectra", (12, 5)),
}
EXAMPLES = {
    "sideBySide": ("Every denoiser side by side", "plot_side_by_side", (14, 9.3)),
    "difference": ("Difference, residual, whiteness", "plot_micrograph", (16, 8)),
    "truth": ("What was invented and deleted", "plot_truth", (16, 4.6)),
}
"""Field of the form: label, function of `cryoden.report.evaluation_figures`, inches."""


class CryodenEvaluateViewer(ProtocolViewer):
    """A form with a button for each plot."""

    _label = "evaluation"
    _targets = [CryodenProtEvaluate]
    _environments = [DESKTOP_TKINTER]

    def _defineParams(self, form: Form) -> None:
        form.addSection(label="Evaluation")
        form.addParam("report", LabelParam, label="Whole report in the browser")
        if not os.path.exists(self.protocol._getExtraPath(outputs.METRICS)):
            return

        group = form.addGroup("All micrographs")
        for name, (label, _, _) in OVERALL.items():
            group.addParam(name, LabelParam, label=label)

        group = form.addGroup("One micrograph")
        group.addParam(
            "micrograph", EnumParam, choices=self._micrographs(), default=0, label="Micrograph, best first",
            help="Sorted by R2 of the first denoiser.",
        )  # fmt: skip
        group.addParam(
            "denoiser", EnumParam, choices=[row["label"] for row in self._rows()],
            default=[row["key"] for row in self._rows()].index(self.protocol.table()["leader"]),
            label="Denoiser", help="Of which the difference and the residual are drawn.",
        )  # fmt: skip
        for name, (label, _, _) in EXAMPLES.items():
            if name != "truth" or self.protocol.inputTruth.get() is not None:
                group.addParam(name, LabelParam, label=label)

        networks = [label for label, _ in self._networks()]
        if networks:
            group = form.addGroup("Inside the network")
            group.addParam("network", EnumParam, choices=networks, default=0, label="Network")
            group.addParam("inside", LabelParam, label="Weights, activations, receptive field")

    def _getVisualizeDict(self) -> Dict[str, Callable[[str], List[Any]]]:
        plots = dict.fromkeys(OVERALL, self._plotOverall)
        plots.update(dict.fromkeys(EXAMPLES, self._plotExample))
        return {**plots, "report": self._openReport, "inside": self._plotInside}

    # --------------------------- the buttons ----------------------------------
    def _openReport(self, name: str) -> List[Any]:
        path = os.path.abspath(self.protocol._getExtraPath(outputs.REPORT))
        if not os.path.exists(path):
            return [self.infoMessage("The evaluation has not finished.", "Nothing to show yet")]
        if not webbrowser.open_new_tab(f"file://{path}"):
            return [self.infoMessage(f"No browser could be started. Open this file: {path}", "Report")]
        return []

    def _plotOverall(self, name: str) -> List[EmPlotter]:
        label, function, size = OVERALL[name]
        return self._draw(label, function, size)

    def _plotExample(self, name: str) -> List[EmPlotter]:
        label, function, size = EXAMPLES[name]
        words = [self._micrographs()[self.micrograph.get()]]
        if name == "difference":
            words.append(self._rows()[self.denoiser.get()]["key"])
        return self._draw(f"{label}: {words[0]}", function, size, *words)

    def _plotInside(self, name: str) -> List[EmPlotter]:
        from cryoden.report.inspection_figures import plot_inside, read_inside

        label, path = self._networks()[self.network.get()]
        plotter = newPlotter(label, (15, 8.5))
        plot_inside(plotter.getFigure(), read_inside(path), label)
        return [plotter]

    def _draw(self, title: str, function: str, size: Tuple[float, float], *words: str) -> List[EmPlotter]:
        from cryoden.report import evaluation_figures
        from cryoden.report.evaluation_result import read_evaluation

        plotter = newPlotter(title, size)
        evaluated = read_evaluation(self.protocol._getExtraPath())
        getattr(evaluation_figures, function)(plotter.getFigure(), evaluated, *words)
        return [plotter]

    # --------------------------- what there is to draw ------------------------
    def _micrographs(self) -> List[str]:
        return self.protocol.table()["order"]

    def _rows(self) -> List[Dict[str, Any]]:
        return [row for row in self.protocol.table()["rows"] if row["bands"]]

    def _networks(self) -> List[Tuple[str, str]]:
        """Return label and file of every network of which the inside was saved."""
        extra = self.protocol._getExtraPath
        files = [(row["label"], extra(outputs.inspection_of(row["key"]))) for row in self._rows()]
        return [(label, file) for label, file in files if os.path.exists(file)]
