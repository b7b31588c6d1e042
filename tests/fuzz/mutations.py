"""Damage to files: what disks, copies, editors and other programs do to them, and what an attacker would."""

from __future__ import annotations

import json
import re
from typing import Any, Callable, List

import numpy as np

EXTREMES = (0, 1, 2, 255, 256, 4096, 65535, 1 << 16, 1 << 20, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
"""Numbers at which programs break, as 32-bit words."""

WORDS = (
    "", "-1", "0", "nan", "inf", "-inf", "1e-9", "1e400", "1" * 400, "None", "true", ".", "/", "..", "#", "'", '"', "_",
    "data_", "loop_", "a b", "x" * 300, "\t", "\r", "\n", "\n\n", "\x00", "\x1b[31m", "$x$", "é", "\ufeff", "../" * 30,
    "{", "]", "\\", "0x7f", "1,5", "(none)", "/dev/zero", "/proc/self/mem", "~", "|", "*",
)  # fmt: skip
"""Words that are no values, or mean something to some program."""

VALUES: List[Any] = [
    None, True, False, 0, -1, 1, 1.5, -0.0, 1e308, float("nan"), float("inf"), 10**30, 10**400, "", "x", "\x00",
    "\ud800", [], {}, [[]], [None], {"a": None}, "x" * 10_000, [0] * 1000, 8192, [8192, 8192, 8192], 100_000,
]  # fmt: skip
"""Values of JSON that are wrong nearly everywhere."""


def damaged_bytes(content: bytes, rng: np.random.Generator, n_header: int) -> bytes:
    """Return bytes that are damaged in one to four places, mostly in the first `n_header` of them."""
    result = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        if not result:
            break
        reach = len(result) if rng.random() < 0.2 else min(n_header, len(result))
        place = int(rng.integers(0, reach))
        _BYTE_DAMAGE[rng.integers(len(_BYTE_DAMAGE))](result, place, rng)
    return bytes(result)


def _flip(content: bytearray, place: int, rng: np.random.Generator) -> None:
    content[place] ^= 1 << int(rng.integers(8))


def _set_byte(content: bytearray, place: int, rng: np.random.Generator) -> None:
    content[place] = int(rng.choice([0, 1, 127, 128, 255]))


def _set_word(content: bytearray, place: int, rng: np.random.Generator) -> None:
    place -= place % 4
    content[place : place + 4] = int(rng.choice(EXTREMES)).to_bytes(4, "little")


def _set_float(content: bytearray, place: int, rng: np.random.Generator) -> None:
    place -= place % 4
    value = rng.choice([np.nan, np.inf, -1.0, 0.0, 1e-30, 1e30])
    content[place : place + 4] = np.float32(value).tobytes()


def _cut(content: bytearray, place: int, rng: np.random.Generator) -> None:
    del content[place:]


def _remove(content: bytearray, place: int, rng: np.random.Generator) -> None:
    del content[place : place + int(rng.integers(1, 64))]


def _repeat(content: bytearray, place: int, rng: np.random.Generator) -> None:
    content[place:place] = content[place : place + int(rng.integers(1, 64))]


def _clear(content: bytearray, place: int, rng: np.random.Generator) -> None:
    n_bytes = min(int(rng.integers(1, 256)), len(content) - place)
    content[place : place + n_bytes] = bytes(n_bytes)


_BYTE_DAMAGE: List[Callable[[bytearray, int, np.random.Generator], None]] = [
    _flip, _flip, _set_byte, _set_byte, _set_word, _set_word, _set_word, _set_float, _cut, _remove, _repeat, _clear,
]  # fmt: skip


def damaged_text(content: bytes, rng: np.random.Generator) -> bytes:
    """Return text of which some words are others, or bytes are damaged."""
    if rng.random() < 0.15:
        return damaged_bytes(content, rng, len(content))
    parts = re.split(r"(\s+)", content.decode())
    for _ in range(rng.integers(1, 4)):
        place = int(rng.integers(len(parts)))
        parts[place] = str(rng.choice(np.array(WORDS, dtype=object)))
    return "".join(parts).encode()


def damaged_json(content: bytes, rng: np.random.Generator) -> bytes:
    """Return JSON of which some values are others, missing, deeply nested, or damaged as text."""
    if rng.random() < 0.15:
        return damaged_text(content, rng)
    if rng.random() < 0.05:
        return b"[" * 100_000
    values = json.loads(content)
    for _ in range(rng.integers(1, 3)):
        values = _with_other_value(values, rng)
    return json.dumps(values).encode()


def damaged_lines(content: bytes, rng: np.random.Generator) -> bytes:
    """Return lines of JSON of which one is damaged."""
    lines = content.splitlines(keepends=True)
    place = int(rng.integers(len(lines)))
    return b"".join([*lines[:place], damaged_json(lines[place], rng), b"\n", *lines[place + 1 :]])


def _with_other_value(value: Any, rng: np.random.Generator) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = str(rng.choice(np.array(list(value), dtype=object)))
        if rng.random() < 0.15:
            return {name: part for name, part in value.items() if name != key}
        return {**value, key: _with_other_value(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        place = int(rng.integers(len(value)))
        return [*value[:place], _with_other_value(value[place], rng), *value[place + 1 :]]
    return VALUES[int(rng.integers(len(VALUES)))]
