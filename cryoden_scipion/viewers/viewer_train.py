"""Curves of a training, live while it runs."""

import os

from pwem.viewers import EmPlotter
from pyworkflow.viewer import DESKTOP_TKINTER, Viewer

from cryoden.errors import CryodenError
from cryoden_scipion.objects import CryodenModel
from cryoden_scipion.protocols import CryodenProtTrain
from cryoden_scipion.protocols.protocol_train import LOG_NAME

REFRESH_MILLISECONDS = 3000


class CryodenTrainViewer(Viewer):
    """Loss and held-out R2 of every epoch so far; the window follows a running training."""

    _label = "training curves"
    _targets = [CryodenProtTrain, CryodenModel]
    _environments = [DESKTOP_TKINTER]

    def _visualize(self, obj, **kwargs):
        from cryoden.quality.figures import plot_curves, read_log

        folder = os.path.dirname(obj.getFileName()) if isinstance(obj, CryodenModel) else obj._getExtraPath()
        log = os.path.join(folder, LOG_NAME)
        try:
            records = read_log(log)
        except CryodenError:
            return [self.infoMessage("The curves can be drawn when the first epoch has ended.", "No curves yet")]
        plotter = EmPlotter(windowTitle="Training curves", figsize=(11, 5))
        figure = plotter.getFigure()
        plot_curves(figure, records)

        def refresh():
            fresh = read_log(log)
            if len(fresh) > len(records):
                records[:] = fresh
                figure.clear()
                plot_curves(figure, records)
                figure.canvas.draw_idle()

        plotter.timer = figure.canvas.new_timer(interval=REFRESH_MILLISECONDS)  # kept, or it would be collected
        plotter.timer.add_callback(refresh)
        plotter.timer.start()
        return [plotter]
