"""Curves of a training, live while it runs, and what its best model makes of held-out micrographs."""

from __future__ import annotations

import os
from typing import Any, List, Union

from pyworkflow.viewer import DESKTOP_TKINTER, Viewer

from cryoden.errors import CryodenError
from cryoden.formats import outputs
from cryoden_scipion.objects import CryodenModel
from cryoden_scipion.protocols import CryodenProtTrain
from cryoden_scipion.viewers.plotting import newPlotter, waiting

REFRESH_MILLISECONDS = 3000


class CryodenTrainViewer(Viewer):
    """Losses, R2 (all and each held-out micrograph) and samples of the best epoch; follows a running training."""

    _label = "training curves"
    _targets = [CryodenProtTrain, CryodenModel]
    _environments = [DESKTOP_TKINTER]

    def _visualize(self, obj: Union[CryodenProtTrain, CryodenModel], **kwargs: Any) -> List[Any]:
        from cryoden.formats.training_folder import read_log
        from cryoden.report.training_figures import plot_training

        folder = os.path.dirname(obj.getFileName()) if isinstance(obj, CryodenModel) else obj._getExtraPath()
        log = os.path.join(folder, outputs.LOG)
        try:
            records = read_log(log)
        except CryodenError:
            return [self.infoMessage("The curves can be drawn when the first epoch has ended.", "No curves yet")]

        run = self._project.getProtocol(obj.getObjParentId()) if isinstance(obj, CryodenModel) else obj
        plotter = newPlotter(run, "training curves", (13, 8.5))
        figure = plotter.getFigure()
        with waiting(self.getTkRoot()):
            plot_training(figure, records, folder)

        def refresh() -> None:
            fresh = read_log(log)
            if len(fresh) > len(records):
                records[:] = fresh
                figure.clear()
                plot_training(figure, records, folder)
                figure.canvas.draw_idle()

        plotter.timer = figure.canvas.new_timer(interval=REFRESH_MILLISECONDS)  # kept, or it would be collected
        plotter.timer.add_callback(refresh)
        plotter.timer.start()
        return [plotter]
