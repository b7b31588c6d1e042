"""What is wrong with halves, truths or Topaz is named, with what to do."""

from __future__ import annotations

import os
import re
import stat
import sys
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import scipy.ndimage

from cryoden.config import EvaluateConfig
from cryoden.errors import OptionError
from tests.helpers import Result, clean_signal, images_in, leftovers, read_mrc, write_halves, write_mrc

Run = Callable[..., Result]
WORDS = ["evaluate", "--odd", "odd", "--even", "even", "--output", "out", "--band", 300, 12, "--topaz", "no"]
SHAPE = (128, 128)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the drawing, which takes seconds and has its own tests."""
    monkeypatch.setattr("cryoden.report.html_report.write_report", lambda folder: Path(folder) / "report.html")


def test_halves_swapped_between_micrographs_are_named(blur_model: Path, cryoden: Run) -> None:
    """Three micrographs keep theirs, two have exchanged their even halves."""
    write_halves(Path(), n=5, shape=SHAPE, noise=1.0)
    os.rename("even/mic1.mrc", "even/other.mrc")
    os.rename("even/mic3.mrc", "even/mic1.mrc")
    os.rename("even/other.mrc", "even/mic3.mrc")
    result = cryoden(*WORDS, "--model", blur_model)
    assert result.status == 1
    for one, other in (("mic1", "mic3"), ("mic3", "mic1")):
        assert f"The halves of '{one}' are swapped with those of '{other}'" in result.err
    assert "Rename the files so that both halves of a micrograph have its name." in result.last_error
    assert "3 of 5 micrographs are evaluated" in result.out


def test_all_halves_swapped_are_nothing_to_work_with(cryoden: Run) -> None:
    write_halves(Path(), n=2, shape=SHAPE, noise=1.0)
    os.rename("even/mic0.mrc", "even/other.mrc")
    os.rename("even/mic1.mrc", "even/mic0.mrc")
    os.rename("even/other.mrc", "even/mic1.mrc")
    result = cryoden(*WORDS)
    assert result.status == 2
    assert (
        "None of 2 micrographs could be evaluated; the first reason: The halves of 'mic0' are swapped"
        in result.last_error
    )
    assert images_in(Path("out")) == ["log.jsonl"]
    assert leftovers(Path()) == []


@pytest.mark.parametrize(("half", "other"), [("odd", "even"), ("even", "odd")])
def test_one_half_smoothed(cryoden: Run, half: str, other: str) -> None:
    write_halves(Path(), n=3, shape=SHAPE, noise=1.0)
    write_mrc(Path(half) / "mic1.mrc", scipy.ndimage.gaussian_filter(read_mrc(Path(half) / "mic1.mrc"), 1.0))
    result = cryoden(*WORDS)
    assert result.status == 1
    assert f"The {half} half of 'mic1' was smoothed: at high frequencies it has" in result.last_error
    assert f"of the {other} half's power" in result.last_error
    assert "Give both halves as motion correction wrote them." in result.last_error


def test_unequal_doses_are_no_smoothing(cryoden: Run) -> None:
    """One half of 3 frames, one of 5: each is scaled to its own deviation, and the noise power stays alike."""
    rng = np.random.default_rng(1)
    clean = 5 + 0.5 * clean_signal(SHAPE, 1)
    write_mrc(Path("odd/mic0.mrc"), rng.poisson(3 * clean))
    write_mrc(Path("even/mic0.mrc"), rng.poisson(5 * clean))
    assert cryoden(*WORDS).status == 0


def test_the_same_file_as_both_halves(cryoden: Run) -> None:
    write_halves(Path(), n=2, shape=SHAPE)
    words = ["evaluate", "--odd", "odd", "--even", "odd", "--output", "out"]
    result = cryoden(*words)
    assert result.status == 2
    assert "Both halves of 'mic0' are the same file odd/mic0.mrc; give odd and even micrographs." in result.last_error
    write_mrc(Path("even/mic0.mrc"), read_mrc(Path("odd/mic0.mrc")))
    copied = cryoden(*WORDS)
    assert copied.status == 1
    assert "Both halves of 'mic0' are the same image; the noise of odd and even must differ." in copied.last_error


def test_zero_mean_sets_have_no_psnr_and_ssim(cryoden: Run) -> None:
    write_halves(Path(), n=2, shape=SHAPE)
    result = cryoden(*WORDS)
    assert result.status == 0
    assert "2 of 2 micrographs (such as 'mic0', 5" in result.err
    assert "have their background subtracted: PSNR and SSIM are left out" in result.err
    assert "Give sums of frames to have these two as well." in result.err
    assert '"psnr": null' in Path("out/metrics.json").read_text()
    write_halves(Path("counts"), n=2, shape=SHAPE, mean=20.0)
    counts = cryoden("evaluate", "--odd", "counts/odd", "--even", "counts/even", "--output", "c", "--topaz", "no")
    assert "background" not in counts.err


def test_a_pattern_that_all_micrographs_share_is_reported(cryoden: Run) -> None:
    shadow = clean_signal(SHAPE, 77, 4.0)
    for number in range(8):
        own = clean_signal(SHAPE, number, 4.0)
        rng = np.random.default_rng(number)
        for half in ("odd", "even"):
            write_mrc(Path(half) / f"mic{number}.mrc", own + shadow + rng.normal(size=SHAPE))
    result = cryoden(*WORDS)
    assert result.status == 0
    share = float(re.search(r"Different micrographs correlate: (\d+) %", result.err)[1])
    assert 30 < share < 70  # half of the signal is the shadow
    assert "Correct the gain of the movies and split them again." in result.err
    write_halves(Path("good"), n=8, shape=SHAPE, noise=1.0)
    good = cryoden("evaluate", "--odd", "good/odd", "--even", "good/even", "--output", "g", "--topaz", "no")
    assert "correlate" not in good.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda image: (image[:-2], 4.0), "The truth of 'mic1' is 128 x 126 px but its halves are 128 x 128 px"),
        (lambda image: (image, 5.0), "The truth of 'mic1' has 5 Å/px but its halves have 4 Å/px"),
        (
            lambda image: (np.full_like(image, 3.0), 4.0),
            "truth/mic1.mrc cannot be used: it is constant",
        ),
        (None, "'mic1' has no truth in truth; give the clean image of every micrograph."),
    ],
)
def test_truth_that_cannot_be_used(cryoden: Run, change: Callable, message: str) -> None:
    for name, image in write_halves(Path(), n=3, shape=SHAPE).items():
        image, rate = change(image.astype(np.float32)) if name == "mic1" and change else (image, 4.0)
        if name != "mic1" or change:
            write_mrc(Path("truth") / f"{name}.mrc", image, rate)
    result = cryoden(*WORDS, "--truth", "truth")
    assert result.status == 1
    assert message in result.last_error


@pytest.mark.parametrize("shape", [(1, 500), (500, 2), (15, 15)])
def test_a_strip_beside_good_micrographs_is_named(cryoden: Run, shape: tuple) -> None:
    write_halves(Path(), n=2, shape=SHAPE)
    for half in ("odd", "even"):
        write_mrc(Path(half) / "strip.mrc", np.random.default_rng(len(half)).normal(size=shape))
    result = cryoden(*WORDS)
    assert result.status == 1
    assert f"'strip' is {shape[1]} x {shape[0]} px; nothing can be measured on fewer than 16 px a side" in result.err
    assert "2 of 3 micrographs are evaluated" in result.out


def orthogonal(clean: np.ndarray) -> np.ndarray:
    """Return an image of the same power that has nothing in common with the given one."""
    other = clean_signal(clean.shape, 4242)
    power = np.abs(np.fft.rfft2(other)) ** 2
    cross = np.fft.rfft2(clean) * np.conj(np.fft.rfft2(other))
    return other - clean * float(cross.real.sum() / power.sum())


def test_truth_that_is_no_folder(cryoden: Run) -> None:
    write_halves(Path(), n=2, shape=SHAPE)
    result = cryoden(*WORDS, "--truth", "nowhere")
    assert result.last_error == (
        "cryoden: nowhere is neither a folder nor a STAR file; micrographs are given as one of these."
    )


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (orthogonal, "The truth of 'mic0' does not correlate with its halves"),
        (np.negative, "The truth of 'mic0' has inverted contrast"),
    ],
)
def test_truth_of_another_micrograph(cryoden: Run, truth: Callable, message: str) -> None:
    for name, image in write_halves(Path(), n=1, shape=(256, 256), noise=0.5).items():
        write_mrc(Path("truth") / f"{name}.mrc", truth(image))
    result = cryoden(*WORDS, "--truth", "truth")
    assert result.status == 2
    assert message in result.last_error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"band": (8.0, 300.0)},
            "Option --band is 8 300; it must be two periods in Å, the longer first, such as 300 8.",
        ),
        ({"model": ("a", "a")}, "Option --model names a model twice (a a); name each once."),
        ({"topaz": " "}, "Option --topaz is empty; it must be auto, no, or the command that starts Topaz."),
        ({"bootstrap": 5}, "Option --bootstrap is 5; it must be at least 10."),
        ({"scored": "some"}, "Option --scored is 'some'; it must be one of held-out, all."),
        ({"topaz_network": "fcnet"}, "Option --topaz-network is 'fcnet'; it must be one of unet, unet-small, affine."),
    ],
)
def test_options_that_break_a_rule(options: dict, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        EvaluateConfig(odd="odd", even="even", output="out", **options)
    assert str(caught.value) == message


def test_sampling_rate_finer_than_a_models(blur_model: Path, cryoden: Run) -> None:
    write_halves(Path(), n=2, shape=SHAPE, rate=2.0)
    result = cryoden(*WORDS, "--model", blur_model, "--sampling-rate", 3)
    assert result.status == 2
    assert "works at 4 Å/px, coarser than the 3 Å/px that were asked for" in result.last_error
    assert result.last_error.endswith("Give --sampling-rate 4.")


# ------------------------------------------------------------------ Topaz
def fake_topaz_source(loads: str = "unet_L2_v0.2.2.sav", status: int = 0, writes: bool = True) -> str:
    """Return a program that behaves as `topaz denoise` does: names its network on stderr, writes blurred images."""
    return f"""#!{sys.executable}
import sys, warnings, numpy, mrcfile, scipy.ndimage
from pathlib import Path
warnings.simplefilter("ignore")
words = sys.argv[1:]
assert words[:2] == ["denoise", "--arch"] and words[3:5] == ["--device", "-1"], words
print("# Loading model:unet", file=sys.stderr)
print("# loading pretrained model: {loads}", file=sys.stderr)
output = Path(words[words.index("--output") + 1])
for name in words[words.index("--output") + 2:] if {writes} else []:
    with mrcfile.open(name, permissive=True) as mrc:
        image, size = mrc.data, mrc.voxel_size
    with mrcfile.new(str(output / Path(name).name), overwrite=True) as mrc:
        mrc.set_data(scipy.ndimage.gaussian_filter(image, 1.5).astype("float32"))
        mrc.voxel_size = size
print("out of luck", file=sys.stderr)
sys.exit({status})
"""


def fake_topaz(**behaviour: Any) -> str:
    """Write the program of `fake_topaz_source` and return its path."""
    program = Path("fake-topaz")
    program.write_text(fake_topaz_source(**behaviour))
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    return str(program.resolve())


def test_topaz_is_found_where_it_is_installed_beside_cryoden(
    cryoden: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "topaz"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "main.py").write_text(fake_topaz_source())
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    write_halves(Path(), n=2, shape=SHAPE)
    result = cryoden(*WORDS[:-2])
    line = next(line for line in result.out.splitlines() if line.startswith("Topaz-Denoise unet"))
    assert "±" in line


def test_topaz_stands_in_the_table_with_the_network_that_it_loaded(cryoden: Run) -> None:
    write_halves(Path(), n=3, shape=SHAPE, mean=30.0)
    result = cryoden(*WORDS, "--topaz", fake_topaz())
    assert result.status == 0, result.err
    line = next(line for line in result.out.splitlines() if line.startswith("Topaz-Denoise unet"))
    assert "±" in line
    assert "pretrained unet_L2_v0.2.2.sav" in Path("out/metrics.json").read_text()
    assert not Path("out/topaz").exists()
    small = cryoden(
        *WORDS[:-2],
        "--overwrite",
        "--topaz",
        fake_topaz(loads="unet_small_L1_v0.2.2.sav"),
        "--topaz-network",
        "unet-small",
    )
    assert "Topaz-Denoise unet-small" in small.out


@pytest.mark.parametrize(
    ("program", "note"),
    [
        ({"loads": "unet_L2_v0.2.1.sav"}, "loaded unet_L2_v0.2.1.sav where unet_L2_v0.2.2.sav was asked for"),
        ({"status": 3}, "failed with status 3: out of luck"),
        ({"writes": False}, "left out 6 of 6 images, such as mic0_odd.mrc"),
        (
            None,
            "cannot be started: no-such-program: No such file or directory; install topaz-em here, or name its "
            "command. Give --topaz.",
        ),
    ],
)
def test_topaz_that_fails_says_so_in_its_row(cryoden: Run, program: dict, note: str) -> None:
    write_halves(Path(), n=2, shape=SHAPE)
    result = cryoden(*WORDS[:-2], "--topaz", "no-such-program" if program is None else fake_topaz(**program))
    assert result.status == 0, result.err
    line = next(line for line in result.out.splitlines() if line.startswith("Topaz-Denoise"))
    assert note in line


def test_an_evaluation_in_which_topaz_failed_goes_on_without_it(cryoden: Run) -> None:
    write_halves(Path(), n=2, shape=SHAPE)
    assert cryoden(*WORDS[:-2], "--topaz", "no-such-program").status == 0
    again = cryoden(*WORDS[:-2], "--topaz", fake_topaz())
    assert again.status == 2
    assert again.last_error == (
        "cryoden: out holds an evaluation without Topaz-Denoise, which was not there or failed. Give --topaz no."
    )
    assert cryoden(*WORDS).status == 0
    assert "±" in cryoden(*WORDS[:-2], "--topaz", fake_topaz(), "--overwrite").out.split("Topaz-Denoise unet")[1]


def test_topaz_that_fails_in_the_middle_of_an_evaluation_leaves_no_images(cryoden: Run) -> None:
    write_halves(Path(), n=2, shape=SHAPE)
    assert cryoden(*WORDS[:-2], "--topaz", fake_topaz()).status == 0
    Path("out/measurements/mic1.npz").unlink()
    again = cryoden(*WORDS[:-2], "--topaz", fake_topaz(status=1))
    assert again.status == 2
    assert again.last_error.endswith("it worked in the run that this one continues.")
    assert not Path("out/topaz").exists()


FAILS_ON_LATER_IMAGES = """
if any("mic2" in name for name in words):
    print("cannot bear it", file=sys.stderr)
    sys.exit(1)
"""


def test_topaz_that_fails_on_one_micrograph_fails_with_that_one_alone(
    cryoden: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has worked before: so it is there, and is asked for every image of the rest alone."""
    monkeypatch.setattr("cryoden.evaluation.evaluate.AHEAD_BYTES", 2 * 2 * 4 * SHAPE[0] * SHAPE[1])  # two at once
    write_halves(Path(), n=5, shape=SHAPE)
    program = Path("fake-topaz")
    source = fake_topaz_source()
    marker = "words = sys.argv[1:]\n"
    one_by_one = FAILS_ON_LATER_IMAGES.replace("mic2", "mic2_").replace("any(", "len(words) > 8 and any(")
    program.write_text(source.replace(marker, marker + one_by_one))
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    result = cryoden(*WORDS[:-2], "--topaz", str(program.resolve()))
    assert result.status == 0, result.err  # in company it failed, alone it did not
    assert "±" in result.out.split("Topaz-Denoise unet")[1]
    assert not Path("out/topaz").exists()


def test_topaz_is_started_once_for_many_micrographs(cryoden: Run) -> None:
    write_halves(Path(), n=4, shape=SHAPE)
    program = Path("fake-topaz")
    program.write_text(fake_topaz_source() + "\n")
    text = program.read_text().replace(
        "words = sys.argv[1:]\n", "words = sys.argv[1:]\nopen('starts', 'a').write('x')\n"
    )
    program.write_text(text)
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    assert cryoden(*WORDS[:-2], "--topaz", str(program.resolve())).status == 0
    assert Path("starts").read_text() == "x"


def test_absent_topaz_says_so(cryoden: Run) -> None:
    write_halves(Path(), n=2, shape=SHAPE)
    result = cryoden(*WORDS[:-2])
    line = next(line for line in result.out.splitlines() if line.startswith("Topaz-Denoise"))
    assert "Topaz is not installed; install topaz-em here, or name its command. Give --topaz." in line
