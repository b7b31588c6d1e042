"""Noisy pairs of clean images."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any, List

import numpy as np
import pytest
from PIL import Image

from cryoden.config.simulate import PHANTOMS
from cryoden.formats.mrc import write_image
from cryoden.formats.outcome import read_ending
from cryoden.simulate import pairs
from tests.helpers import read_mrc, write_mrc


def pair(name: str, folder: str = "out") -> list:
    return [read_mrc(Path(folder, kind, f"{name}.mrc")).astype(np.float64) for kind in ("clean", "odd", "even")]


@pytest.mark.parametrize("phantom", PHANTOMS)
@pytest.mark.parametrize("sigma", [0.1, 0.2])
def test_gaussian_pairs(cryoden: Any, phantom: str, sigma: float) -> None:
    words = ["simulate", "pairs", "--output", "out", "--phantom", phantom, "--size", 128, 160, "--sigma", sigma]
    assert cryoden(*words, "--pairs", 2).out == "2 of 2 pairs are simulated: out/{odd,even,clean}\n"
    clean, odd, even = pair(f"{phantom}_0002")
    assert clean.shape == (128, 160)
    assert (clean.min(), clean.max()) == (0, 1)
    assert clean.std() > 0.05
    assert (odd - clean).std() == pytest.approx(sigma, rel=0.03)
    assert (even - clean).std() == pytest.approx(sigma, rel=0.03)
    assert abs(np.corrcoef((odd - clean).ravel(), (even - clean).ravel())[0, 1]) < 0.04
    assert not np.array_equal(clean, pair(f"{phantom}_0001")[0])


def test_poisson_pairs(cryoden: Any) -> None:
    words = ["simulate", "pairs", "--noise", "poisson", "--dose", 5, "--pairs", 1, "--size", 256, 256]
    cryoden(*words, "--output", "out", "--sampling-rate", 3)
    clean, odd, even = pair("particles_0001")
    assert clean.mean() == pytest.approx(5, rel=1e-4)
    for noisy in (odd, even):
        assert np.array_equal(noisy, noisy.round())
        assert ((noisy - clean) ** 2).sum() == pytest.approx(clean.sum(), rel=0.03)
    cryoden(*words, "--output", "again", "--sampling-rate", 3)
    cryoden(*words, "--output", "other", "--seed", 2)
    assert np.array_equal(odd, pair("particles_0001", "again")[1])
    assert not np.array_equal(odd, pair("particles_0001", "other")[1])


def test_pairs_can_be_trained_on(cryoden: Any) -> None:
    cryoden("simulate", "pairs", "--output", "out", "--pairs", 3, "--size", 96, 96, "--sampling-rate", 4)
    words = ["--network", "cnn3", "--epochs", 1, "--crop", 32, "--min-batches", 2]
    assert cryoden("train", "--odd", "out/odd", "--even", "out/even", "--output", "model", *words).status == 0


def test_pairs_of_ones_own_images(tmp_path: Path, cryoden: Any) -> None:
    ramp = np.tile(np.arange(80, dtype=np.uint8), (70, 1))
    Image.fromarray(np.stack([ramp] * 3, axis=-1)).save("photo.png")
    Image.fromarray((ramp * np.uint16(500)).astype(np.uint16)).save("deep.png")
    write_mrc(tmp_path / "map.mrc", ramp.T)
    (tmp_path / "words.png").write_text("no picture")
    (tmp_path / "a.bmp").write_text("")
    Image.fromarray(np.full((70, 80), 7, np.uint8)).save("flat.png")
    result = cryoden(
        "simulate", "pairs", "photo.png", "deep.png", "map.mrc", "words.png", "a.bmp", "flat.png", "--output", "out"
    )
    assert result.status == 1
    assert "3 of 6 pairs" in result.out
    assert "cryoden: failed: words.png: words.png cannot be read as a picture (" in result.err
    assert "a.bmp has the unknown ending '.bmp'; give .mrc, " in result.err
    assert "flat.png is constant: every pixel is 7. It holds no image; leave it out." in result.err
    np.testing.assert_allclose(pair("photo")[0], ramp / 79, atol=1e-6)
    np.testing.assert_allclose(pair("deep")[0], ramp / 79, atol=1e-6)
    np.testing.assert_allclose(pair("map")[0], ramp.T / 79, atol=1e-6)


def test_no_image_can_be_used(cryoden: Any) -> None:
    result = cryoden("simulate", "pairs", "none.png", "--output", "out")
    assert result.status == 2
    assert result.last_error.startswith("cryoden: The only image could not be used: none.png cannot")
    result = cryoden("simulate", "pairs", "a/x.png", "b/x.png", "--output", "out")
    assert result.last_error == "cryoden: a/x.png and b/x.png would both be written as x.mrc; rename one of them."


@pytest.mark.parametrize("words", [["--sigma", "-1"], ["--dose", "0"], ["--pairs", "0"], ["--size", "10"]])
def test_options_out_of_range(cryoden: Any, words: list) -> None:
    result = cryoden("simulate", "pairs", "--output", "out", *words)
    assert result.status == 2
    assert words[0] in result.last_error


def test_files_that_this_command_did_not_make_are_not_overwritten(tmp_path: Path, cryoden: Any) -> None:
    words = ["simulate", "pairs", "--output", "out", "--phantom", "discs", "--pairs", 2, "--size", 64, 64]
    path = write_mrc(tmp_path / "out" / "odd" / "discs_0002.mrc", np.ones((64, 64)))
    before = path.read_bytes()
    result = cryoden(*words)
    assert result.status == 2
    assert result.last_error.startswith("cryoden: out/odd/discs_0002.mrc is there, and was not made by this command.")
    assert path.read_bytes() == before
    path.unlink()
    assert cryoden(*words).status == 0
    assert cryoden(*words).status == 0


def test_finished_pairs_are_kept_and_those_of_other_options_refused(cryoden: Any) -> None:
    words = ["simulate", "pairs", "--output", "out", "--size", 96, 96]
    cryoden(*words, "--pairs", 1)
    made = Path("out/odd/particles_0001.mrc").stat().st_mtime_ns
    assert cryoden(*words, "--pairs", 2).out.startswith("2 of 2 pairs are simulated")
    assert Path("out/odd/particles_0001.mrc").stat().st_mtime_ns == made

    refused = cryoden(*words, "--pairs", 3, "--sigma", 0.3)
    assert refused.status == 2
    assert "was made with other options. These options differ: --sigma (was 0.1, is now 0.3)" in refused.err
    assert not Path("out/odd/particles_0003.mrc").exists()


def test_an_image_that_was_replaced_is_used_again(tmp_path: Path, cryoden: Any) -> None:
    picture = np.tile(np.arange(80, dtype=np.uint8), (70, 1))
    for image in (picture, picture[:, ::-1]):
        Image.fromarray(image).save(str(tmp_path / "ramp.png"))
        assert cryoden("simulate", "pairs", tmp_path / "ramp.png", "--output", "out").status == 0
    assert pair("ramp")[0][0, 0] == 1


def test_an_image_is_not_overwritten_by_its_pair(tmp_path: Path, cryoden: Any) -> None:
    ramp = np.tile(np.arange(80.0), (70, 1))
    path = write_mrc(tmp_path / "out" / "clean" / "a.mrc", ramp)
    before = path.read_bytes()
    assert cryoden("simulate", "pairs", "out/clean/a.mrc", "--output", "out").status == 2
    assert path.read_bytes() == before


def test_a_picture_with_a_fault_that_nobody_expected_ends_no_list(
    cryoden: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = pairs.read_picture

    def read_or_fail(path: str) -> np.ndarray:
        if path == "b.png":
            raise OverflowError("too large")
        return read(path)

    monkeypatch.setattr(pairs, "read_picture", read_or_fail)
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(np.tile(np.arange(80, dtype=np.uint8), (70, 1))).save(name)
    result = cryoden("simulate", "pairs", "a.png", "b.png", "c.png", "--output", "out")
    assert result.status == 1
    assert result.out.startswith("2 of 3 pairs")
    assert result.last_error.startswith("cryoden: failed: b.png: b.png failed unexpectedly (OverflowError: too large)")


def test_a_full_disk_ends_the_list_and_says_so_of_each(cryoden: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    written: List[Path] = []

    def write_or_fail(path: Path, image: np.ndarray, rate: float) -> None:
        written.append(path)
        if len(written) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_image(path, image, rate)

    monkeypatch.setattr(pairs, "write_image", write_or_fail)
    words = ["simulate", "pairs", "--output", "out", "--phantom", "discs", "--pairs", 3, "--size", 64, 64]
    result = cryoden(*words, "--outcome", "outcome.json")
    assert result.status == 1
    kinds = {name: problem.kind for name, problem in read_ending("outcome.json").items.items()}
    assert kinds == {"discs_0002": "full_disk", "discs_0003": "full_disk"}
