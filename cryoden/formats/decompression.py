"""gzip and bzip2 files as streams of bytes: every checksum is verified, memory stays small whatever they promise."""

from __future__ import annotations

import bz2
import os
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator

from cryoden.errors import FileError
from cryoden.formats.file_errors import PathLike, reading_errors, reason, require_file

READ_BYTES = 1 << 18
"""Compressed bytes read at once."""

PIECE_BYTES = 4 << 20
"""Bytes decompressed at once."""


@dataclass(frozen=True)
class _Packing:
    """A way of compressing.

    Attributes
    ----------
    magic
        First bytes of a member; a file may have several, one after the other.
    decoder
        Makes the decoder of one member.
    largest_ratio
        Bytes that one compressed byte can become, at most.
    """

    magic: bytes
    decoder: Callable[[], Any]
    largest_ratio: int


_PACKINGS: Dict[str, _Packing] = {
    # Deflate: 258 bytes from 2 bits (https://zlib.net/zlib_tech.html).
    ".gz": _Packing(b"\x1f\x8b", lambda: zlib.decompressobj(wbits=31), 1032),
    # bzip2 replaces runs of up to 259 bytes by 5 before it sorts blocks of 900,000 bytes; the smallest block has 20.
    ".bz2": _Packing(b"BZh", bz2.BZ2Decompressor, 900_000 // 5 * 259 // 20),
}

ENDINGS = tuple(_PACKINGS)


class CompressedFile:
    """A compressed file, read from front to back.

    Several members, and what follows the last one, are treated as gzip and bzip2 themselves do: members are
    concatenated, and padding or other bytes behind them are ignored.

    Parameters
    ----------
    path
        The file; its ending says how it is compressed.

    Raises
    ------
    FileError
        If it is missing or cannot be read; also from the methods that read, if it is damaged or truncated.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = require_file(path)
        self._packing = _PACKINGS[self.path.suffix.lower()]
        with reading_errors(self.path):
            self._file = open(str(self.path), "rb")  # noqa: SIM115 (closed by `close`)
        self._decoder = self._packing.decoder()
        self._compressed = b""
        self.position = 0
        self.is_at_end = False

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def most_bytes(self) -> int:
        """Bytes that the file can hold at most when it is decompressed."""
        with reading_errors(self.path):
            return os.fstat(self._file.fileno()).st_size * self._packing.largest_ratio

    def read_into(self, target: memoryview) -> int:
        """Fill a buffer of bytes; returns how many there were, fewer only at the end of the file."""
        n_filled = 0
        while n_filled < len(target):
            piece = self._next(min(PIECE_BYTES, len(target) - n_filled))
            if not piece:
                break
            target[n_filled : n_filled + len(piece)] = piece
            n_filled += len(piece)
        return n_filled

    def skip(self, n_bytes: int) -> None:
        """Go on by so many bytes, or to the end of the file."""
        while n_bytes:
            piece = self._next(min(PIECE_BYTES, n_bytes))
            if not piece:
                return
            n_bytes -= len(piece)

    def verify(self, most: int) -> None:
        """Read on to the end, where the last checksum stands; refuse a file that has more than `most` bytes left."""
        last = self.position + most
        while self._next(PIECE_BYTES):
            if self.position > last:
                raise FileError(f"{self.path} is far longer than it says; check what it is.", subject=str(self.path))

    def _next(self, most: int) -> bytes:
        """Return the next bytes, at most so many; none at the end of the last member."""
        piece = b""
        with reading_errors(self.path), _damage(self.path):
            while not piece and not self.is_at_end:
                if self._decoder.eof:
                    self._begin_member()
                else:
                    piece = self._decompress(most)
        self.position += len(piece)
        return piece

    def _decompress(self, most: int) -> bytes:
        piece = self._decoder.decompress(self._compressed, most)
        self._compressed = getattr(self._decoder, "unconsumed_tail", b"")  # bzip2's decoder keeps it
        if not piece and not self._decoder.eof and not self._compressed:
            self._compressed = self._file.read(READ_BYTES)
            if not self._compressed:
                raise EOFError("it ends too early")
        return piece

    def _begin_member(self) -> None:
        """Start with what follows a member, if it is another one."""
        magic, rest = self._packing.magic, self._decoder.unused_data.lstrip(b"\0")
        while len(rest) < len(magic):
            more = self._file.read(READ_BYTES)
            if not more:
                break
            rest = (rest + more).lstrip(b"\0")
        self.is_at_end = not rest.startswith(magic)
        if not self.is_at_end:
            self._decoder, self._compressed = self._packing.decoder(), rest


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError, ValueError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:  # bzip2's decoder raises it without a number
            raise
        raise FileError(
            f"{path} is damaged or truncated ({reason(error)}). Copy it again.", subject=str(path)
        ) from error
