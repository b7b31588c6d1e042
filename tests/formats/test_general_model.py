from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import mrcfile
import numpy as np
import pytest

from cryoden.errors import ModelError
from cryoden.formats import general_model as general_model_file
from cryoden.formats.general_model import has_general_model, model_path
from cryoden.formats.model_file import ModelCard, read_card, read_model, write_model
from cryoden.formats.run_record import recorded_options
from cryoden.model.denoiser import Denoiser
from tests.helpers import RATE, ROOT, blurring_cnn3, read_mrc, two_halves, write_halves, write_mrc

GENERAL_CARD = {"version": 1, "rates": [3.0, 6.5]}


def test_the_word_names_the_file(general_model: Path) -> None:
    assert model_path("general") == str(general_model)
    assert model_path("./general") == "./general"
    assert model_path(Path("other.safetensors")) == "other.safetensors"
    assert read_card("general") == read_card(general_model)


def test_missing_from_an_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cryoden: Callable) -> None:
    monkeypatch.setattr(general_model_file, "GENERAL_FILE", tmp_path / "none.safetensors")
    assert not has_general_model()
    write_mrc(tmp_path / "mic.mrc", two_halves((64, 64), 1)[1])
    done = cryoden("denoise", "mic.mrc", "--model", "general", "--output", "out")
    assert done.status == 2
    assert done.err.splitlines() == [
        f"cryoden: This installation of cryoden lacks the general model ({tmp_path / 'none.safetensors'}); install "
        "cryoden again, or name a model file."
    ]


def test_it_belongs_to_the_package() -> None:
    said = subprocess.run(
        [sys.executable, "-c", "import setuptools; setuptools.setup = lambda **given: print(given['package_data'])\n"
         "exec(compile(open('setup.py').read(), 'setup.py', 'exec'), {'__file__': 'setup.py', '__name__': 'setup'})"],
        cwd=str(ROOT), capture_output=True, text=True, check=True,
    )  # fmt: skip
    packaged = general_model_file.GENERAL_FILE.relative_to(ROOT / "cryoden" / "model")
    assert f"'cryoden.model': ['{packaged}']" in said.stdout


def test_half_precision_becomes_float32(general_model: Path) -> None:
    _, weights = read_model("general")
    for name, array in blurring_cnn3().items():
        assert weights[name].dtype == np.float32
        np.testing.assert_allclose(weights[name], array, rtol=1e-3, atol=1e-6)


def test_what_it_is_called(general_model: Path, tmp_path: Path) -> None:
    assert read_card("general").label == Denoiser.load("general", "cpu").label == "General model"
    fine_tuned = ModelCard("resunet", (4, 8), 4.0, training={"options": {"from_model": "general"}})
    assert fine_tuned.label == "Residual U-Net"


def test_pixel_sizes_of_its_training(general_model: Path) -> None:
    assert read_card("general").rates == (3.0, 6.5)
    assert ModelCard("cnn3", (), 3.5).rates == (3.5, 3.5)


@pytest.mark.parametrize("general", [{}, {"rates": [3.0]}, {"rates": ["a", "b"]}, {"rates": [4.5, 6.5]}])
def test_damaged_pixel_sizes(tmp_path: Path, general: Any) -> None:
    card = ModelCard("cnn3", (), 4.0, training={"general": general})
    write_model(tmp_path / "m.safetensors", blurring_cnn3(), card)
    with pytest.raises(ModelError, match="damaged metadata"):
        read_card(tmp_path / "m.safetensors")


def test_denoise_by_the_word(general_model: Path, tmp_path: Path, cryoden: Callable) -> None:
    write_mrc(tmp_path / "mic.mrc", two_halves((64, 64), 1)[1])
    assert cryoden("denoise", "mic.mrc", "--model", "general", "--output", "a").status == 0
    assert cryoden("denoise", "mic.mrc", "--model", general_model, "--output", "b").status == 0
    np.testing.assert_array_equal(read_mrc(tmp_path / "a" / "mic.mrc"), read_mrc(tmp_path / "b" / "mic.mrc"))


def test_a_changed_file_is_noticed(general_model: Path, tmp_path: Path, cryoden: Callable) -> None:
    write_mrc(tmp_path / "mic.mrc", two_halves((64, 64), 1)[1])
    words = ("denoise", "mic.mrc", "--model", "general", "--output", "out")
    assert cryoden(*words).status == 0
    assert (recorded_options("out/denoise.json") or {})["model"]["training"] == {"general": GENERAL_CARD}

    weights = {name: 2 * array for name, array in blurring_cnn3().items()}
    write_model(general_model, weights, read_card(general_model))
    again = cryoden(*words)
    assert again.status == 2
    assert "was made with other options" in again.err


def test_evaluated_by_the_word(general_model: Path, tmp_path: Path, cryoden: Callable) -> None:
    write_halves(tmp_path, n=2)
    done = cryoden(
        "evaluate", "--odd", "odd", "--even", "even", "--model", "general", "--output", "out", "--topaz", "no",
        "--bootstrap", "10",
    )  # fmt: skip
    assert done.status == 0
    assert "does not say which micrographs it was trained on" not in done.err
    rows = json.loads((tmp_path / "out" / "metrics.json").read_text())["rows"]
    assert [row["label"] for row in rows if row["key"] == "model1"] == ["General model"]


# ---------------------------------------------------------------------- denoising without a model
def denoised_rate(rate: float, cryoden: Callable) -> float:
    """Return the A/px of what becomes of a micrograph."""
    write_mrc(Path("mic.mrc"), two_halves((64, 64), 1)[1], rate)
    done = cryoden("denoise", "mic.mrc", "--output", "out", "--overwrite")
    assert done.status == 0, done.err
    return float(mrcfile.open("out/mic.mrc", header_only=True).voxel_size.x)


def test_it_denoises_where_no_model_is_given(
    general_model: Path, cryoden: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "cryoden"):
        denoised_rate(RATE, cryoden)
    said = (
        "Denoising by the general model. How good it is on these micrographs is not measured: that takes their halves."
    )
    assert f"{said} To measure it, give both halves to cryoden evaluate, or to cryoden choose." in caplog.messages


@pytest.mark.parametrize(("rate", "becomes"), [(1.0, 4.0), (3.9, 4.0), (4.6, 4.6), (6.5, 6.5)])
def test_pixel_size_at_which_it_denoises(general_model: Path, cryoden: Callable, rate: float, becomes: float) -> None:
    assert denoised_rate(rate, cryoden) == pytest.approx(becomes, rel=0.04)  # sides are whole numbers of pixels


def test_pixels_that_are_too_coarse(general_model: Path, tmp_path: Path, cryoden: Callable) -> None:
    write_mrc(tmp_path / "mic.mrc", two_halves((64, 64), 1)[1], 7.5)
    done = cryoden("denoise", "mic.mrc", "--output", "out")
    assert done.status == 2
    assert done.last_error == (
        "cryoden: The only micrograph could not be denoised: mic.mrc has 7.5 Å/px; the general model is for "
        "micrographs of up to 6.5 Å/px. Give micrographs that are binned less, or train a model on these."
    )


def test_unknown_pixel_size(general_model: Path, tmp_path: Path, cryoden: Callable) -> None:
    write_mrc(tmp_path / "mic.mrc", two_halves((64, 64), 1)[1], 0.0)
    done = cryoden("denoise", "mic.mrc", "--output", "out")
    assert done.status == 2
    assert done.last_error == (
        "cryoden: The only micrograph could not be denoised: mic.mrc does not say its pixel size. Give --sampling-rate."
    )


def test_coarse_halves_are_evaluated_at_their_own_pixel_size(general_model: Path, cryoden: Callable) -> None:
    write_halves(Path(), n=2, rate=5.0)
    done = cryoden(
        "evaluate", "--odd", "odd", "--even", "even", "--model", "general", "--output", "out", "--topaz", "no",
        "--bootstrap", "10",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert json.loads(Path("out/metrics.json").read_text())["sampling_rate"] == pytest.approx(5.0)
