"""Where crops and tiles lie: geometry only, no pixels.

`EpochPlan` lists the random crops of one training epoch in batches; `TilePlan` lists the tiles of one denoised image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, List, Optional, Sequence, Tuple, Union, overload

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


CROP_TYPE = np.dtype([("pair", np.int32), ("y", np.int32), ("x", np.int32), ("view", np.int8), ("swap", np.bool_)])
"""A crop in the table of an epoch: 14 bytes, where a `Crop` takes 30 times as many; 2,000 micrographs have 400,000."""


class Batches(Sequence[Tuple[Crop, ...]]):
    """The batches of an epoch, made from its table when they are asked for.

    Parameters
    ----------
    table
        Crops in the order of their use, of `CROP_TYPE`.
    size
        Crops per batch.
    """

    def __init__(self, table: np.ndarray, size: int) -> None:
        self._table, self._size = table, size

    def __len__(self) -> int:
        return -(-len(self._table) // self._size)

    @overload
    def __getitem__(self, index: int) -> Tuple[Crop, ...]: ...

    @overload
    def __getitem__(self, index: slice) -> Batches: ...

    def __getitem__(self, index: Union[int, slice]) -> Union[Tuple[Crop, ...], Batches]:
        if isinstance(index, int):
            number = range(len(self))[index]
            return tuple(Crop(*crop) for crop in self._rows(number).tolist())
        numbers = range(len(self))[index]
        if numbers.step != 1:
            raise ValueError("Only batches that follow each other can be taken.")
        return Batches(self._table[numbers.start * self._size : numbers.stop * self._size], self._size)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Batches) and self._size == other._size and np.array_equal(self._table, other._table)

    __hash__ = None  # type: ignore[assignment]

    def pairs(self) -> Iterator[List[int]]:
        """Yield, for every batch, the indices of the pairs from which its crops come, each once, in order of use."""
        for number in range(len(self)):
            yield list(dict.fromkeys(self._rows(number)["pair"].tolist()))

    def _rows(self, number: int) -> np.ndarray:
        return self._table[number * self._size : (number + 1) * self._size]


@dataclass(frozen=True)
class EpochPlan:
    """Every crop of one epoch, in batches, a function of seed and epoch alone.

    A micrograph's crops lie close together in time: only about `window` micrographs are needed at any moment, so the
    same plan serves a loader that holds everything and one that streams.

    Attributes
    ----------
    batches
        Crops in the order of their use.
    """

    batches: Batches

    @classmethod
    def draw(
        cls,
        shapes: Sequence[Shape],
        crop: int,
        batch_size: int,
        seed: int,
        epoch: int,
        window: int = 4,
        on_grid: bool = False,
        min_batches: int = 1,
    ) -> EpochPlan:
        """Draw the crops of an epoch.

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
        rng = np.random.default_rng([seed, epoch])

        # As many crops of each pair as its half-overlapping grid has, or a whole multiple of that.
        grids = [_grid(shape, crop) for shape in shapes]
        n_crops = sum(len(grid) for grid in grids)
        if n_crops <= (min_batches - 1) * batch_size:
            grids = [np.tile(grid, (-(-min_batches * batch_size // n_crops), 1)) for grid in grids]
        order = rng.permutation(len(shapes))
        counts = np.array([len(grid) for grid in grids])
        extra = rng.integers(0, len(shapes), -int(counts.sum()) % batch_size)
        np.add.at(counts, extra, 1)

        # The pair of rank r gets times between r and r + window: at no time are crops of more pairs due.
        table = np.empty(int(counts.sum()), CROP_TYPE)
        times = np.empty(len(table))
        first = 0
        for rank, pair in enumerate(order.tolist()):
            n = int(counts[pair])
            if on_grid:
                more = rng.integers(0, len(grids[pair]), n - len(grids[pair]))
                places = np.concatenate((grids[pair], grids[pair][more]))
            else:
                places = rng.integers(0, np.array(shapes[pair]) - crop + 1, (n, 2))
            times[first : first + n] = rank + window * rng.random(n)

            crops = table[first : first + n]
            crops["pair"], crops["y"], crops["x"] = pair, places[:, 0], places[:, 1]
            crops["view"], crops["swap"] = rng.integers(0, 8, n), rng.integers(0, 2, n)
            first += n
        return cls(Batches(table[np.argsort(times, kind="stable")], batch_size))

    def part(self, first: int, stop: Optional[int] = None) -> EpochPlan:
        """Return the plan of some batches, `stop` excluded; None: to the end."""
        return EpochPlan(self.batches[first:stop])

    def needs(self) -> List[List[int]]:
        """Return, for every batch, the indices of the pairs from which its crops come, each once."""
        return list(self.batches.pairs())


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

    The image is thought to be continued by its reflection, `margin` pixels wide; what a network makes of that larger
    image in one piece is what the tiles make of it: all start at multiples of `step` from its first pixel (a network
    with pooling sees every pixel at the same phase), and where one is cut, a halo is thrown away.

    Parameters
    ----------
    shape
        Rows and columns of the image.
    tile
        Side of a tile including its halo, at most; made smaller where the image is, and even over the image.
    halo
        Pixels read and thrown away where an image is cut: at least the network's receptive radius, a multiple of
        `step`.
    step
        Multiple that the sides of the network's input must have.
    margin
        Reflected pixels around the image, a multiple of `step`.
    """

    def __init__(self, shape: Shape, tile: int, halo: int, step: int, margin: int) -> None:
        self.shape, self.halo, self.margin = shape, halo, margin
        largest = max(tile // step * step, 2 * halo + step)
        rows, columns = (_cut_axis(side, largest, halo, step, margin) for side in shape)
        self.tile_shape = (rows[0].stop - rows[0].start, columns[0].stop - columns[0].start)
        self.tiles = [
            _tile(row, column)
            for row in zip(rows, _kept(rows, shape[0], halo))
            for column in zip(columns, _kept(columns, shape[1], halo))
        ]

    def __iter__(self) -> Iterator[Tile]:
        return iter(self.tiles)

    def __len__(self) -> int:
        return len(self.tiles)


def _cut_axis(side: int, largest: int, halo: int, step: int, margin: int) -> List[range]:
    """Return what each tile reads along an axis: ranges of equal length that overlap by two halos or more."""
    padded = -(-(side + 2 * margin) // step) * step
    if padded <= largest:
        return [range(-margin, padded - margin)]
    n_tiles = -(-(padded - 2 * halo) // (largest - 2 * halo))
    core = -(-(padded - 2 * halo) // (n_tiles * step)) * step
    length = core + 2 * halo
    starts = [min(number * core, padded - length) - margin for number in range(n_tiles)]
    return [range(start, start + length) for start in starts]


def _kept(reads: Sequence[range], side: int, halo: int) -> Iterator[range]:
    """Yield what of each read is kept: up to the halo where another tile follows, and nothing twice."""
    covered = 0
    for read in reads:
        end = side if read is reads[-1] else min(read.stop - halo, side)
        yield range(covered, end)
        covered = end


def _tile(row: Tuple[range, range], column: Tuple[range, range]) -> Tile:
    (y, y_kept), (x, x_kept) = row, column
    keep = (y_kept.start - y.start, y_kept.stop - y.start, x_kept.start - x.start, x_kept.stop - x.start)
    return Tile((y.start, y.stop, x.start, x.stop), keep, (y_kept.start, y_kept.stop, x_kept.start, x_kept.stop))


def reflected_indices(first: int, last: int, side: int) -> np.ndarray:
    """Return the pixel indices `first` to `last` (excluded), mirrored at the edge pixels of an axis of length `side`.

    Any distance outside is allowed; an axis of one pixel repeats it.
    """
    if side == 1:
        return np.zeros(last - first, dtype=np.int64)
    period = 2 * side - 2
    position = np.arange(first, last) % period
    return np.minimum(position, period - position)
