"""Look at the data from the training's form: crops of both halves, their sum and difference, and histograms."""

from __future__ import annotations

import tempfile
from typing import Any, List, Tuple

from pwem.viewers import EmPlotter
from pyworkflow.viewer import DESKTOP_TKINTER
from pyworkflow.wizard import Wizard

from cryoden.errors import CryodenError
from cryoden_scipion.protocols import CryodenProtTrain
from cryoden_scipion.protocols.halves_input import EVEN_STAR, ODD_STAR
from cryoden_scipion.viewers.plotting import newPlotter, waiting

N_MICROGRAPHS = 3


class CryodenLookAtDataWizard(Wizard):
    """Draw a contact sheet of what the form has selected, before hours are spent on it."""

    _targets = [(CryodenProtTrain, ["lookAtData"])]
    _environments = [DESKTOP_TKINTER]

    def show(self, form: Any, *params: Any) -> None:
        """Check the input as the run would, and show the sheet; problems are said in a box."""
        problems = form.protocol._validateHalves()
        if problems:
            form.showError("\n".join(problems))
            return

        try:
            with waiting(form.root):
                plotter, warnings = self.plot(form.protocol)
        except CryodenError as error:
            form.showError(form.protocol._errorText(error))
            return
        plotter.show()
        if warnings:
            form.showWarning("\n".join(warnings))

    @staticmethod
    def plot(protocol: CryodenProtTrain) -> Tuple[EmPlotter, List[str]]:
        """Return the plotter with the contact sheet of a training's input, and what is suspicious in all of it.

        Raises
        ------
        CryodenError
            If no micrograph can be shown.
        """
        from cryoden.config import ShowConfig
        from cryoden.report.contact_sheet import pick_crops, plot_crops

        with tempfile.TemporaryDirectory() as folder:
            protocol._writeHalvesStars(folder)
            config = ShowConfig(
                odd=f"{folder}/{ODD_STAR}", even=f"{folder}/{EVEN_STAR}", output=folder, micrographs=N_MICROGRAPHS,
                sampling_rate=protocol._numberOrWord(ShowConfig, "sampling_rate"),
            )  # fmt: skip
            crops, outcome = pick_crops(config)
        plotter = newPlotter(protocol, "look at the data", (15, 9.3))
        plot_crops(plotter.getFigure(), crops)
        return plotter, [warning.text(protocol._words) for warning in outcome.warnings]
