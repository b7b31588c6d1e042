"""The report, its pictures, the inside of a network, and the contact sheet."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from dataclasses import asdict, replace
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Callable, List, Tuple

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from cryoden import __version__
from cryoden.config import EvaluateConfig, ShowConfig
from cryoden.data.normalize import STANDARD
from cryoden.errors import FileError, Problem, Remedy
from cryoden.evaluation.evaluate import evaluate
from cryoden.formats.files import read_json, write_json
from cryoden.formats.model_file import ModelCard, write_model
from cryoden.formats.outcome import write_failures
from cryoden.metrics.ground_truth import truth_maps
from cryoden.model import inspection
from cryoden.model.inspection import N_GRADIENTS, inspect_network
from cryoden.model.networks import CNN3, build_network
from cryoden.report import evaluation_figures as figures
from cryoden.report import html_report
from cryoden.report.contact_sheet import pick_crops, plot_crops
from cryoden.report.evaluation_result import Evaluated, denoised_cut, read_evaluation
from cryoden.report.html_report import chosen_micrographs, write_report
from cryoden.report.inspection_figures import plot_inside
from tests.helpers import RATE, Result, blurring_cnn3, clean_signal, leftovers, read_mrc, write_halves, write_mrc

Run = Callable[..., Result]
SHAPE = (96, 96)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Evaluate three simulated micrographs with their truth, once."""
    folder = tmp_path_factory.mktemp("evaluated")
    for name, image in write_halves(folder, n=3, shape=SHAPE, noise=1.0, mean=20.0).items():
        write_mrc(folder / "truth" / f"{name}.mrc", image)
    write_model(folder / "m.safetensors", blurring_cnn3(), ModelCard("cnn3", (), RATE, asdict(STANDARD), {}))
    config = EvaluateConfig(
        odd=str(folder / "odd"), even=str(folder / "even"), truth=str(folder / "truth"), output=str(folder / "out"),
        model=(str(folder / "m.safetensors"),), topaz="no", bootstrap=20, band=(300.0, 12.0),
    )  # fmt: skip
    evaluate(config)
    return folder / "out"


@pytest.fixture
def evaluated(finished: Path) -> Evaluated:
    """Return the finished evaluation."""
    return read_evaluation(finished)


class Page(HTMLParser):
    """What an HTML file refers to, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: List[str] = []
        self.open: List[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: List[Tuple[str, Any]]) -> None:
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def html(finished: Path) -> str:
    """Return the report of the finished evaluation."""
    (finished / "only_side_by_side.png").touch()  # of a report on one micrograph
    return write_report(finished).read_text()


def test_report_is_one_whole_file_that_needs_nothing_else(evaluated: Evaluated, html: str) -> None:
    assert not (evaluated.folder / "only_side_by_side.png").exists()
    page = Page(html)
    assert page.open == []
    assert len(page.sources) >= 10
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert "http" not in html
    best = evaluated.leader().bands["300-12"].r2
    assert f"{best.value:.3f} ± {best.error:.3f}" in page.text
    for words in ("ring-wise Wiener", "best Gaussian", "raw (unprocessed half)", "Topaz-Denoise", "a constant image",
                  "Against the truth", "PSNR > 18 dB", "SSIM > 0.85", "Inside the network", "How to read "
                  "this"):  # fmt: skip
        assert words in page.text
    pictures = {path.stem for path in evaluated.folder.glob("*.png")}
    kinds = ("raw", "denoised", "side_by_side", "residual", "truth")
    assert pictures == {
        "scores", "fidelity", "bands", "errors", "residual", "spectra", "micrographs", "inside_model1",
        *(f"{word}_{kind}" for word in ("best", "median", "worst") for kind in kinds),
    }  # fmt: skip
    assert leftovers(evaluated.folder) == []


def test_report_says_first_what_run_it_is_about(html: str, finished: Path) -> None:
    line = html[html.index('<p class="facts">') : html.index("<h1>")]
    facts = re.findall("<span>(.*?)</span>", line)
    assert facts[0] == "/".join(finished.parts[-2:])
    assert datetime.strptime(facts[1], "%d %B %Y, %H:%M").date() == datetime.now().date()
    assert facts[2:] == [f"cryoden {__version__}", "3 micrographs, mic0 to mic2", "96 x 96 px at 4 Å/px"]


def test_pictures_stand_two_by_two_before_the_one_table(html: str, finished: Path) -> None:
    visible = html[html.index("<h1>") : html.index("<details>")]
    grids = visible.split('<div class="grid">')[1:]
    shown = [re.findall(r"base64,([^\"]*)", grid.split("</div>")[0]) for grid in grids]
    assert [len(images) for images in shown] == [4, 4]
    sizes = {base64.b64decode(image)[16:24] for images in shown for image in images}  # width and height of a PNG
    assert len(sizes) == 1
    assert visible.count("<table>") == 1
    assert visible.index("<img") < visible.index("<table>")

    cells = re.findall(r"<td>(-?\d[^<]*)</td>", visible[visible.index("<table>") :])
    assert len(cells) >= 5 * 4
    assert all(re.fullmatch(r"-?\d+\.\d{3}( ± \d\.\d{3})?", cell) for cell in cells)
    assert "Å" not in visible[visible.index("<table>") : visible.index("</table>")]  # one band, which is said beside it


def test_details_are_folded_with_where_the_thresholds_come_from(html: str) -> None:
    folded = html[html.index("Details for method developers") :]
    for words in (
        "the specification that cryoden was written to",
        "PSNR &gt; 18 dB",
        "R², 20-12 Å",
        "Inside the network",
    ):
        assert words in folded
        assert words not in html[: html.index("Details for method developers")]
    assert "<details open" not in html


def test_report_names_no_option(evaluated: Evaluated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html_report, "list_pictures", lambda evaluated: [])
    content, failures = read_json(evaluated.folder / "metrics.json"), read_json(evaluated.folder / "failures.json")
    remedy = Remedy("set", "model")
    absent = [replace(evaluated.table.absent[0], reason=Problem("file", "None was given.", remedy=remedy))]
    write_json(evaluated.folder / "metrics.json", replace(evaluated.table, absent=absent).to_dict())
    write_failures(evaluated.folder, {"mic9": Problem("file", "mic9 is damaged.", remedy=Remedy("other_folder"))})
    text = Page(write_report(evaluated.folder).read_text()).text.split("}\n</style>")[-1]
    write_json(evaluated.folder / "metrics.json", content)
    write_json(evaluated.folder / "failures.json", failures)
    assert "Left out: mic9 is damaged." in text
    assert "None was given." in text
    assert "--" not in text[text.index("recovers") :]


@pytest.mark.long
def test_report_prints_on_one_page_of_a4(finished: Path, html: str, tmp_path: Path) -> None:
    (finished / "report.html").write_text(html)
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no Chromium here")
    report, pdf = finished / "report.html", tmp_path / "report.pdf"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer", f"--print-to-pdf={pdf}"]
    subprocess.run([browser, *options, f"file://{report}"], check=True, capture_output=True, timeout=120)
    width, height = map(float, re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", pdf.read_bytes())[0])
    assert (round(width), round(height)) == (595, 842)
    assert len(re.findall(rb"/Type /Page\b", pdf.read_bytes())) == 2  # the best and the worst micrograph on the second


def test_best_median_and_worst_are_in_the_order_of_r2(evaluated: Evaluated) -> None:
    r2 = [evaluated.leader().micrographs[name].r2 for _, name in chosen_micrographs(evaluated)]
    assert r2 == sorted(r2, reverse=True)


def test_a_name_cannot_break_the_report(cryoden: Run) -> None:
    name = "<b>&amp"
    write_halves(Path("plain"), n=1, shape=SHAPE)
    for half in ("odd", "even"):
        Path(half).mkdir()
        (Path("plain") / half / "mic0.mrc").rename(Path(half) / f"{name}.mrc")
    assert cryoden("evaluate", "--odd", "odd", "--even", "even", "--output", "out", "--topaz", "no").status == 0
    html = Path("out/report.html").read_text()
    assert "<b>&amp" not in html.replace("&lt;b&gt;&amp;amp", "")
    assert name in Page(html).text


def test_dollars_in_names_are_no_formulas(cryoden: Run, make_model: Callable[..., Path]) -> None:
    name = r"a$\frac{1$b"
    write_halves(Path("plain"), n=1, shape=SHAPE)
    for half in ("odd", "even"):
        Path(half).mkdir()
        (Path("plain") / half / "mic0.mrc").rename(Path(half) / f"{name}.mrc")
    models = [make_model(file).name for file in ("x$y$.safetensors", r"$\sum.safetensors")]
    words = ["--odd", "odd", "--even", "even", "--output", "out", "--topaz", "no", "--model", *models]
    result = cryoden("evaluate", *words)
    assert result.status == 0, result.err
    assert len(list(Path("out").glob("*.png"))) == 13
    figure = drawn(figures.plot_side_by_side, read_evaluation("out"), name)
    figure.canvas.draw()
    assert figure.get_suptitle() == r"a\$\frac{1\$b: one half, denoised"
    assert cryoden("show", "--odd", "odd", "--even", "even", "--output", "sheet", "--crop", 32).status == 0


def test_report_without_an_evaluation() -> None:
    with pytest.raises(FileError, match=r"metrics\.json does not exist"):
        write_report(".")


def drawn(plot: Callable[..., None], *words: Any) -> Figure:
    figure = Figure(figsize=(8, 5))
    plot(figure, *words)
    return figure


def test_fidelity_shows_every_network_and_the_ceiling(evaluated: Evaluated) -> None:
    axes = drawn(figures.plot_fidelity, evaluated).axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "ceiling: a perfect denoiser" in labels
    assert evaluated.leader().label in labels
    line = next(line for line in axes.get_lines() if line.get_label() == evaluated.leader().label)
    expected = evaluated.leader().curves.frc_clean
    shown = np.isfinite(np.asarray(line.get_ydata(), float))
    np.testing.assert_array_equal(np.asarray(line.get_ydata(), float)[shown], expected[shown])


def test_many_micrographs_become_a_histogram(evaluated: Evaluated, monkeypatch: pytest.MonkeyPatch) -> None:
    bars = drawn(figures.plot_micrograph_scores, evaluated).axes[0]
    assert [label.get_text() for label in bars.get_yticklabels()] == evaluated.table.order
    monkeypatch.setattr(figures, "MAX_BARS", 2)
    counts = drawn(figures.plot_micrograph_scores, evaluated).axes[0]
    assert sum(patch.get_height() for patch in counts.patches) == 3


def test_cut_of_a_filter_is_the_filtered_image(evaluated: Evaluated) -> None:
    measurement = evaluated.measurement("mic1")
    raw, gaussian, network = (
        denoised_cut(next(r for r in evaluated.rows() if r.key == key), measurement)
        for key in ("raw", "gaussian", "model1")
    )
    assert gaussian.std() < 0.8 * raw.std()
    assert network.std() < 0.8 * raw.std()
    assert not np.allclose(gaussian, network)


# ------------------------------------------------------------------ maps of invention and deletion
def test_maps_show_where_structure_was_invented_and_deleted() -> None:
    truth = clean_signal((256, 256), 1, 3.0)
    y, x = np.mgrid[:256, :256]
    blob = 6 * np.exp(-((y - 64) ** 2 + (x - 64) ** 2) / 50) * np.cos(x / 3)
    hole = np.exp(-((y - 192) ** 2 + (x - 180) ** 2) / 400)
    other = clean_signal((256, 256), 2, 3.0)
    invented = truth_maps(truth + blob, truth, RATE, (300.0, 12.0)).invented
    deleted = truth_maps(truth * (1 - hole) + 0.02 * other, truth, RATE, (300.0, 12.0)).deleted
    for image, centre in ((invented, (64, 64)), (deleted, (192, 180))):
        peak = np.unravel_index(np.argmax(image), image.shape)
        assert np.hypot(peak[0] - centre[0], peak[1] - centre[1]) < 20
        assert image.max() > 5 * np.median(image)
    nothing = truth_maps(truth, truth, RATE, (300.0, 12.0))
    assert max(nothing.invented.max(), nothing.deleted.max()) < 1e-6


# ------------------------------------------------------------------ inside a network
def test_receptive_field_of_three_convolutions_is_seven_pixels() -> None:
    network = CNN3()
    network.load_state_dict({name: torch.from_numpy(array) for name, array in blurring_cnn3().items()})
    inside = inspect_network(network, np.random.default_rng(1).normal(size=(32, 32)))
    assert inside["gradient"].shape == (7, 7)
    kernel = np.array([1, 6, 15, 20, 15, 6, 1]) / 64  # three binomial blurs
    np.testing.assert_allclose(inside["gradient"], np.outer(kernel, kernel), atol=1e-6)
    assert tuple(inside["radii"][:2]) == (3, 3)
    np.testing.assert_array_equal(inside["weights"], blurring_cnn3()["layers.0.weight"][:, 0])
    assert inside["n_gradients"] == N_GRADIENTS


def test_a_network_that_sees_far_is_asked_at_fewer_places_and_the_picture_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, cut = build_network("unet", (4, 6, 8)), np.random.default_rng(1).normal(size=(64, 64))

    def title() -> str:
        figure = Figure()
        inside = inspect_network(network, cut)
        plot_inside(figure, inside)
        return figure.subfigs[0].subfigs[1].get_suptitle()

    assert title() == f"receptive field, measured by gradient, mean of {N_GRADIENTS} places"
    monkeypatch.setattr(inspection, "GRADIENT_PIXELS", (2 * network.receptive_radius) ** 2)
    assert title() == "receptive field, measured by gradient at one place (a large network)"


@pytest.mark.parametrize("name", ["unet", "resunet"])
def test_inside_of_a_unet_has_every_level(name: str) -> None:
    network = build_network(name, (4, 6, 8))
    inside = inspect_network(network, np.random.default_rng(1).normal(size=(70, 66)))
    levels = {name.split(" ", 2)[2]: maps.shape for name, maps in inside.items() if name.startswith("level")}
    assert levels == {
        "down 1": (4, 68, 64), "down 2": (6, 34, 32), "down 3": (6, 17, 16), "up 2": (6, 34, 32), "up 1": (4, 68, 64),
    }  # fmt: skip
    constructed, measured, most = inside["radii"]
    assert constructed == network.receptive_radius
    assert most <= measured <= constructed
    assert measured > 6  # further than the convolutions of the first level alone


# ------------------------------------------------------------------ contact sheet
def show_config(**options: Any) -> ShowConfig:
    return ShowConfig(odd="odd", even="even", output="sheet", **{"crop": 32, **options})


def test_show_writes_sheets_of_four_crops(cryoden: Run) -> None:
    write_halves(Path(), n=5, shape=SHAPE)
    result = cryoden("show", "--odd", "odd", "--even", "even", "--output", "sheet", "--crop", 32)
    assert result.status == 0, result.err
    assert "5 of 5 micrographs are shown: sheet/contact_sheet_1.png, sheet/contact_sheet_2.png" in result.out
    assert sorted(path.name for path in Path("sheet").glob("*.png")) == ["contact_sheet_1.png", "contact_sheet_2.png"]


def test_crops_are_the_same_place_of_both_halves() -> None:
    write_halves(Path(), n=2, shape=SHAPE)
    crops, _ = pick_crops(show_config(crops=3))
    assert len(crops) == 6
    for crop in crops:
        y, x = crop.place
        for half, image in (("odd", crop.odd), ("even", crop.even)):
            np.testing.assert_array_equal(image, read_mrc(Path(half) / f"{crop.name}.mrc")[y : y + 32, x : x + 32])
    correlation = np.corrcoef(*(read_mrc(Path(half) / "mic0.mrc")[::2].ravel() for half in ("odd", "even")))[0, 1]
    assert crops[0].correlation == pytest.approx(correlation, abs=1e-6)
    axes = drawn(plot_crops, crops[:2]).axes
    assert [a.get_title() for a in axes[:3]] == ["mic0\nodd half", "even half", "sum of both"]
    assert axes[3].get_title().startswith("the difference should show no specimen")
    assert len(axes) == 10


@pytest.mark.parametrize(
    "change", [{"seed": 2}, {"crop": 48}, {"crops": 2}, {"micrographs": 2}, {"sampling_rate": 6.0}]
)
def test_options_change_what_is_shown(change: Any) -> None:
    write_halves(Path(), n=4, shape=SHAPE)
    before, after = pick_crops(show_config())[0], pick_crops(show_config(**change))[0]
    assert [(c.name, c.place, c.odd.shape, c.sampling_rate) for c in before] != [
        (c.name, c.place, c.odd.shape, c.sampling_rate) for c in after
    ]


def test_show_names_what_it_leaves_out(cryoden: Run) -> None:
    write_halves(Path(), n=3, shape=SHAPE)
    write_mrc(Path("odd/mic1.mrc"), np.full(SHAPE, np.nan, np.float32))
    Path("even/mic2.mrc").unlink()
    words = ["show", "--odd", "odd", "--even", "even", "--output", "sheet", "--crop", 32]
    result = cryoden(*words)
    assert result.status == 1
    assert re.search(r"odd/mic1\.mrc cannot be used: it has pixels that are NaN", result.err)
    assert "'mic2' has an odd half but no even half" in result.err
    Path("odd/mic0.mrc").write_bytes(Path("odd/mic1.mrc").read_bytes())
    nothing = cryoden(*words)
    assert nothing.status == 2
    assert "None of 2 micrographs could be shown; the first reason:" in nothing.last_error
