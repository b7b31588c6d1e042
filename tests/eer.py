"""An encoder of EER movies for tests, after the file format documentation 3.0 (Thermo Fisher Scientific, 2023).

No library writes EER: imagecodecs decodes it only. The files made here are read by RELION (tests/test_relion.py) as
they were meant.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import List, Sequence, Tuple

import numpy as np

RUN_BITS = {65000: 8, 65001: 7, 65002: 7}


def random_events(rng: np.random.Generator, shape: Tuple[int, int], n: int) -> Tuple[np.ndarray, np.ndarray]:
    """Return pixels (sorted, flat) hit by one electron each and the four bits of their places inside."""
    return np.sort(rng.choice(shape[0] * shape[1], n, replace=False)), rng.integers(0, 16, n)


def encode(pixels: np.ndarray, places: np.ndarray, n_pixels: int, run_bits: int) -> bytes:
    """Return the bit stream of a hardware frame: runs of empty pixels, each but the last followed by a place."""
    longest = (1 << run_bits) - 1
    numbers: List[int] = []
    lengths: List[int] = []
    gaps = np.diff(np.concatenate([[-1], pixels, [n_pixels]])) - 1
    for gap, place in zip(gaps, [*places, None]):
        numbers += [longest] * (gap // longest) + [gap % longest] + ([] if place is None else [place])
        lengths += [run_bits] * (gap // longest + 1) + ([] if place is None else [4])
    bits = np.concatenate([(number >> np.arange(length)) & 1 for number, length in zip(numbers, lengths)])
    content = np.packbits(np.concatenate([bits, np.zeros(16, int)]).astype(np.uint8), bitorder="little").tobytes()
    return content + bytes(-len(content) % 8)


def write_eer(
    path: Path, shape: Tuple[int, int], frames: Sequence[Tuple[np.ndarray, np.ndarray]], kind: int = 65001
) -> Path:
    """Write hardware frames of `random_events` as the pages of a big TIFF file."""
    out = bytearray(b"II" + struct.pack("<HHHQ", 43, 8, 0, 16))
    for number, (pixels, places) in enumerate(frames, 1):
        content = encode(pixels, places, shape[0] * shape[1], RUN_BITS[kind])
        tags = [(256, 4, shape[1]), (257, 4, shape[0]), (258, 3, 1), (259, 3, kind), (262, 3, 1), (273, 16, 0),
                (277, 3, 1), (278, 4, shape[0]), (279, 16, len(content))]  # fmt: skip
        if kind == 65002:
            tags += [(65007, 3, 7), (65008, 3, 2), (65009, 3, 2)]
        begin = len(out) + 8 + 20 * len(tags) + 8
        out += struct.pack("<Q", len(tags))
        for tag, type_, value in tags:
            out += struct.pack("<HHQQ", tag, type_, 1, begin if tag == 273 else value)
        out += struct.pack("<Q", begin + len(content) if number < len(frames) else 0) + content
    path.write_bytes(bytes(out))
    return path


def rendered(shape: Tuple[int, int], frames: Sequence[Tuple[np.ndarray, np.ndarray]], scale: int = 1) -> np.ndarray:
    """Return the counts of some hardware frames on the detector's grid, or one twice as fine."""
    counts = np.zeros((scale * shape[0], scale * shape[1]), int)
    for pixels, places in frames:
        y, x = np.divmod(pixels, shape[1])
        if scale == 2:  # the upper bit of each place, inverted, says which half of the pixel was hit
            y, x = 2 * y + (((places >> 2) ^ 2) >> 1), 2 * x + (((places & 3) ^ 2) >> 1)
        np.add.at(counts, (y, x), 1)
    return counts
