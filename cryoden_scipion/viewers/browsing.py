"""Figures that show one item of a list at a time: buttons and arrow keys go through it."""

from __future__ import annotations

import os
import webbrowser
from functools import partial
from typing import Any, Callable, Dict, Generic, List, Tuple, TypeVar

from matplotlib.figure import Figure
from matplotlib.widgets import Button
from pyworkflow.protocol import Protocol

from cryoden.errors import CryodenError
from cryoden.formats import outputs
from cryoden.report.alignment_table import AlignedMovie, read_alignments
from cryoden_scipion.viewers.plotting import waiting

Item = TypeVar("Item")

ImagePair = Tuple[str, str, str]
"""Title, first file, second file."""

BUTTON_INCHES = (1.2, 0.33)


class Browser(Generic[Item]):
    """One figure that shows one item at a time; what came meanwhile is there at the next step.

    Parameters
    ----------
    figure
        Drawn on again and again.
    listItems
        Returns the items of this moment; at least one.
    errorText
        Returns an error in the form's words.
    """

    KEYS = {"left": -1, "right": 1}

    def __init__(
        self, figure: Figure, listItems: Callable[[], List[Item]], errorText: Callable[[CryodenError], str]
    ) -> None:
        self._figure = figure
        self._listItems = listItems
        self._errorText = errorText
        self._current = 0
        figure.canvas.mpl_connect("key_press_event", self._onKey)
        self._draw()

    def _titleOf(self, item: Item) -> str:
        """Return what an item is called."""
        raise NotImplementedError

    def _plot(self, item: Item, title: str) -> None:
        """Draw an item into the empty figure; raises CryodenError where it cannot be read."""
        raise NotImplementedError

    def _buttonActions(self) -> Dict[str, Callable[[Any], None]]:
        """Return what the buttons say and do."""
        return {
            "\N{LEFTWARDS ARROW} previous": partial(self._onButton, -1),
            "next \N{RIGHTWARDS ARROW}": partial(self._onButton, 1),
        }

    def _draw(self) -> None:
        with waiting(getattr(self._figure.canvas.manager, "window", None)):  # only Tk has one
            self._drawItem()

    def _drawItem(self) -> None:
        items = self._listItems()
        self._current %= len(items)
        item = items[self._current]
        title = f"{self._titleOf(item)}   ({self._current + 1} of {len(items)}; arrow keys: previous, next)"

        self._figure.clear()
        try:
            self._plot(item, title)
        except CryodenError as error:  # one bad file must not end the browsing
            self._figure.clear()
            self._figure.text(0.5, 0.5, f"{title}\n{self._errorText(error)}", ha="center", wrap=True)

        width, height = (side / whole for side, whole in zip(BUTTON_INCHES, self._figure.get_size_inches()))
        self._buttons = []  # kept, or they would be collected
        for number, (label, action) in enumerate(self._buttonActions().items()):
            place = (0.005 + 1.06 * number * width, 1 - 1.12 * height, width, height)
            button = Button(self._figure.add_axes(place), label)
            button.on_clicked(action)
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


class PairBrowser(Browser[ImagePair]):
    """Two images of each micrograph side by side.

    Parameters
    ----------
    figure, listPairs, errorText
        As in `Browser`.
    names
        Of the first and the second image.
    isOtherScale
        Whether the second images have another grey scale than the first.
    """

    def __init__(
        self,
        figure: Figure,
        listPairs: Callable[[], List[ImagePair]],
        names: Tuple[str, str],
        isOtherScale: bool,
        errorText: Callable[[CryodenError], str],
    ) -> None:
        self._names = names
        self._isOtherScale = isOtherScale
        super().__init__(figure, listPairs, errorText)

    def _titleOf(self, item: ImagePair) -> str:
        return item[0]

    def _plot(self, item: ImagePair, title: str) -> None:
        from cryoden.report.figures import plot_files

        plot_files(self._figure, item[1], item[2], self._names, title, self._isOtherScale)


class MotionBrowser(Browser[AlignedMovie]):
    """How the specimen of each movie moved, the worst first; the report about all of them is one click away.

    Parameters
    ----------
    figure
        As in `Browser`.
    protocol
        That aligned at least one movie.
    """

    def __init__(self, figure: Figure, protocol: Protocol) -> None:
        self._folder = protocol._getExtraPath()
        super().__init__(figure, partial(read_alignments, self._folder), protocol._errorText)

    def _titleOf(self, item: AlignedMovie) -> str:
        return item.name

    def _plot(self, item: AlignedMovie, title: str) -> None:
        from cryoden.report.motion_figures import plot_motion

        plot_motion(self._figure, self._folder, item, f"{title}\n")  # room for the buttons

    def _buttonActions(self) -> Dict[str, Callable[[Any], None]]:
        report = os.path.abspath(os.path.join(self._folder, outputs.MOTION_REPORT))
        if not os.path.exists(report):  # the first round has not ended
            return super()._buttonActions()
        return {**super()._buttonActions(), "all movies": partial(self._openReport, report)}

    def _openReport(self, path: str, event: Any) -> None:
        if not webbrowser.open_new_tab(f"file://{path}"):
            self._figure.text(0.5, 0.01, f"No browser could be started. Open this file: {path}", ha="center")
            self._figure.canvas.draw_idle()
