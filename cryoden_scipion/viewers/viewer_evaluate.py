"""The plots of an evaluation, one click each, and its report in the browser."""

from __future__ import annotations

import os
import webbrowser
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Tuple

from pwem.viewers import EmPlotter
from pyworkflow.protocol.params import EnumParam, Form, LabelParam
from pyworkflow.viewer import DESKTOP_TKINTER, ProtocolViewer

from cryoden.formats import outputs
from cryoden.report import pictures
from cryoden_scipion.protocols import CryodenProtChoose, CryodenProtEvaluate
from cryoden_scipion.viewers.plotting import newPlotter, waiting

if TYPE_CHECKING:
    from cryoden.report.evaluation_table import Row

OVERALL = {picture.name: picture for picture in pictures.OVERALL}
EXAMPLES = {f"one_{picture.name}": picture for picture in pictures.EXAMPLES}
"""Field of the form: the picture that it draws, of all micrographs or of one."""


class CryodenEvaluateViewer(ProtocolViewer):
    """A form with a button for each plot."""

    _label = "evaluation"
    _targets = [CryodenProtEvaluate]
    _environments = [DESKTOP_TKINTER]

    def _defineParams(self, form: Form) -> None:
        form.addSection(label="Evaluation")
        self._defineFirst(form)
        if not os.path.exists(self.protocol.evaluationPath(outputs.METRICS)):
            return

        group = form.addGroup("All micrographs")
        for name, picture in OVERALL.items():
            group.addParam(name, LabelParam, label=picture.label)

        group = form.addGroup("One micrograph")
        group.addParam(
            "micrograph", EnumParam, choices=self._micrographs(), default=0, label="Micrograph (best first)",
            help="Sorted by the R2 of the first denoiser.",
        )  # fmt: skip
        group.addParam(
            "denoiser", EnumParam, choices=[row.label for row in self._rows()],
            default=[row.key for row in self._rows()].index(self.protocol.table().leader),
            label="Denoiser", help="Its results, difference and residual are drawn.",
        )  # fmt: skip
        for name, picture in EXAMPLES.items():
            if not picture.is_of_truth or self.protocol.hasTruth():
                group.addParam(name, LabelParam, label=picture.label)

        networks = [label for label, _ in self._networks()]
        if networks:
            group = form.addGroup("Inside the network")
            group.addParam("network", EnumParam, choices=networks, default=0, label="Network")
            group.addParam("inside", LabelParam, label="Weights, activations, receptive field")

    def _defineFirst(self, form: Form) -> None:
        """Add what stands above the groups of plots."""
        form.addParam("report", LabelParam, label="Report in the browser")

    def _getVisualizeDict(self) -> Dict[str, Callable[[str], List[Any]]]:
        plots = dict.fromkeys(OVERALL, self._plotOverall)
        plots.update(dict.fromkeys(EXAMPLES, self._plotExample))
        return {**plots, "report": self._openReport, "inside": self._plotInside}

    # --------------------------- the buttons ----------------------------------
    def _openReport(self, name: str) -> List[Any]:
        path = os.path.abspath(self.protocol.evaluationPath(outputs.REPORT))
        if not os.path.exists(path):
            return [self.infoMessage("The evaluation has not finished.", "Nothing to show yet")]
        if not webbrowser.open_new_tab(f"file://{path}"):
            return [self.infoMessage(f"No browser could be started. Open this file: {path}", "Report")]
        return []

    def _plotOverall(self, name: str) -> List[EmPlotter]:
        return self._draw(OVERALL[name], OVERALL[name].label)

    def _plotExample(self, name: str) -> List[EmPlotter]:
        picture, words = EXAMPLES[name], [self._micrographs()[self.micrograph.get()]]
        if picture.is_of_one_denoiser:
            words.append(self._rows()[self.denoiser.get()].key)
        return self._draw(picture, f"{picture.label}: {words[0]}", *words)

    def _plotInside(self, name: str) -> List[EmPlotter]:
        from cryoden.report.inspection_figures import plot_inside, read_inside

        label, path = self._networks()[self.network.get()]
        plotter = newPlotter(self.protocol, f"inside {label}", pictures.INSIDE_INCHES)
        with waiting(self.getTkRoot()):
            plot_inside(plotter.getFigure(), read_inside(path), label)
        return [plotter]

    def _draw(self, picture: pictures.Picture, title: str, *words: str) -> List[EmPlotter]:
        from cryoden.report.evaluation_result import read_evaluation

        with waiting(self.getTkRoot()):
            evaluated = read_evaluation(self.protocol.evaluationPath())
            n_images = len(evaluated.rows()) + int(self.protocol.hasTruth())
            plotter = newPlotter(self.protocol, title, picture.size(len(evaluated.table.order), n_images))
            picture.draw(plotter.getFigure(), evaluated, *words)
        return [plotter]

    # --------------------------- what there is to draw ------------------------
    def _micrographs(self) -> List[str]:
        return self.protocol.table().order

    def _rows(self) -> List[Row]:
        return self.protocol.table().rows

    def _networks(self) -> List[Tuple[str, str]]:
        """Return label and file of every network of which the inside was saved."""
        extra = self.protocol.evaluationPath
        files = [(row.label, extra(outputs.inspection_of(row.key))) for row in self._rows()]
        return [(label, file) for label, file in files if os.path.exists(file)]


class CryodenChooseViewer(CryodenEvaluateViewer):
    """The candidates of an election, and the plots of the evaluation by which it was decided."""

    _label = "election"
    _targets = [CryodenProtChoose]

    def _defineFirst(self, form: Form) -> None:
        super()._defineFirst(form)
        if self.protocol.hasElection():
            form.addParam("candidates", LabelParam, label="All candidates")

    def _getVisualizeDict(self) -> Dict[str, Callable[[str], List[Any]]]:
        return {**super()._getVisualizeDict(), "candidates": self._plotCandidates}

    def _plotCandidates(self, name: str) -> List[EmPlotter]:
        from cryoden.report.election_figures import ELECTION_INCHES, plot_election

        plotter = newPlotter(self.protocol, "candidates", ELECTION_INCHES)
        with waiting(self.getTkRoot()):
            plot_election(plotter.getFigure(), self.protocol.election(), self.protocol._words)
        return [plotter]
