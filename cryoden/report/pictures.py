"""The pictures of an evaluation: in which order, of what size, and what they show. A report and a viewer draw the same.

What draws them is named, not imported: Scipion's window reads this list when it starts.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, List, Tuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_BARS = 30
"""Micrographs that are drawn as named bars; more become a histogram."""

PER_ROW = 3
"""Images side by side."""

TILE_INCHES = (5.6, 5.2)
"""Width and height of the pictures that a report puts two by two."""


@dataclass(frozen=True)
class Picture:
    """A picture of all micrographs, or of one of them.

    Attributes
    ----------
    name
        Of its file in a report; that of one micrograph has the word before it for which it was chosen.
    label
        On a button.
    caption
        In a report.
    function
        In `cryoden.report.evaluation_figures`.
    size_inches
        Width and height.
    inches_per_micrograph, inches_per_row_of_images
        By how much more height it needs for every scored micrograph that has a bar of its own, and for every
        `PER_ROW` images.
    is_of_truth
        Whether the clean image must be known.
    is_of_one_denoiser
        Whether it shows what one denoiser does, of which the key may be said.
    """

    name: str
    label: str
    caption: str
    function: str
    size_inches: Tuple[float, float]
    inches_per_micrograph: float = 0.0
    inches_per_row_of_images: float = 0.0
    is_of_truth: bool = False
    is_of_one_denoiser: bool = False

    def file_name(self, word: str = "") -> str:
        """Return what its file in a report is called; `word` of one micrograph."""
        return f"{word}_{self.name}.png" if word else f"{self.name}.png"

    def size(self, n_micrographs: int, n_images: int) -> Tuple[float, float]:
        """Return width and height in inches, for so many scored micrographs and images."""
        width, height = self.size_inches
        height += self.inches_per_micrograph * min(n_micrographs, MAX_BARS)
        return width, height + self.inches_per_row_of_images * -(-n_images // PER_ROW)

    def draw(self, figure: Figure, evaluated: Any, *words: str) -> None:
        """Draw it into an empty figure.

        Parameters
        ----------
        figure
            Of matplotlib.
        evaluated
            Of `cryoden.report.evaluation_result.read_evaluation`.
        words
            Of one micrograph its name; and the key of the denoiser, where it is about one.
        """
        figures = importlib.import_module("cryoden.report.evaluation_figures")
        getattr(figures, self.function)(figure, evaluated, *words)


OVERALL = (
    Picture(
        "scores", "Scores of all denoisers", "How much of the signal each denoiser recovers; 1 is the clean image.",
        "plot_scores", TILE_INCHES,
    ),
    Picture(
        "fidelity", "Fidelity per ring, with the ceiling",
        "How much of the prediction is true, ring by ring; the dashed line is a perfect denoiser.", "plot_fidelity",
        TILE_INCHES,
    ),
    Picture(
        "bands", "Scores in each band", "Quality in the whole band, and in its coarse and its fine part.", "plot_bands",
        TILE_INCHES,
    ),
    Picture(
        "errors", "What the errors consist of", "Structure that is deleted or added, and noise that is let through.",
        "plot_errors", TILE_INCHES,
    ),
    Picture(
        "residual", "Residual against the noise",
        "What is left of the other half without the prediction: ideally noise alone (1).", "plot_residual",
        TILE_INCHES,
    ),
    Picture(
        "spectra", "Power spectra", "Power of one half, of the signal in it, and of every prediction.", "plot_spectra",
        TILE_INCHES,
    ),
    Picture(
        "micrographs", "R2 of every micrograph", "R² of every scored micrograph.", "plot_micrograph_scores", (12, 2.2),
        inches_per_micrograph=0.28,
    ),
)  # fmt: skip
"""Of all micrographs."""

EXAMPLES = (
    Picture("raw", "One half, unprocessed", "one half, unprocessed", "plot_raw", TILE_INCHES),
    Picture(
        "denoised", "The same half, denoised", "the same half, denoised", "plot_denoised", TILE_INCHES,
        is_of_one_denoiser=True,
    ),
    Picture(
        "side_by_side", "Every denoiser side by side", "every denoiser", "plot_side_by_side", (13, 0.0),
        inches_per_row_of_images=4.4,
    ),
    Picture(
        "residual", "Difference, residual, whiteness", "difference, residual and its whiteness, power spectra",
        "plot_micrograph", (16, 7.6), is_of_one_denoiser=True,
    ),
    Picture(
        "truth", "What was invented and deleted", "what was invented and what was deleted", "plot_truth", (16, 4.4),
        is_of_truth=True,
    ),
)  # fmt: skip
"""Of one micrograph."""

GLANCE = ("scores", "fidelity")
"""Pictures of all micrographs that a report begins with, below one micrograph raw and denoised."""

METHODS = ("bands", "errors", "residual", "spectra")
"""Pictures of all micrographs for who wants to know why."""

BESIDE = ("raw", "denoised")
"""Pictures of one micrograph that stand side by side."""

EXAMPLE_WORDS = ("best", "median", "worst", "only")
"""Which micrographs are shown; their pictures are called WORD_PICTURE.png."""

INSIDE_INCHES = (15.0, 8.5)
"""Size of the picture of what is inside a network."""


def picture_names() -> List[str]:
    """Return the names of all pictures that a report may have, but for those of the inside of networks."""
    examples = [kind.file_name(word) for kind in EXAMPLES for word in EXAMPLE_WORDS]
    return [*(kind.file_name() for kind in OVERALL), *examples]
