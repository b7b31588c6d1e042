"""Verification bundles: another implementation, in NumPy alone, must pass; a wrong one must not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import pytest
import torch

from cryoden.formats.model_file import read_model
from cryoden.model.networks import build_network
from tests.helpers import write_halves, write_mrc


def index(folder: str = "ours") -> Dict[str, Any]:
    return json.loads(Path(folder, "index.json").read_text())


def read(name: str, folder: str = "ours") -> np.ndarray:
    """Read an item as another program would: from its index and its bytes."""
    said = index(folder)
    item = next(item for item in said["items"] if item["name"] == name)
    return np.frombuffer(Path(folder, item["file"]).read_bytes(), "<f4").reshape(item["shape"], order=said["order"])


# ---------------------------------------------------------------------- an independent CNN3, float64 NumPy
def convolve(images: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    return np.einsum("niyxkl,oikl->noyx", windows, weights) + bias[:, None, None]


def back(gradient: np.ndarray, images: np.ndarray, weights: np.ndarray) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradients of the images, the weights and the bias."""
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    of_weights = np.einsum("noyx,niyxkl->oikl", gradient, windows)
    turned = weights[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    return convolve(gradient, turned, np.zeros(weights.shape[1])), of_weights, gradient.sum((0, 2, 3))


def numpy_cnn3(folder: str) -> Dict[str, np.ndarray]:
    """Return output, loss and gradients of the network and batch in a bundle."""
    w = {n: read(f"conv{n}_weights", folder).astype(np.float64) for n in (1, 2, 3)}
    b = {n: read(f"conv{n}_bias", folder).astype(np.float64) for n in (1, 2, 3)}
    x0, target = (read(name, folder).astype(np.float64) for name in ("input", "target"))
    z1 = convolve(x0, w[1], b[1])
    z2 = convolve(np.maximum(z1, 0), w[2], b[2])
    output = convolve(np.maximum(z2, 0), w[3], b[3])
    results = {"output": output, "loss": np.array(np.mean((output - target) ** 2))}
    gradient = 2 * (output - target) / output.size
    for n, inner, z in ((3, np.maximum(z2, 0), z2), (2, np.maximum(z1, 0), z1), (1, x0, None)):
        gradient, results[f"conv{n}_weights_gradient"], results[f"conv{n}_bias_gradient"] = back(gradient, inner, w[n])
        if z is not None:
            gradient = gradient * (z > 0)
    return results


def write_theirs(change: Callable[[Dict[str, np.ndarray]], None] = lambda results: None) -> None:
    """Write a bundle `theirs` with the results of NumPy instead of ours."""
    shutil.copytree("ours", "theirs")
    results = numpy_cnn3("ours")
    change(results)
    for name, values in results.items():
        values.astype("<f4").ravel(order=index()["order"]).tofile(f"theirs/{name}.bin")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("words", [[], ["--reference", "ours"]])
def test_an_independent_implementation_passes(cryoden: Any, order: str, words: List[str]) -> None:
    done = cryoden("verify", "export", "--output", "ours", "--order", order, "--size", 32, "--batch-size", 3)
    assert done.status == 0
    assert done.out.startswith("16 items, loss ")
    write_theirs()
    result = cryoden("verify", "compare", "theirs", *words)
    assert result.status == 0, result.err
    n_items = 16 if words else 8
    assert result.out.endswith(f"{n_items} of {n_items} items within tolerance.\n")
    assert float(done.out.split("loss ")[1].split(":")[0]) == pytest.approx(float(read("loss", "theirs")), rel=1e-6)


@pytest.mark.parametrize(
    ("name", "factor", "words", "status"),
    [
        ("output", 1 + 5e-5, [], 1),
        ("output", 1 + 5e-6, [], 0),
        ("conv2_weights_gradient", 1 + 5e-5, [], 1),
        ("conv2_weights_gradient", 1 + 5e-5, ["--tolerance", "1e-4"], 0),
        ("conv1_bias_gradient", np.nan, [], 1),
        ("loss", 1 + 5e-6, [], 1),
        ("loss", 1 + 5e-6, ["--loss-tolerance", "1e-5"], 0),
        ("loss", 1 + 4e-7, [], 0),
    ],
)
def test_the_tolerances(cryoden: Any, name: str, factor: float, words: List[str], status: int) -> None:
    cryoden("verify", "export", "--output", "ours", "--size", 16)
    write_theirs(lambda results: results.update({name: results[name] * factor}))
    result = cryoden("verify", "compare", "theirs", *words)
    assert result.status == status
    if status:
        assert result.last_error.startswith(f"cryoden: failed: {name}: differs by ")
        assert "7 of 8 items within tolerance." in result.out
        assert "FAILED" in next(line for line in result.out.splitlines() if line.startswith(name))


def test_wrong_weights_are_found_with_a_reference(cryoden: Any) -> None:
    cryoden("verify", "export", "--output", "ours", "--size", 16)
    cryoden("verify", "export", "--output", "other", "--size", 16, "--seed", 2)
    assert cryoden("verify", "compare", "other").status == 0
    assert cryoden("verify", "compare", "other", "--reference", "ours").status == 1


@pytest.mark.parametrize(("network", "order", "n_layers"), [("unet", "C", 11), ("unet", "F", 11), ("resunet", "C", 17)])
def test_a_unet_and_its_own_model_file(
    cryoden: Any, make_model: Callable, network: str, order: str, n_layers: int
) -> None:
    """The bundle of a U-Net compares with itself, and its weights come back bit for bit."""
    model = make_model(network=network, channels=(4, 6, 8), seed=3)
    words = ["--model", model, "--order", order, "--size", 32]
    assert cryoden("verify", "export", "--output", "ours", *words).status == 0
    assert (index()["network"], index()["channels"], index()["order"]) == (network, [4, 6, 8], order)
    shapes = {item["name"]: item["shape"] for item in index()["items"]}
    assert shapes["conv1_weights"] == [4, 1, 3, 3]
    assert shapes[f"conv{n_layers}_bias"] == [1]
    assert cryoden("verify", "compare", "ours").status == 0
    words = ["--sampling-rate", 3.5, "--normalization", "standard"]
    assert cryoden("verify", "import-weights", "ours", "--output", "back", *words).status == 0
    (card, weights), (_, before) = read_model("back/model.safetensors"), read_model(model)
    assert (card.network, card.channels, card.sampling_rate) == (network, (4, 6, 8), 3.5)
    assert card.normalization["kind"] == "standard"
    for name, array in before.items():
        np.testing.assert_array_equal(weights[name], array)


@pytest.mark.parametrize("order", ["C", "F"])
def test_weights_of_another_trainer_denoise(tmp_path: Path, cryoden: Any, order: str) -> None:
    """Plain files without an index, as the specification names them; p95 means that the network sees 0 to 1."""
    Path("theirs").mkdir()
    weights = build_network("cnn3", seed=7).state_dict()
    for number, layer in enumerate(("layers.0", "layers.2", "layers.4"), 1):
        for kind, ending in (("weight", "weights"), ("bias", "bias")):
            values = weights[f"{layer}.{kind}"].numpy()
            values.ravel(order=order).tofile(f"theirs/conv{number}_{ending}.bin")
    words = ["--sampling-rate", 4, "--order", order]
    assert cryoden("verify", "import-weights", "theirs", "--output", "m", *words).status == 0
    image = write_halves(tmp_path, 1, (64, 64))["mic0"] + 20
    write_mrc(tmp_path / "a.mrc", image)
    words = ["--model", "m/model.safetensors", "--precision", "float32"]
    assert cryoden("denoise", "a.mrc", "--output", "out", *words).status == 0
    from tests.helpers import read_mrc

    percentile = np.percentile(image, 95)
    with torch.no_grad():
        network = build_network("cnn3", seed=7)
        seen = torch.from_numpy(np.clip(image / percentile, 0, 1).astype(np.float32))[None, None]
        expected = network(torch.nn.functional.pad(seen, (3, 3, 3, 3), mode="reflect"))[0, 0, 3:-3, 3:-3].numpy()
    found = read_mrc(Path("out/a.mrc"))
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.9999


def test_a_batch_of_patch_files(tmp_path: Path, cryoden: Any) -> None:
    write_halves(tmp_path, 3, (64, 64), mean=20.0)
    cryoden("patches", "export", "--odd", "odd", "--even", "even", "--output", "p", "--patch", 32, "--stride", 32)
    words = ["verify", "export", "--output", "ours", "--patches", "p", "--size", 24]
    assert cryoden(*words, "--batch-size", 3).status == 0
    pixels = np.fromfile("p/train_target.bin", "<f4").reshape(-1, 32, 32)
    np.testing.assert_array_equal(read("target")[:, 0], pixels[:3, :24, :24])
    result = cryoden(*words, "--batch-size", 300)
    assert result.last_error == (
        "cryoden: p holds 8 patches of 32 px, but 300 of 24 px are wanted. Choose another --batch-size."
    )


# ---------------------------------------------------------------------- bad input
def spoil(kind: str) -> str:
    """Damage the bundle `ours`; return what must be said."""
    said = index()
    names = {item["name"]: item for item in said["items"]}
    if kind == "missing file":
        Path("ours/conv2_bias_gradient.bin").unlink()
        return "Item ours/conv2_bias_gradient.bin is missing; write it."
    if kind == "missing item":
        said["items"].remove(names["conv2_bias_gradient"])
        reason = "Item conv2_bias_gradient is missing in ours/index.json; write it and name it there."
    elif kind == "missing weight":
        said["items"].remove(names["conv2_bias"])
        reason = "Item conv2_bias is missing in ours/index.json; write it and name it there."
    elif kind == "size":
        with open("ours/output.bin", "ab") as file:
            file.write(b"\0\0\0\0")
        return "Item ours/output.bin has 2052 bytes, but shape 2 x 1 x 16 x 16 in float32 needs 2048; write it"
    elif kind == "shape":
        names["output"]["shape"] = [2, 1, 8, 32]
        reason = "Item output in ours has shape 2 x 1 x 8 x 32; it must be 2 x 1 x 16 x 16."
    elif kind == "weight shape":
        names["conv2_weights"]["shape"] = [3, 3, 16, 16]
        reason = "Item conv2_weights in ours has shape 3 x 3 x 16 x 16; it must be 16 x 16 x 3 x 3."
    elif kind == "batch shape":
        names["input"]["shape"] = [1, 2, 16, 16]
        reason = (
            "Items input and target in ours have shapes (1, 2, 16, 16) and (2, 1, 16, 16); both must be (patches, 1, "
        )
    elif kind == "big-endian":
        np.fromfile("ours/output.bin", "<f4").astype(">f4").tofile("ours/output.bin")
        return "Item ours/output.bin is big-endian; write its float32 numbers little-endian."
    elif kind == "says big":
        said["byte_order"] = "big"
        reason = "ours/index.json says byte_order 'big'; it must be little. Write the files so."
    elif kind == "order":
        said["order"] = "column"
        reason = "ours/index.json says order 'column'; it must be C or F. Write the files so."
    elif kind == "lacks":
        del said["network"]
        reason = "ours/index.json lacks network, channels, or an item's name, kind, shape or axes ('network')."
    elif kind == "network":
        said["network"] = "vit"
        reason = "The network of ours is 'vit'; known are unet, cnn3, resunet."
    elif kind == "format":
        said["format"] = "else"
        reason = "ours/index.json is no index of a verification bundle (format 'cryoden-verification')."
    else:
        Path("ours/index.json").unlink()
        return "ours holds no index.json; give the folder of a verification bundle."
    Path("ours/index.json").write_text(json.dumps(said))
    return reason


KINDS = ["missing file", "missing item", "missing weight", "size", "shape", "weight shape", "batch shape", "big-endian"]


@pytest.mark.parametrize("kind", [*KINDS, "says big", "order", "lacks", "network", "format", "no index"])
def test_bundles_that_cannot_be_compared(cryoden: Any, kind: str) -> None:
    cryoden("verify", "export", "--output", "ours", "--size", 16)
    reason = spoil(kind)
    result = cryoden("verify", "compare", "ours")
    assert result.status == 2
    assert result.last_error.startswith(f"cryoden: {reason}")


def test_weights_that_cannot_be_imported(cryoden: Any) -> None:
    words = ["verify", "import-weights", "w", "--output", "m", "--sampling-rate", 2]
    assert cryoden(*words).last_error == "cryoden: w is no folder; give the folder with conv1_weights.bin."
    Path("w").mkdir()
    assert cryoden(*words).last_error == "cryoden: Item w/conv1_weights.bin is missing; write it."
    np.full(144, np.nan, "<f4").tofile("w/conv1_weights.bin")
    assert "w/conv1_weights.bin has weights that are NaN or infinite" in cryoden(*words).last_error
    np.zeros(143, "<f4").tofile("w/conv1_weights.bin")
    assert "has 572 bytes, but shape 16 x 1 x 3 x 3 in float32 needs 576" in cryoden(*words).last_error
    Path("w/index.json").write_text('{"format": "cryoden-verification", "byte_order": "big"}')
    assert cryoden(*words).last_error.startswith("cryoden: w/index.json says byte_order 'big'; it must be little.")
    assert not Path("m").exists()


def test_sizes_that_do_not_suit_the_network(cryoden: Any) -> None:
    result = cryoden("verify", "export", "--output", "o", "--network", "unet", "--size", 20)
    assert result.last_error == "cryoden: Option --size is 20; for this network it must be a multiple of 8."


@pytest.mark.parametrize("network", ["cnn3", "unet", "resunet"])
def test_step_benchmark(cryoden: Any, network: str) -> None:
    words = ["--network", network, "--channels", 4, 8, "--size", 34, "--batch-size", 2, "--steps", 2, "--device", "cpu"]
    result = cryoden("verify", "benchmark", *words)
    assert result.status == 0
    lines = result.out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["forward", "backward", "adam", "step"]
    times = json.loads(lines[4])
    total = times["forward"] + times["backward"] + times["adam"]
    assert times["crops_per_second"] == pytest.approx(2 / total)
    assert not Path("failures.json").exists()


@pytest.mark.parametrize("words", [["--batch-size", "0"], ["--size", "3"], ["--channels", "4", "0"]])
def test_options_out_of_range(cryoden: Any, words: List[str]) -> None:
    result = cryoden("verify", "export", "--output", "o", *words)
    assert result.status == 2
    assert words[0] in result.last_error
    assert cryoden("verify", "compare", "o", "--tolerance", "-1").last_error.startswith("cryoden: Option --tolerance")
