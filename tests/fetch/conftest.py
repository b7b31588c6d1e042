"""An archive for every test."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator

import numpy as np
import pytest

from cryoden.fetch import download, session
from tests.fetch.server import N_MOVIES, FakeArchive, entry, map_entry
from tests.helpers import write_raw_mrc


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeArchive]:
    monkeypatch.setattr(download, "PAUSE", 0.005)
    monkeypatch.setattr(session, "BACKOFF", 0.005)
    monkeypatch.setattr(download, "PIECE_BYTES", 100)
    served = FakeArchive()
    served.entry, served.map_entry = entry(), map_entry()
    for number in range(N_MOVIES):
        frames = np.random.default_rng(number).integers(0, 9, (3, 16, 20)).astype(np.int8)
        name = f"movie {number}.mrc"  # EMPIAR has names with blanks
        served.files[f"data/movies/grid/{name}"] = write_raw_mrc(tmp_path / "m.mrc", frames, 0).read_bytes()
    served.files["data/movies/readme.txt"] = b"words"
    gain = write_raw_mrc(tmp_path / "m.mrc", np.ones((1, 16, 20), np.float32), 2).read_bytes()
    served.files["data/CountRef_gain.mrc"] = gain
    served.files["data/stacks/particles.mrcs"] = b"other"
    (tmp_path / "m.mrc").unlink()
    yield served
    served.close()


@pytest.fixture
def fetch(archive: FakeArchive, cryoden: Any) -> Any:
    def run(*words: object, number: str = "10025") -> Any:
        addresses = ["--api", f"{archive.address}/api", "--files", f"{archive.address}/files"]
        return cryoden("fetch", "empiar", number, "--maps", f"{archive.address}/maps", *addresses, *words)

    return run
