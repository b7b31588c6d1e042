"""Where crops and tiles lie: geometry only, no pixels.

`EpochPlan` lists the random crops of one training epoch in batches; `TilePlan` lists the tiles of one denoised image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, List, Sequence, Tuple

import numpy as np

Shape = Tuple[int, int]
Box = Tuple[int, int, int, int]
"""First row, last row (excluded), first column, last column (excluded)."""


@dataclass(frozen=True)
class Crop:
    """One training cut-out of a pair of halves.

    Attributes
    ----------
    pair
        Index of the pair.
    y, x
        First row and column.
    view
        One of the 8 rotated and mirrored views (0-3: quarter turns, 4-7: the same after a transposition).
    swap
        Whether even is the input and odd the target.
    """

    pair: int
    y: int
    x: int
    view: int
    swap: bool


def fitting_crop(shapes: Sequence[Shape], crop: int, step: int) -> int:
    """Return the largest crop side, at most `crop`, that fits into every shape and is a multiple of `step`, or 0."""
    smallest = min(min(shape) for shape in shapes)
    return min(crop, smallest) // step * step


def _grid(shape: Shape, crop: int) -> np.ndarray:
    """Return the first rows and columns `(n, 2)` of crops on a grid with a stride of half a crop."""
    rows, columns = (np.arange(0, side - crop + 1, max(1, crop // 2)) for side in shape)
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)


class EpochPlan:
    """Every crop of one epoch, in batches, a function of seed and epoch alone.

    A micrograph's crops lie close together in time: only about `window` micrographs are needed at any moment, so the
    same plan serves a loader that holds everything and one that streams.

    Parameters
    ----------
    shapes
        Rows and columns of each pair.
    crop
        Side of the crops, at most the smallest side.
    batch_size
        Crops per batch; the last batch is filled with more random crops.
    seed, epoch
        What the plan depends on.
    window
        Number of micrographs over which crops are mixed.
    on_grid
        Crops lie on the half-overlapping grid instead of anywhere, each place equally often.
    min_batches
        Where the crops fill fewer batches, every micrograph gives that many times more.
    """

    def __init__(
        self,
        shapes: Sequence[Shape],
        crop: int,
        batch_size: int,
        seed: int,
        epoch: int,
        window: int = 4,
        on_grid: bool = False,
        min_batches: int = 1,
    ) -> None:
        rng = np.random.default_rng([seed, epoch])
        grids = [_grid(shape, crop) for shape in shapes]
        n_crops = sum(len(grid) for grid in grids)
        if n_crops <= (min_batches - 1) * batch_size:
            grids = [np.tile(grid, (-(-min_batches * batch_size // n_crops), 1)) for grid in grids]
        order = rng.permutation(len(shapes))
        counts = np.array([len(grid) for grid in grids])
        extra = rng.integers(0, len(shapes), -int(counts.sum()) % batch_size)
        np.add.at(counts, extra, 1)
        crops: List[Tuple[float, Crop]] = []
        for rank, pair in enumerate(order.tolist()):
            n = int(counts[pair])
            if on_grid:
                more = rng.integers(0, len(grids[pair]), n - len(grids[pair]))
                places = np.concatenate((grids[pair], grids[pair][more]))
            else:
                places = rng.integers(0, np.array(shapes[pair]) - crop + 1, (n, 2))
            times, views, swaps = rank + window * rng.random(n), rng.integers(0, 8, n), rng.integers(0, 2, n)
            crops.extend(
                (float(time), Crop(pair, int(y), int(x), int(view), bool(swap)))
                for time, (y, x), view, swap in zip(times, places, views, swaps)
            )
        ordered = [crop for _, crop in sorted(crops, key=lambda entry: entry[0])]
        self.batches: List[List[Crop]] = [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]

    def needs(self) -> List[List[int]]:
        """Return, for every batch, the indices of the pairs from which its crops come, each once."""
        return [list(dict.fromkeys(crop.pair for crop in batch)) for batch in self.batches]


@dataclass(frozen=True)
class Tile:
    """One inference cut-out.

    Attributes
    ----------
    read
        Box in the image to give to the network; it may reach outside, where the image is reflected.
    keep
        Box of the network's output that is valid and not yet written by another tile, relative to the tile.
    write
        Box in the image to which `keep` goes.
    """

    read: Box
    keep: Box
    write: Box


class TilePlan:
    """Tiles of equal size that cover an image exactly once.

    All tiles start at multiples of `step` from the image's first pixel, so that a network with pooling sees every pixel
    at the same phase whatever the tile size: the tiled result is that of the whole image.

    Parameters
    ----------
    shape
        Rows and columns of the image.
    tile
        Side of a tile including its halo; made smaller where the image is, and even over the image.
    halo
        Pixels read and thrown away on each side: at least the network's receptive radius, a multiple of `step`.
    step
        Multiple to which the network's input must be padded.
    """

    def __init__(self, shape: Shape, tile: int, halo: int, step: int) -> None:
        self.shape, self.halo = shape, halo
        columns = [_cut_axis(side, max(step, (tile - 2 * halo) // step * step), step) for side in shape]
        self.tile_shape = (columns[0][1] + 2 * halo, columns[1][1] + 2 * halo)
        self.tiles = [self._tile(y, x) for y in _cores(*columns[0]) for x in _cores(*columns[1])]

    def __iter__(self) -> Iterator[Tile]:
        return iter(self.tiles)

    def __len__(self) -> int:
        return len(self.tiles)

    def _tile(self, y: Tuple[int, int], x: Tuple[int, int]) -> Tile:
        (y_start, y_first), (x_start, x_first) = y, x
        y_end = min(y_start + self.tile_shape[0] - 2 * self.halo, self.shape[0])
        x_end = min(x_start + self.tile_shape[1] - 2 * self.halo, self.shape[1])
        top, left = y_start - self.halo, x_start - self.halo
        read = (top, top + self.tile_shape[0], left, left + self.tile_shape[1])
        keep = (y_first - top, y_end - top, x_first - left, x_end - left)
        return Tile(read, keep, (y_first, y_end, x_first, x_end))


def reflected_indices(first: int, last: int, side: int) -> np.ndarray:
    """Return the pixel indices `first` to `last` (excluded), mirrored at the edge pixels of an axis of length `side`.

    Any distance outside is allowed; an axis of one pixel repeats it.
    """
    if side == 1:
        return np.zeros(last - first, dtype=np.int64)
    period = 2 * side - 2
    position = np.arange(first, last) % period
    return np.minimum(position, period - position)


def _cut_axis(side: int, largest_core: int, step: int) -> Tuple[int, int]:
    """Return the padded length of an axis and the length of each core, both multiples of `step`."""
    padded = -(-side // step) * step
    n_tiles = -(-padded // largest_core)
    core = -(-padded // n_tiles // step) * step
    return padded, core


def _cores(padded: int, core: int) -> Iterator[Tuple[int, int]]:
    """Yield (start, first pixel not yet covered) of every core along an axis; the last is flush with the end."""
    covered = 0
    while covered < padded:
        yield min(covered, padded - core), covered
        covered += core
