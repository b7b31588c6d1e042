from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from cryoden.errors import FileError
from cryoden.formats.eer import EerRendering, EerStack
from cryoden.formats.images import open_movie_stack
from tests.eer import random_events, rendered, write_eer

SHAPE = (64, 96)

pytestmark = pytest.mark.skipif(
    tuple(map(int, imagecodecs.__version__.split(".")[:3])) < (2025, 11, 11), reason="this imagecodecs decodes no EER"
)


def events(n_frames: int, n: int = 150) -> list:
    rng = np.random.default_rng(n_frames)
    return [random_events(rng, SHAPE, n) for _ in range(n_frames)]


@pytest.mark.parametrize("kind", [65000, 65001, 65002])
@pytest.mark.parametrize("is_8k", [False, True])
def test_events_become_frames(tmp_path: Path, kind: int, is_8k: bool) -> None:
    frames = events(11)
    path = write_eer(tmp_path / "m.eer", SHAPE, frames, kind)
    scale = 2 if is_8k else 1
    stack = open_movie_stack(path, EerRendering(3, is_super_resolution=is_8k))
    assert (stack.n_frames, stack.shape) == (3, (scale * 64, scale * 96))
    parts = [frames[0:3], frames[3:7], frames[7:11]]
    for number in (0, 2, 1):
        np.testing.assert_array_equal(stack.read_rows(number, 0, stack.shape[0]), rendered(SHAPE, parts[number], scale))
    np.testing.assert_array_equal(stack.read_rows(1, 5, 20), rendered(SHAPE, parts[1], scale)[5:20])


def test_example_of_the_format_documentation(tmp_path: Path) -> None:
    """Six bytes with four events, printed in the documentation; not encoded here."""
    content = bytes([0x03, 0x1B, 0xFC, 0xB1, 0x35, 0xFB])
    path = write_eer(tmp_path / "m.eer", (20, 16), [(np.array([1]), np.array([0]))] * 2, 65002)
    with tifffile.TiffFile(str(path)) as tiff:
        tags = [page.tags for page in tiff.pages]
        places = [(t[65008].valueoffset, t[65009].valueoffset, t[273].value[0], t[279].valueoffset) for t in tags]
    file = bytearray(path.read_bytes())
    for horizontal, vertical, offset, count in places:
        file[horizontal : horizontal + 2] = file[vertical : vertical + 2] = b"\x01\x00"
        file[count : count + 8] = (6).to_bytes(8, "little")
        file[offset : offset + 6] = content
    path.write_bytes(bytes(file))
    counts = EerStack(path, EerRendering(2)).read_rows(0, 0, 20)
    assert [tuple(place) for place in np.argwhere(counts)] == [(0, 3), (1, 1), (14, 9), (19, 7)]


def test_every_hardware_frame_is_used_once(tmp_path: Path) -> None:
    path = write_eer(tmp_path / "m.eer", SHAPE, events(23, 4))
    for n_frames in (2, 5, 7, 23):
        stack = EerStack(path, EerRendering(n_frames))
        groups = [stack.hardware_frames(number) for number in range(n_frames)]
        assert [frame for group in groups for frame in group] == list(range(23))
        assert max(map(len, groups)) - min(map(len, groups)) <= 1


def test_frames_of_so_many_electrons(tmp_path: Path) -> None:
    """20 hardware frames of 150 electrons on 6,144 pixels are 0.488 per pixel."""
    path = write_eer(tmp_path / "m.eer", SHAPE, events(20))
    assert EerStack(path, EerRendering(2)).count_electrons_per_px() == pytest.approx(20 * 150 / 6144)
    assert EerStack(path, EerRendering(electrons_per_px=0.0488)).n_frames == 10
    assert EerStack(path, EerRendering(electrons_per_px=0.1)).n_frames == 5


def test_nothing_says_how_many_frames(tmp_path: Path) -> None:
    path = write_eer(tmp_path / "m.eer", SHAPE, events(5))
    with pytest.raises(FileError) as caught:
        EerStack(path)
    assert str(caught.value) == (
        f"{path} is an EER movie of 5 hardware frames; into how many frames are they summed? Give --eer-frames."
    )


def test_more_frames_than_there_are(tmp_path: Path) -> None:
    path = write_eer(tmp_path / "m.eer", SHAPE, events(5))
    with pytest.raises(FileError) as caught:
        EerStack(path, EerRendering(6))
    assert str(caught.value) == (f"{path} has 5 EER hardware frames, which cannot make 6 frames; ask for fewer.")


def test_eer_without_frames(tmp_path: Path) -> None:
    tifffile.imwrite(str(tmp_path / "m.tif"), np.zeros((5, 8, 8), np.uint8), photometric="minisblack")
    path = (tmp_path / "m.tif").rename(tmp_path / "m.eer")
    with pytest.raises(FileError) as caught:
        EerStack(path, EerRendering(2))
    assert str(caught.value) == f"{path} has no EER frames: no page holds electron events. Check what it is."


def test_truncated_eer(tmp_path: Path) -> None:
    path = write_eer(tmp_path / "m.eer", SHAPE, events(5))
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(FileError, match=r"m\.eer (is truncated|cannot be read as TIFF)"):
        EerStack(path, EerRendering(2)).read_rows(1, 0, 64)


def test_damaged_eer_names_the_hardware_frame(tmp_path: Path) -> None:
    path = write_eer(tmp_path / "m.eer", SHAPE, events(5))
    with tifffile.TiffFile(str(path)) as tiff:
        offset, n_bytes = tiff.pages[3].dataoffsets[0], tiff.pages[3].databytecounts[0]
    content = bytearray(path.read_bytes())
    content[offset : offset + n_bytes] = b"\xfe" * n_bytes
    path.write_bytes(bytes(content))
    with pytest.raises(FileError, match="EER hardware frame 4 cannot be decoded"):
        EerStack(path, EerRendering(2)).read_rows(1, 0, 64)


def test_old_decoder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_eer(tmp_path / "m.eer", SHAPE, events(2))
    monkeypatch.setattr(imagecodecs, "__version__", "2023.3.16")
    with pytest.raises(FileError) as caught:
        EerStack(path, EerRendering(2))
    assert str(caught.value) == (
        f"{path} is an EER movie; it needs imagecodecs 2025.11.11 or newer (Python 3.11 or newer), but 2023.3.16 is "
        "installed. Install cryoden in such an environment."
    )
