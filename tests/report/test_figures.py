from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from cryoden.config import ShowConfig
from cryoden.errors import FileError
from cryoden.formats.training_folder import read_log, read_samples, write_samples
from cryoden.model.inspection import save_inside
from cryoden.movies.fixed_pattern import FixedPattern
from cryoden.report.contact_sheet import pick_crops, plot_crops
from cryoden.report.figures import (
    draw_files,
    flattened,
    in_scale_of,
    plot_fixed_pattern,
    power_spectrum,
    show_image,
)
from cryoden.report.inspection_figures import read_inside
from cryoden.report.training_figures import draw_training
from tests.helpers import write_mrc


@pytest.mark.parametrize(("width_nm", "expected"), [(500.0, "100 nm"), (90.0, "20 nm"), (30.0, "5 nm")])
def test_scale_bar_has_a_round_length_and_follows_the_zoom(width_nm: float, expected: str) -> None:
    figure = Figure()
    axes = figure.subplots()
    show_image(axes, np.zeros((32, 64)), "m$1$", width_nm)
    (label,) = axes.texts
    assert label.get_text() == expected
    assert axes.get_ylim() == (0, width_nm / 2)
    axes.set_xlim(0.3 * width_nm, 0.4 * width_nm)
    assert float(label.get_text().split()[0]) == pytest.approx(float(expected.split()[0]) / 10)
    assert 0.3 * width_nm < label.get_position()[0] < 0.4 * width_nm


def test_image_of_unknown_width_has_no_scale_bar() -> None:
    axes = Figure().subplots()
    show_image(axes, np.zeros((32, 64)), "m", None)
    assert not axes.texts


@pytest.mark.parametrize(("share", "lowest", "highest"), [(1.0, 0.0, 0.05), (0.0, 0.25, 0.6)])
def test_contact_sheet_says_what_the_difference_shows(
    tmp_path: Path, share: float, lowest: float, highest: float
) -> None:
    """Halves of one specimen, and a second half in which it is not."""
    rng = np.random.default_rng(4)
    specimen = rng.normal(size=(96, 96))
    for half, strength in (("odd", 1.0), ("even", share)):
        (tmp_path / half).mkdir()
        write_mrc(tmp_path / half / "mic.mrc", strength * specimen + rng.normal(size=(96, 96)), 2.0)

    config = ShowConfig(
        odd=str(tmp_path / "odd"), even=str(tmp_path / "even"), output=str(tmp_path), crop=64, sampling_rate="full"
    )
    (crop,), _ = pick_crops(config)
    assert lowest <= abs(crop.left_over) < highest
    figure = Figure()
    plot_crops(figure, [crop])
    assert f"correlation {abs(crop.left_over):.2f} with the sum" in figure.axes[3].get_title()
    assert "at 2 Å/px" in figure.get_suptitle()


def test_power_spectrum_finds_the_frequency_of_a_wave() -> None:
    _, x = np.mgrid[:256, :256]
    _, frequency, profile = power_spectrum(np.cos(2 * np.pi * 40 * x / 256), 2.0)
    assert frequency[np.argmax(profile)] == pytest.approx(40 / 256 / 2.0)


def test_hot_and_dead_pixels_of_a_fixed_pattern_are_circled(tmp_path: Path) -> None:
    """In the whole square, and where they are in the picture of its middle."""
    sums = np.random.default_rng(1).standard_normal((2, 128, 160))
    sums[:, 20, 30] += 20
    sums[:, 60, 85] -= 20
    FixedPattern(["a", "b"], sums, [0.1, 0.1]).save(tmp_path / "p.npz")
    figure = Figure()
    plot_fixed_pattern(figure, tmp_path / "p.npz")
    whole, middle = figure.axes[:2]
    assert whole.get_title() == "middle, 160 x 128 px: 2 pixels stand out"
    assert sorted(map(tuple, whole.collections[0].get_offsets())) == [(30, 20), (85, 60)]
    assert [tuple(place) for place in middle.collections[0].get_offsets()] == [(85 - 70, 60 - 56)]


def test_curves_are_drawn(tmp_path: Path) -> None:
    """Without samples, with them, and with too many micrographs for named bars."""
    records = [{"epoch": i, "loss": 1 / i, "validation_loss": 1 / i, "r2": 0.1 * i} for i in (1, 2, 3)]
    sizes = []
    for n_micrographs, has_samples in ((2, False), (2, True), (50, True)):
        each = {f"mic{i}": 0.01 * i for i in range(n_micrographs)}
        lines = [json.dumps({**record, "r2_per_micrograph": each}) for record in records]
        (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n")
        if has_samples:
            np.savez(
                tmp_path / "samples.npz", mic0=np.random.default_rng(1).normal(size=(3, 32, 32)).astype(np.float16)
            )
        draw_training(tmp_path, tmp_path / "c.png")
        content = (tmp_path / "c.png").read_bytes()
        assert content[:4] == b"\x89PNG"
        sizes.append(len(content))
    assert len(set(sizes)) == 3


@pytest.mark.parametrize("shape", [(90, 120), (64, 64), (45, 61)])
def test_files_of_other_sizes_are_drawn_together(tmp_path: Path, shape: tuple) -> None:
    """Denoised micrographs may be coarser than the raw ones, whichever comes first."""
    rng = np.random.default_rng(1)
    write_mrc(tmp_path / "a.mrc", rng.normal(size=(90, 120)), 2.0)
    write_mrc(tmp_path / "b.mrc", rng.normal(size=shape), 2.0 * 120 / shape[1])
    draw_files(tmp_path / "a.mrc", tmp_path / "b.mrc", ("raw", "denoised"), tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"


def test_flattened_spectrum_shows_thon_rings_that_the_slope_hides() -> None:
    """White noise under an envelope that falls by a factor of 1000 and rings of 10 %: only the rings remain."""
    side = 1024
    ky, kx = np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij")
    radius = np.hypot(ky, kx)
    envelope = np.exp(-7 * radius / 0.5) * (1 + 0.3 * np.cos(2 * np.pi * radius / 0.05))
    image = np.fft.irfft2(np.fft.rfft2(np.random.default_rng(2).normal(size=(side, side))) * envelope)
    spectrum, frequency, profile = power_spectrum(image.astype(np.float32), 1.0)
    rings = flattened(spectrum, profile)
    row = rings[128, 128:]  # along the x axis, from the middle
    expected = np.cos(2 * np.pi * frequency / 0.05)
    assert np.corrcoef(row[20:110], expected[20:110])[0, 1] > 0.8
    assert np.corrcoef(spectrum[128, 148:238], expected[20:110])[0, 1] < 0.6


def test_denoised_images_are_brought_to_the_scale_of_the_raw_ones() -> None:
    """A standardised prediction of the signal in a raw image comes back to its mean and amplitude."""
    rng = np.random.default_rng(3)
    signal, noise = rng.normal(size=(2, 256, 256))
    raw = 60 + 2 * signal + 8 * noise
    back = in_scale_of(raw, 0.1 * signal)
    np.testing.assert_allclose(back.mean(), raw.mean(), rtol=1e-5)
    np.testing.assert_allclose(back.std(), (2 * signal).std(), rtol=0.1)
    assert abs(np.corrcoef((raw - back).ravel(), back.ravel())[0, 1]) < 1e-3


@pytest.mark.parametrize("n_bytes", [0, 20, 700])
def test_damaged_samples_are_named(tmp_path: Path, n_bytes: int) -> None:
    write_samples(tmp_path, {"mic0": np.zeros((3, 32, 32), np.float16)})
    path = tmp_path / "samples.npz"
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(FileError, match=r"samples\.npz cannot be read \(.+\); remove it; the next better epoch"):
        read_samples(tmp_path)


@pytest.mark.parametrize("n_bytes", [0, 20, 700])
def test_damaged_inside_of_a_network_is_named(tmp_path: Path, n_bytes: int) -> None:
    path = tmp_path / "inside.npz"
    save_inside(path, {"weights": np.random.default_rng(1).normal(size=(64, 64))})
    assert read_inside(path)["weights"].shape == (64, 64)
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(FileError, match=r"inside\.npz cannot be read \(.+\); evaluate again"):
        read_inside(path)


@pytest.mark.parametrize("content", [None, "no json\n"])
def test_log_that_cannot_be_read(tmp_path: Path, content: str) -> None:
    if content:
        (tmp_path / "log.jsonl").write_text(content)
    with pytest.raises(FileError, match=r"log\.jsonl cannot be read \(.+\); has the first epoch ended\?"):
        read_log(tmp_path / "log.jsonl")
