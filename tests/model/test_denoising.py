from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Callable, Tuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cryoden.data.normalize import measure_scale
from cryoden.formats.mrc import MrcWriter
from cryoden.formats.progress_log import ProgressLog
from cryoden.formats.star import read_table
from cryoden.model.denoising import NOT_REACHED
from cryoden.model.networks import build_network
from cryoden.model.predictor import Predictor
from tests.helpers import RATE, Identity, Result, images_in, leftovers, read_mrc, write_mrc

Run = Callable[..., Result]
CPU = torch.device("cpu")
NETWORKS = [("cnn3", ()), ("unet", (4, 8)), ("unet", (3, 4, 5)), ("resunet", (3, 4))]


def random_network(name: str, channels: tuple) -> nn.Module:
    """Return a network with a sizeable response, float64 so that what differs is geometry and no rounding."""
    network = build_network(name, channels, 3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.double()


def picture(shape: Tuple[int, int], seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("views", [1, 8])
@pytest.mark.parametrize("shape", [(64, 64), (37, 91), (1, 50), (3, 2)])
def test_identity_network_leaves_an_image_unchanged(shape: Tuple[int, int], views: int) -> None:
    image = picture(shape)
    predicted = Predictor(Identity(), CPU, 24, views=views)(image)
    torch.testing.assert_close(predicted, image.float(), rtol=1e-6, atol=1e-6 * (views > 1))


@pytest.mark.parametrize(
    ("shape", "tile"),
    [
        ((128, 128), 64),
        ((128, 128), 100),
        ((101, 67), 48),
        ((101, 67), 64),
        ((9, 150), 40),
        ((5, 7), 64),
        ((21, 9), 1),
    ],
)
@pytest.mark.parametrize(("name", "channels"), NETWORKS)
def test_tiled_equals_whole(name: str, channels: tuple, shape: Tuple[int, int], tile: int) -> None:
    network = random_network(name, channels)
    image = picture(shape)
    whole = Predictor(network, CPU, 4096)(image)
    tiled = Predictor(network, CPU, tile)(image)
    # the predictor's output is float32: 6e-8 of its values
    assert float((tiled - whole).abs().max()) < 1e-5 * float(whole.std())


def test_tiled_equals_whole_where_blocks_go_up() -> None:
    """From three levels on, the residual U-Net has blocks on the way up; its halo is then 40 px."""
    network, image = random_network("resunet", (3, 4, 5)), picture((131, 117))
    whole = Predictor(network, CPU, 4096)(image)
    tiled = Predictor(network, CPU, 112)(image)
    assert float((tiled - whole).abs().max()) < 1e-5 * float(whole.std())


@pytest.mark.parametrize(("name", "channels"), NETWORKS)
def test_tiled_equals_the_network_alone_away_from_the_edges(name: str, channels: tuple) -> None:
    network, image = random_network(name, channels), picture((160, 160))
    with torch.no_grad():
        alone = network(image[None, None])[0, 0]
    edge = network.receptive_radius
    inner = slice(edge, 160 - edge)
    difference = Predictor(network, CPU, 64)(image)[inner, inner] - alone[inner, inner]
    assert float(difference.abs().max()) < 1e-5 * float(alone.std())


@pytest.mark.parametrize(("name", "channels"), NETWORKS)
def test_bfloat16_differs_by_its_rounding(name: str, channels: tuple) -> None:
    """It keeps 8 bits of each number, so a few thousandths of the output after a few layers."""
    image = picture((96, 64)).float()
    exact, rounded = (
        Predictor(random_network(name, channels).float(), CPU, precision=precision)(image)
        for precision in ("float32", "bfloat16")
    )
    assert 0 < float((rounded - exact).std()) < 0.03 * float(exact.std())


@pytest.mark.parametrize("view", range(1, 8))
def test_turned_input_gives_the_turned_output_with_8_views(view: int) -> None:
    def turned(image: torch.Tensor) -> torch.Tensor:
        return torch.rot90(image.T if view >= 4 else image, view % 4)

    predictor = Predictor(random_network("unet", (4, 8)), CPU, 512, views=8)
    image = picture((64, 64))
    expected = turned(predictor(image))
    # a side that is a multiple of the step keeps the pooling phase; the output is float32
    torch.testing.assert_close(predictor(turned(image)), expected, rtol=0, atol=1e-5 * float(expected.std()))


def test_turned_input_gives_another_output_with_1_view() -> None:
    predictor, image = Predictor(random_network("unet", (4, 8)), CPU, 512, views=1), picture((64, 64))
    difference = predictor(image.rot90()) - predictor(image).rot90()
    assert float(difference.std()) > 1e-2 * float(predictor(image).std())


@pytest.mark.parametrize(("factor", "shift"), [(3.0, 0.0), (1.0, -80.0), (0.01, 7.0)])
def test_scaled_input_gives_the_scaled_output(
    tmp_path: Path, cryoden: Run, make_model: Callable, factor: float, shift: float
) -> None:
    image = 5 * np.random.default_rng(1).standard_normal((60, 70))
    write_mrc(tmp_path / "a.mrc", image)
    write_mrc(tmp_path / "b.mrc", factor * image + shift)
    cryoden("denoise", "a.mrc", "b.mrc", "--model", make_model(), "--output", "out")
    first, second = (read_mrc(Path("out") / name).astype(np.float64) for name in ("a.mrc", "b.mrc"))
    expected = factor * first + shift
    # float32 pixels: 1e-7 of the grey level, and of the deviation after a network
    np.testing.assert_allclose(second, expected, atol=1e-5 * expected.std() + 3e-7 * abs(shift))


def test_output_is_what_the_network_says(micrographs: Path, cryoden: Run, make_model: Callable) -> None:
    model = make_model(network="unet", channels=(4, 8), seed=5)
    assert cryoden("denoise", "raw/mic0.mrc", "--model", model, "--output", "out").status == 0
    raw = read_mrc(micrographs / "mic0.mrc")
    scale = measure_scale(raw)
    padded = np.pad(scale.standardize(raw), ((32, 32), (32, 34)), mode="reflect")
    with torch.no_grad():
        alone = build_network("unet", (4, 8), 5)(torch.from_numpy(padded)[None, None])[0, 0].numpy()
    expected = scale.restore(alone[32:92, 32:102])
    np.testing.assert_allclose(read_mrc(Path("out/mic0.mrc")), expected, atol=1e-4 * scale.deviation)


def test_sampling_rate_of_the_model_is_applied(micrographs: Path, cryoden: Run, make_model: Callable) -> None:
    result = cryoden("denoise", "raw", "--model", make_model(rate=2 * RATE), "--output", "out")
    assert result.status == 0
    assert read_mrc(Path("out/mic0.mrc")).shape == (30, 36)
    assert read_table("out/micrographs.star").sampling_rate(0) == pytest.approx(RATE * 70 / 36, rel=1e-5)


def test_micrograph_coarser_than_the_model(micrographs: Path, cryoden: Run, make_model: Callable) -> None:
    result = cryoden("denoise", "raw/mic0.mrc", "--model", make_model(rate=1.5), "--output", "out")
    assert result.status == 2
    assert result.last_error == (
        "cryoden: The only micrograph could not be denoised: raw/mic0.mrc has 4 Å/px, coarser than "
        "the 1.5 Å/px of the model; train a model at this or a coarser sampling rate."
    )


def test_sampling_rate_option_beats_the_header(micrographs: Path, cryoden: Run, make_model: Callable) -> None:
    words = ("denoise", "raw", "--model", make_model(), "--output", "out", "--sampling-rate", RATE / 2)
    assert cryoden(*words).status == 0
    assert read_mrc(Path("out/mic0.mrc")).shape == (30, 36)


def test_no_pixel_size(tmp_path: Path, cryoden: Run, make_model: Callable) -> None:
    write_mrc(tmp_path / "a.mrc", np.random.default_rng(1).normal(size=(60, 60)), 0.0)
    result = cryoden("denoise", "a.mrc", "--model", make_model(), "--output", "out")
    assert result.status == 2
    assert result.last_error.endswith("a.mrc does not say its pixel size. Give --sampling-rate.")


def test_advice_can_be_followed_in_the_same_folder(tmp_path: Path, cryoden: Run, make_model: Callable) -> None:
    """A command that did nothing must not stand in the way of its correction."""
    write_mrc(tmp_path / "a.mrc", np.random.default_rng(1).normal(size=(60, 60)), 0.0)
    words = ("denoise", "a.mrc", "--model", make_model(), "--output", "out")
    assert cryoden(*words).status == 2
    assert cryoden(*words, "--sampling-rate", RATE).status == 0


def test_finished_micrographs_are_skipped_and_missing_ones_made(
    micrographs: Path, cryoden: Run, make_model: Callable
) -> None:
    words = ("denoise", "raw", "--model", make_model(), "--output", "out")
    cryoden(*words)
    before = {n: Path(f"out/mic{n}.mrc").stat().st_mtime_ns for n in range(3)}
    Path("out/mic1.mrc").unlink()
    assert cryoden(*words).status == 0
    after = {n: Path(f"out/mic{n}.mrc").stat().st_mtime_ns for n in range(3)}
    assert (after[0], after[2]) == (before[0], before[2])
    assert len(read_table("out/micrographs.star").paths) == 3


def test_overwrite_makes_them_again(micrographs: Path, cryoden: Run, make_model: Callable) -> None:
    cryoden("denoise", "raw", "--model", make_model(), "--output", "out")
    first = read_mrc(Path("out/mic0.mrc"))
    other = make_model("other.safetensors", seed=2)
    assert cryoden("denoise", "raw", "--model", other, "--output", "out", "--overwrite").status == 0
    assert not np.array_equal(read_mrc(Path("out/mic0.mrc")), first)


def test_standard_scale_is_the_input_scale_taken_out(micrographs: Path, cryoden: Run, make_model: Callable) -> None:
    model = make_model()
    for scale in ("input", "standard"):
        cryoden("denoise", "raw/mic0.mrc", "--model", model, "--output", scale, "--scale", scale)
    plain, standard = (read_mrc(Path(f"{scale}/mic0.mrc")) for scale in ("input", "standard"))
    expected = measure_scale(read_mrc(micrographs / "mic0.mrc")).restore(standard)
    np.testing.assert_allclose(plain, expected, rtol=1e-6)
    assert abs(float(standard.mean())) < 0.5 < float(plain.mean())


def test_full_size_is_the_result_at_the_pixel_size_of_the_input(
    micrographs: Path, cryoden: Run, make_model: Callable
) -> None:
    model = make_model(rate=2 * RATE)
    cryoden("denoise", "raw/mic0.mrc", "--model", model, "--output", "small")
    assert cryoden("denoise", "raw/mic0.mrc", "--model", model, "--output", "full", "--full-size").status == 0
    small, full = read_mrc(Path("small/mic0.mrc")), read_mrc(Path("full/mic0.mrc"))
    assert full.shape == (60, 70)
    assert read_table("full/micrographs.star").sampling_rate(0) == pytest.approx(RATE)
    assert full.mean() == pytest.approx(small.mean(), rel=1e-6)
    spectra = [np.fft.rfft2(image.astype(np.float64)) / image.size for image in (small, full)]
    inside = [spectrum[rows, :18] for spectrum in spectra for rows in (slice(0, 15), slice(-14, None))]
    for expected, found in zip(inside[:2], inside[2:]):  # all but the Nyquist rows
        np.testing.assert_allclose(found, expected, atol=1e-6 * small.mean())
    assert np.abs(spectra[1][15:46]).max() < 1e-6 * small.mean()  # nothing beyond the model's Nyquist


@pytest.mark.parametrize(("kind", "ending"), [("png", "png"), ("jpeg", "jpg")])
def test_thumbnails_show_the_result(
    micrographs: Path, cryoden: Run, make_model: Callable, kind: str, ending: str
) -> None:
    words = ("denoise", "raw/mic0.mrc", "--model", make_model(), "--output", "out", "--thumbnails", kind)
    assert cryoden(*words).status == 0
    with Image.open(f"out/thumbnails/mic0.{ending}") as picture:
        grey = np.asarray(picture)
    assert (grey.dtype, grey.shape) == (np.uint8, (60, 70))
    denoised = read_mrc(Path("out/mic0.mrc"))
    assert np.corrcoef(grey[::-1].ravel(), denoised.ravel())[0, 1] > 0.95


def test_thumbnails_of_finished_micrographs_are_made_when_asked_for(
    micrographs: Path, cryoden: Run, make_model: Callable
) -> None:
    words = ("denoise", "raw/mic0.mrc", "--model", make_model(), "--output", "out")
    assert cryoden(*words).status == 0
    before = read_mrc(Path("out/mic0.mrc"))
    assert cryoden(*words, "--thumbnails", "png").status == 0
    assert Path("out/thumbnails/mic0.png").is_file()
    np.testing.assert_array_equal(read_mrc(Path("out/mic0.mrc")), before)


def test_no_thumbnails_unless_asked_for(micrographs: Path, cryoden: Run, make_model: Callable) -> None:
    cryoden("denoise", "raw/mic0.mrc", "--model", make_model(), "--output", "out")
    assert not Path("out/thumbnails").exists()


def test_folders_below_the_common_one_are_kept(micrographs: Path, cryoden: Run, make_model: Callable) -> None:
    for folder in ("raw/first", "raw/second/deep"):
        write_mrc(Path(folder) / "mic0.mrc", np.random.default_rng(1).normal(size=(60, 70)))
    files = ["raw/first/mic0.mrc", "raw/second/deep/mic0.mrc"]
    assert cryoden("denoise", *files, "--model", make_model(), "--output", "out").status == 0
    expected = ["out/first/mic0.mrc", "out/second/deep/mic0.mrc"]
    assert read_table("out/micrographs.star").paths == expected
    assert all(Path(path).is_file() for path in expected)


@pytest.mark.parametrize("change", ["model", "quality", "dtype", "scale", "full size"])
def test_another_way_into_the_same_folder_is_refused(
    micrographs: Path, cryoden: Run, make_model: Callable, change: str
) -> None:
    first, other = make_model(), make_model("other.safetensors", seed=2)
    words = ["denoise", "raw/mic0.mrc", "--output", "out", "--model"]
    cryoden(*words, first)
    said = {
        "model": "--model",
        "quality": "--quality (was fast, is now best)",
        "dtype": "--dtype (was float32, is now float16)",
        "scale": "--scale (was input, is now standard)",
        "full size": "--full-size (was No, is now Yes)",
    }[change]
    extra = {
        "model": [other],
        "quality": [first, "--quality", "best"],
        "dtype": [first, "--dtype", "float16"],
        "scale": [first, "--scale", "standard"],
        "full size": [first, "--full-size"],
    }
    result = cryoden(*words, *extra[change])
    assert result.status == 2
    assert result.last_error == (
        f"cryoden: out/mic0.mrc was made with other options. These options differ: {said}. "
        "Choose another --output folder, or give --overwrite."
    )


def test_image_of_somebody_else_in_the_output_does_not_pass_for_a_result(
    micrographs: Path, cryoden: Run, make_model: Callable
) -> None:
    foreign = np.random.default_rng(8).normal(size=(60, 70)).astype(np.float32)
    write_mrc(Path("out/mic0.mrc"), foreign)
    result = cryoden("denoise", "raw/mic0.mrc", "--model", make_model(), "--output", "out")
    assert result.status == 2 or not np.array_equal(read_mrc(Path("out/mic0.mrc")), foreign)


def test_best_quality_differs_from_fast(micrographs: Path, cryoden: Run, make_model: Callable) -> None:
    model = make_model()
    for quality in ("fast", "best"):
        cryoden("denoise", "raw/mic0.mrc", "--model", model, "--output", quality, "--quality", quality)
    fast, best = (read_mrc(Path(f"{quality}/mic0.mrc")) for quality in ("fast", "best"))
    assert np.std(fast - best) > 1e-3 * np.std(fast)


def test_small_tiles_give_the_same_micrograph(micrographs: Path, cryoden: Run, make_model: Callable) -> None:
    model = make_model(network="unet", channels=(4, 8))
    write_mrc(Path("large.mrc"), np.random.default_rng(1).normal(size=(200, 180)))
    cryoden("denoise", "large.mrc", "--model", model, "--output", "one")
    assert cryoden("denoise", "large.mrc", "--model", model, "--output", "many", "--tile", 64).status == 0
    one, many = read_mrc(Path("one/large.mrc")), read_mrc(Path("many/large.mrc"))
    np.testing.assert_allclose(many, one, atol=1e-5 * one.std())


OUT_OF_MEMORY = {
    "GPU": torch.cuda.OutOfMemoryError(),
    "Host": RuntimeError("[enforce fail at alloc_cpu.cpp:126] DefaultCPUAllocator: can't allocate memory: you tried"),
    "Host ": MemoryError(),
}


@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
def test_tiles_are_halved_until_the_memory_suffices(caplog: pytest.LogCaptureFixture, kind: str) -> None:
    image = torch.from_numpy(np.random.default_rng(1).normal(size=(300, 260)).astype(np.float32))
    network = build_network("unet", (4, 8))
    whole = Predictor(network, torch.device("cpu"))(image)
    predictor = Predictor(network, torch.device("cpu"), 400)
    forward = network.forward

    def small_only(images: torch.Tensor) -> torch.Tensor:
        if images.numel() > 150**2:
            raise OUT_OF_MEMORY[kind]
        return forward(images)

    network.forward = small_only  # type: ignore[method-assign]
    assert float((predictor(image) - whole).abs().max()) < 1e-5 * float(whole.std())
    assert predictor.tile == 100
    assert [record.getMessage() for record in caplog.records] == [
        f"{kind.strip()} memory is short: going on with tiles of {side} px." for side in (200, 100)
    ]


def test_smaller_tiles_are_not_tried_for_what_they_make_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prediction itself is as large as the image, whatever the tiles are."""
    predictor = Predictor(build_network("unet", (4, 8)), torch.device("cpu"), 400)
    image = torch.zeros((300, 260))

    def full(*_: object, **__: object) -> torch.Tensor:
        raise MemoryError

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(MemoryError):
        predictor(image)
    assert predictor.tile == 400


def test_other_errors_of_a_network_are_not_taken_for_a_lack_of_memory() -> None:
    network = build_network("unet", (4, 8))

    def broken(images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    network.forward = broken  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="shapes"):
        Predictor(network, torch.device("cpu"), 400)(torch.zeros((300, 260)))


def test_halves_give_the_mean_of_both_predictions(micrographs: Path, cryoden: Run, make_model: Callable) -> None:
    rng, model = np.random.default_rng(1), make_model()
    for half in ("odd", "even"):
        write_mrc(Path(half) / "mic0.mrc", rng.normal(20, 3, (60, 70)))
        assert cryoden("denoise", f"{half}/mic0.mrc", "--model", model, "--output", f"d_{half}").status == 0
    words = ("denoise", "raw/mic0.mrc", "--odd", "odd", "--even", "even", "--model", model, "--output", "out")
    assert cryoden(*words).status == 0
    expected = (read_mrc(Path("d_odd/mic0.mrc")) + read_mrc(Path("d_even/mic0.mrc"))) / 2
    np.testing.assert_allclose(read_mrc(Path("out/mic0.mrc")), expected, rtol=1e-6)


def test_micrograph_without_halves_is_named(micrographs: Path, cryoden: Run, make_model: Callable) -> None:
    for half in ("odd", "even"):
        write_mrc(Path(half) / "mic0.mrc", np.random.default_rng(1).normal(size=(60, 70)))
    words = ("denoise", "raw", "--odd", "odd", "--even", "even", "--model", make_model(), "--output", "out")
    result = cryoden(*words)
    assert result.status == 1
    assert (
        "cryoden: failed: raw/mic1.mrc: 'mic1' has no half in odd; split its movie again, or denoise without halves."
        in result.err.splitlines()
    )
    assert read_table("out/micrographs.star").paths == ["out/mic0.mrc"]


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_halves_are_never_overwritten(micrographs: Path, cryoden: Run, make_model: Callable, overwrite: list) -> None:
    for half in ("odd", "even"):
        write_mrc(Path(half) / "mic0.mrc", np.random.default_rng(1).normal(size=(60, 70)))
    before = Path("odd/mic0.mrc").read_bytes()
    result = cryoden(
        "denoise", "raw/mic0.mrc", "--odd", "odd", "--even", "even", "--model", make_model(), "--output", "odd",
        *overwrite,
    )  # fmt: skip
    assert Path("odd/mic0.mrc").read_bytes() == before
    assert result.status == 2


def test_micrographs_are_never_overwritten(micrographs: Path, cryoden: Run, make_model: Callable) -> None:
    result = cryoden("denoise", "raw", "--model", make_model(), "--output", "raw", "--overwrite")
    assert result.status == 2
    assert result.last_error == (
        "cryoden: raw/mic0.mrc would be overwritten by a result. Choose another --output folder."
    )


def test_float16_is_float32_rounded(micrographs: Path, cryoden: Run, make_model: Callable) -> None:
    model = make_model()
    for dtype in ("float32", "float16"):
        cryoden("denoise", "raw/mic0.mrc", "--model", model, "--output", dtype, "--dtype", dtype)
    wide, narrow = (read_mrc(Path(f"{dtype}/mic0.mrc")) for dtype in ("float32", "float16"))
    assert narrow.dtype == np.float16
    np.testing.assert_array_equal(narrow, wide.astype(np.float16))


def test_values_too_large_for_float16(tmp_path: Path, cryoden: Run, make_model: Callable) -> None:
    write_mrc(tmp_path / "a.mrc", np.random.default_rng(1).normal(1e5, 10, (60, 60)))
    result = cryoden("denoise", "a.mrc", "--model", make_model(), "--output", "out", "--dtype", "float16")
    assert result.status == 2
    assert result.last_error.endswith("a.mrc has values above 65504, too large for float16. Give --dtype float32.")
    assert images_in(Path("out")) == ["log.jsonl"]


def test_star_in_and_out_keeps_columns_groups_and_order(micrographs: Path, cryoden: Run, make_model: Callable) -> None:
    Path("in.star").write_text(
        f"data_optics\nloop_\n_rlnOpticsGroup\n_rlnMicrographPixelSize\n_rlnVoltage\n1 {RATE} 300\n2 {RATE} 200\n"
        "data_micrographs\nloop_\n_rlnMicrographName\n_rlnOpticsGroup\n_rlnDefocusU\n"
        "raw/mic2.mrc 2 12345.5\nraw/mic0.mrc 1 9876.25\n"
    )
    assert cryoden("denoise", "in.star", "--model", make_model(), "--output", "out").status == 0
    table = read_table("out/micrographs.star")
    assert table.paths == ["out/mic2.mrc", "out/mic0.mrc"]
    assert list(table.images["rlnDefocusU"]) == ["12345.5", "9876.25"]
    assert list(table.images["rlnOpticsGroup"].astype(int)) == [2, 1]
    assert list(table.optics["rlnVoltage"]) == ["300", "200"]


@pytest.mark.parametrize("how", ["truncated", "nearly constant", "text", "missing"])
def test_one_bad_micrograph_is_named_and_the_others_are_written(
    micrographs: Path, cryoden: Run, make_model: Callable, how: str
) -> None:
    bad = micrographs / "mic1.mrc"
    if how == "truncated":
        bad.write_bytes(bad.read_bytes()[:2000])
    elif how == "nearly constant":
        image = np.zeros((60, 70))
        image[3, 3] = 1
        write_mrc(bad, image)
    elif how == "text":
        bad.write_text("no image " * 500)
    else:
        bad.unlink()
    names = [f"raw/mic{number}.mrc" for number in range(3)]
    result = cryoden("denoise", *names, "--model", make_model(), "--output", "out")
    assert result.status == 1
    assert result.last_error.startswith("cryoden: failed: raw/mic1.mrc: raw/mic1.mrc")
    assert images_in(Path("out")) == ["log.jsonl", "mic0.mrc", "mic2.mrc", "micrographs.star"]
    log = [json.loads(line) for line in Path("out/log.jsonl").read_text().splitlines()]
    assert [(line["micrograph"], line["status"]) for line in log] == [
        ("raw/mic0.mrc", "denoised"), ("raw/mic1.mrc", "failed"), ("raw/mic2.mrc", "denoised"),
    ]  # fmt: skip
    assert leftovers(Path("out")) == []


@pytest.mark.parametrize("rate", [RATE, 2 * RATE])
def test_saturated_micrograph_is_refused(micrographs: Path, cryoden: Run, make_model: Callable, rate: float) -> None:
    image = np.minimum(np.random.default_rng(1).normal(250, 20, (60, 70)), 255).round()
    write_mrc(micrographs / "mic1.mrc", image)
    result = cryoden("denoise", "raw", "--model", make_model(rate=rate), "--output", "out")
    assert result.status == 1
    share = round(100 * float((image == 255).mean()))
    assert result.last_error == (
        f"cryoden: failed: raw/mic1.mrc: raw/mic1.mrc cannot be used: {share} % of its pixels have the largest value, "
        "255: it is saturated. Give the image before it was clipped."
    )


def test_micrograph_of_another_size_is_denoised_and_named(
    micrographs: Path, cryoden: Run, make_model: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    write_mrc(micrographs / "mic1.mrc", np.random.default_rng(1).normal(size=(80, 50)))
    assert cryoden("denoise", "raw", "--model", make_model(), "--output", "out").status == 0
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["raw/mic1.mrc is 50 x 80 px, the first one 70 x 60 px: do they belong together?"]
    lines = [json.loads(line) for line in Path("out/log.jsonl").read_text().splitlines()]
    assert [line["warning"] for line in lines if "warning" in line] == warnings
    assert read_mrc(Path("out/mic1.mrc")).shape == (80, 50)


def test_full_disk_ends_the_run_keeps_what_is_finished_and_can_be_continued(
    micrographs: Path, cryoden: Run, make_model: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = MrcWriter.write_rows

    def until_full(writer: MrcWriter, rows: np.ndarray) -> None:
        write(writer, rows)
        if "mic0" not in writer.path.name:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(MrcWriter, "write_rows", until_full)
    words = ("denoise", "raw", "--model", make_model(), "--output", "out")
    result = cryoden(*words)
    assert result.status == 1
    lines = [line for line in result.err.splitlines() if line.startswith("cryoden: failed")]
    assert lines == [
        "cryoden: failed: raw/mic1.mrc: The disk is full: out/mic1.mrc cannot be written. Free some space and give the "
        "same command again; what is finished is kept.",
        f"cryoden: failed: raw/mic2.mrc: {NOT_REACHED}",
    ]
    assert images_in(Path("out")) == ["log.jsonl", "mic0.mrc", "micrographs.star"]
    assert leftovers(Path("out")) == []
    monkeypatch.undo()
    monkeypatch.chdir(micrographs.parent)
    assert cryoden(*words).status == 0
    assert len(read_table("out/micrographs.star").paths) == 3


def test_killed_at_its_first_result_a_run_does_not_repeat_it(
    micrographs: Path, cryoden: Run, make_model: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies under its final name is known to be this run's, even if nothing was reported of it yet."""

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ProgressLog, "report", die)
    words = ("denoise", "raw", "--model", make_model(), "--output", "out")
    with pytest.raises(KeyboardInterrupt):
        cryoden(*words)
    first = Path("out/mic0.mrc").stat().st_mtime_ns
    monkeypatch.undo()
    monkeypatch.chdir(micrographs.parent)
    assert cryoden(*words).status == 0
    assert Path("out/mic0.mrc").stat().st_mtime_ns == first


def test_run_that_made_nothing_binds_to_no_options(micrographs: Path, cryoden: Run, make_model: Callable) -> None:
    whole = {path: path.read_bytes() for path in micrographs.iterdir()}
    for path in whole:
        path.write_bytes(b"damaged")
    words = ("denoise", "raw", "--model", make_model(), "--output", "out")
    assert cryoden(*words).status == 2
    for path, content in whole.items():
        path.write_bytes(content)
    assert cryoden(*words, "--quality", "best").status == 0


def test_two_micrographs_of_one_name(micrographs: Path, cryoden: Run, make_model: Callable) -> None:
    write_mrc(Path("other/mic0.mrc"), np.eye(60))
    words = ("denoise", "raw/mic0.mrc", "other/mic0.mrc", "--model", make_model(), "--output", "out")
    result = cryoden(*words, "--folders", "flat")
    assert result.status == 2
    assert result.last_error == (
        "cryoden: raw/mic0.mrc and other/mic0.mrc would both be written as mic0.mrc; rename one of them."
    )


def test_weights_that_do_not_fit(micrographs: Path, cryoden: Run, make_model: Callable) -> None:
    from cryoden.formats.model_file import ModelCard, write_model

    write_model("m.safetensors", {"x": np.ones(2, np.float32)}, ModelCard("cnn3", (), RATE))
    result = cryoden("denoise", "raw", "--model", "m.safetensors", "--output", "out")
    assert result.status == 2
    assert result.last_error.startswith("cryoden: The weights in m.safetensors do not fit its network (")


def test_weights_that_are_not_finite(micrographs: Path, cryoden: Run, make_model: Callable) -> None:
    from cryoden.formats.model_file import read_model, write_model

    card, weights = read_model(make_model())
    weights["layers.0.bias"] = np.full(16, np.nan, np.float32)
    write_model("m.safetensors", weights, card)
    result = cryoden("denoise", "raw", "--model", "m.safetensors", "--output", "out")
    assert result.status == 2
    assert result.last_error == (
        "cryoden: The weights in m.safetensors are not all finite; the training failed. Train again."
    )
