"""Damaged files through the command line: no traceback, no hang, little memory; the file is named, others are done.

A fixed seed damages the same files in the same way every time. `CRYODEN_FUZZ_SEED` chooses other ones for `-m long`.
"""

from __future__ import annotations

import bz2
import gzip
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import numpy as np
import pytest
import tifffile

from cryoden.formats.model_file import ModelCard, write_model
from tests.eer import random_events, write_eer
from tests.fuzz.mutations import damaged_bytes, damaged_json, damaged_lines, damaged_text
from tests.helpers import ROOT, blurring_cnn3, write_mrc, write_raw_mrc

MOST_BYTES = 2 << 30
N_SHORT, N_LONG = 6, 150
SEED = int(os.environ.get("CRYODEN_FUZZ_SEED", "1"))

Damage = Callable[[bytes, np.random.Generator], bytes]


@dataclass(frozen=True)
class Target:
    """A file to damage, and the command that reads it.

    Attributes
    ----------
    file
        To be damaged.
    words
        Of the command.
    damage
        Returns other bytes.
    result
        File that the command makes of undamaged inputs beside; None where the damaged file is needed for all.
    """

    file: str
    words: Tuple[str, ...]
    damage: Damage
    result: Optional[str] = None


def in_header(n_bytes: int) -> Damage:
    return lambda content, rng: damaged_bytes(content, rng, n_bytes)


def packed(pack: Callable[[bytes], bytes], unpack: Callable[[bytes], bytes]) -> Damage:
    """Return damage before or after compression."""

    def damage(content: bytes, rng: np.random.Generator) -> bytes:
        if rng.random() < 0.4:
            return damaged_bytes(content, rng, len(content))
        return pack(damaged_bytes(unpack(content), rng, 240))

    return damage


def in_card(content: bytes, rng: np.random.Generator) -> bytes:
    """Return a model file with a damaged header or card."""
    n_header = int.from_bytes(content[:8], "little")
    if rng.random() < 0.5:
        return damaged_bytes(content, rng, 8 + n_header)
    header = json.loads(content[8 : 8 + n_header])
    card = damaged_json(header["__metadata__"]["card"].encode(), rng)
    header["__metadata__"]["card"] = card.decode("utf-8", "replace")
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + n_header :]


HALVES = ("halves", "--output", "out", "--sampling-rate", "1.5")
DENOISE = ("denoise", "--model", "model.safetensors", "--output", "out")
SPLIT = "out/full/good.mrc"

TARGETS = {
    "mrc movie": Target("bad.mrcs", (*HALVES, "bad.mrcs", "good.mrcs"), in_header(240), SPLIT),
    "mrc micrograph": Target("bad.mrc", (*DENOISE, "bad.mrc", "good.mrc"), in_header(240), "out/good.mrc"),
    "gzip": Target("bad.mrcs.gz", (*HALVES, "bad.mrcs.gz", "good.mrcs"), packed(gzip.compress, gzip.decompress), SPLIT),
    "bzip2": Target("bad.mrc.bz2", (*HALVES, "bad.mrc.bz2", "good.mrcs"), packed(bz2.compress, bz2.decompress), SPLIT),
    "tiff": Target("bad.tif", (*HALVES, "bad.tif", "good.mrcs"), in_header(1 << 20), SPLIT),
    "tiff strips": Target("lzw.tif", (*HALVES, "lzw.tif", "good.mrcs"), in_header(300), SPLIT),
    "tiff tiles": Target("tiles.tif", (*HALVES, "tiles.tif", "good.mrcs"), in_header(400), SPLIT),
    "eer": Target("bad.eer", (*HALVES, "bad.eer", "good.mrcs", "--eer-frames", "2"), in_header(400), SPLIT),
    "star": Target("list.star", (*DENOISE, "list.star"), damaged_text),
    "movies star": Target("movies.star", ("halves", "movies.star", "--output", "out"), damaged_text),
    "shifts": Target("shifts/bad.star", (*HALVES, "bad.mrcs", "good.mrcs", "--shifts", "shifts"), damaged_text, SPLIT),
    "options": Target("options.json", ("halves", "--config", "options.json"), damaged_json),
    "record": Target(
        "done/halves.json", ("halves", "good.mrcs", "--sampling-rate", "1.5", "--output", "done"), damaged_json,
    ),
    "result lines": Target(
        "done/halves.results.jsonl",
        ("halves", "good.mrcs", "--sampling-rate", "1.5", "--output", "done"), damaged_lines,
    ),
    "pattern": Target(
        "done/fixed_pattern.npz",
        ("halves", "good.mrcs", "bad.mrcs", "--sampling-rate", "1.5", "--output", "done"), in_header(400),
    ),
    "manifest": Target("patches/manifest.json", ("patches", "verify", "patches"), damaged_json),
    "patches": Target("patches/train_input.bin", ("patches", "verify", "patches"), in_header(400)),
    "model": Target("model.safetensors", (*DENOISE, "good.mrc"), in_card),
}  # fmt: skip


class Server:
    """The process that runs commands; see `tests.fuzz.server`."""

    def __init__(self) -> None:
        environment = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=str(ROOT), env=environment,
        )  # fmt: skip

    def run(self, folder: Path, words: Tuple[str, ...]) -> Dict[str, Any]:
        """Run a command in a folder."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"folder": str(folder), "words": words}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(60)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Path:
    """Return a folder of undamaged files, small enough that a command takes a moment."""
    folder = tmp_path_factory.mktemp("whole")
    rng = np.random.default_rng(7)
    frames = rng.integers(0, 60, (4, 40, 48)) + np.arange(48)
    for name in ("bad.mrcs", "good.mrcs"):
        write_raw_mrc(folder / name, frames, 6)
    for name in ("bad.mrc", "good.mrc"):
        write_mrc(folder / name, rng.normal(size=(64, 64)))
    content = (folder / "bad.mrcs").read_bytes()
    (folder / "bad.mrcs.gz").write_bytes(gzip.compress(content, mtime=0))
    (folder / "bad.mrc.bz2").write_bytes(bz2.compress(content))
    layouts: Dict[str, Dict[str, Any]] = {
        "bad.tif": {"compression": "deflate"},
        "lzw.tif": {"compression": "lzw", "rowsperstrip": 7},
        "tiles.tif": {"tile": (16, 16)},
    }
    for name, layout in layouts.items():
        with tifffile.TiffWriter(str(folder / name)) as tiff:
            for frame in frames.astype(np.uint16):
                tiff.write(frame, contiguous=False, metadata=None, **layout)
    write_eer(folder / "bad.eer", (40, 48), [random_events(rng, (40, 48), 300) for _ in range(4)])
    write_model(
        folder / "model.safetensors", blurring_cnn3(), ModelCard("cnn3", (), 4.0, {"kind": "standard"}, {"r2": 0.5})
    )
    optics = "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_{} #2\n_rlnVoltage #3\n1 4.0 300.0\n2 3.9 200.0\n\n"
    (folder / "list.star").write_text(
        optics.format("rlnMicrographPixelSize")
        + "data_micrographs\n\nloop_\n_rlnMicrographName #1\n_rlnOpticsGroup #2\nbad.mrc 1\ngood.mrc 2\n"
    )
    (folder / "movies.star").write_text(
        optics.format("rlnMicrographOriginalPixelSize")
        + "data_movies\n\nloop_\n_rlnMicrographMovieName #1\n_rlnOpticsGroup #2\nbad.mrcs 1\ngood.mrcs 2\n"
    )
    (folder / "shifts").mkdir()
    for name in ("bad", "good"):
        rows = "".join(f"{frame} {0.3 * frame:.2f} {-0.2 * frame:.2f}\n" for frame in range(1, 5))
        (folder / "shifts" / f"{name}.star").write_text(
            "data_global_shift\n\nloop_\n_rlnMicrographFrameNumber #1\n_rlnMicrographShiftX #2\n"
            f"_rlnMicrographShiftY #3\n{rows}"
        )
    (folder / "options.json").write_text(
        json.dumps({"movies": ["good.mrcs"], "output": "out", "sampling_rate": 1.5, "frames": "1-4", "jobs": 1})
    )
    halves = np.kron(rng.normal(size=(16, 16)), np.ones((8, 8))) + rng.normal(size=(2, 3, 128, 128)) + 20
    for half, images in zip(("odd", "even"), halves):
        for number, image in enumerate(images):
            write_mrc(folder / "halves" / half / f"m{number}.mrc", image)
    made = [
        ("halves", "good.mrcs", "--sampling-rate", "1.5", "--output", "done"),
        ("patches", "export", "--odd", "halves/odd", "--even", "halves/even", "--output", "patches", "--patch", "32"),
    ]
    for words in made:
        answer = server.run(folder, words)
        assert answer["status"] == 0, answer["err"]
    return folder


def complaints(target: Target, folder: Path, answer: Dict[str, Any]) -> List[str]:
    """Return what is wrong with how a command took a damaged file."""
    status, err = answer["status"], answer["err"]
    lines = [line for line in err.splitlines() if line.startswith("cryoden: ")]
    wrong = {
        "it hung": answer["stopped"],
        f"it ended with {status}": status not in (0, 1, 2) and not answer["stopped"],
        "there is a traceback": "Traceback" in err,
        "something complained when it was collected": "Exception ignored" in err,
        f"it took {answer['peak_bytes'] >> 20} MiB": answer["peak_bytes"] > MOST_BYTES,
        "nothing was said": status in (1, 2) and not lines,
        "an error was not foreseen": "should not have happened" in err,
        "the good file was not processed": target.result is not None and not (folder / target.result).is_file(),
        "the file is not named": target.result is not None and status and Path(target.file).name not in err,
    }
    return [words for words, is_so in wrong.items() if is_so]


def fuzz(name: str, numbers: range, whole: Path, folder: Path, server: Server) -> None:
    target = TARGETS[name]
    content = (whole / target.file).read_bytes()
    found = []
    for number in numbers:
        rng = np.random.default_rng([SEED, number, *name.encode()])
        place = folder / str(number)
        shutil.copytree(whole, place)
        damaged = target.damage(content, rng)
        (place / target.file).write_bytes(damaged)
        answer = server.run(place, target.words)
        wrong = complaints(target, place, answer)
        if wrong:
            kept = Path(os.environ.get("CRYODEN_FUZZ_KEEP", folder)) / f"{name}-{number}"
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(damaged)
            found.append(f"{kept}: {', '.join(wrong)}; {answer['err'][-1500:]}")
        shutil.rmtree(place)
    assert not found, f"{len(found)} of {len(numbers)}:\n" + "\n".join(found)


def test_undamaged_files_are_taken(whole: Path, tmp_path: Path, server: Server) -> None:
    """Else damage would prove nothing."""
    for name, target in TARGETS.items():
        place = tmp_path / name.replace(" ", "_")
        shutil.copytree(whole, place)
        answer = server.run(place, target.words)
        assert answer["status"] == 0, (name, answer["err"])
        assert complaints(target, place, answer) == []


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files(name: str, whole: Path, tmp_path: Path, server: Server) -> None:
    fuzz(name, range(N_SHORT), whole, tmp_path, server)


@pytest.mark.long
@pytest.mark.parametrize("name", TARGETS)
def test_many_damaged_files(name: str, whole: Path, tmp_path: Path, server: Server) -> None:
    fuzz(name, range(N_SHORT, N_LONG), whole, tmp_path, server)
