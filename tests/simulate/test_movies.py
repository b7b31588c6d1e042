"""Movies whose truth is known: is it true?"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

import numpy as np
import pytest
import scipy.stats
import starfile

from cryoden.config.simulate import SimulateMoviesConfig
from cryoden.movies.movie import Movie
from cryoden.simulate import movies
from cryoden.simulate.detector import HOT, Detector, count_type
from cryoden.simulate.facts import Facts
from cryoden.simulate.imaging import drift
from cryoden.simulate.movies import simulate_movies
from cryoden.simulate.optics import Optics
from cryoden.simulate.specimen import ICE_MEAN_FREE_PATH
from tests.helpers import Result, read_mrc, write_mrc

SMALL = ("--size", 64, 64, "--frames", 2, "--sampling-rate", 3, "--shape", "rod", "--particles", 0, "--movies", 1)

SIZE, RATE = 256, 2.0
PLAIN: Dict[str, Any] = {
    "particles": 0, "ice_thickness": 0.0, "gain_spread": 0.0, "dead_pixels": 0, "hot_pixels": 0, "drift": 0.0,
}  # fmt: skip


def simulate(folder: str, **options: Any) -> Dict[str, Facts]:
    usual = {"movies": 1, "size": (SIZE, SIZE), "frames": 6, "sampling_rate": RATE, "shape": "globule"}
    return simulate_movies(SimulateMoviesConfig(output=folder, **{**usual, **options}))


def frames_of(folder: str, name: str = "movie_0001") -> np.ndarray:
    return read_mrc(Path(folder, "movies", f"{name}.mrcs"))


def test_mean_dose_and_poisson_statistics() -> None:
    """Counts of an empty beam: the mean is the dose, every frequency of counts is Poisson's, frames are independent."""
    simulate("out", **PLAIN, dose_per_frame=0.4)
    counts = frames_of("out")
    assert counts.dtype == np.int8
    mean = 0.4 * RATE**2
    assert counts.mean() == pytest.approx(mean, abs=5 * np.sqrt(mean / counts.size))
    observed = np.bincount(counts.ravel(), minlength=8)
    expected = scipy.stats.poisson.pmf(np.arange(7), mean)
    table = np.append(observed[:7], observed[7:].sum()), counts.size * np.append(expected, 1 - expected.sum())
    assert scipy.stats.chisquare(*table).pvalue > 1e-4
    assert abs(np.corrcoef(counts[0].ravel(), counts[1].ravel())[0, 1]) < 5 / SIZE
    neighbours = np.corrcoef(counts[:, :, :-1].ravel(), counts[:, :, 1:].ravel())[0, 1]
    assert abs(neighbours) < 5 / np.sqrt(counts.size)


def test_ice_absorbs_its_share() -> None:
    simulate("out", **{**PLAIN, "ice_thickness": 1000.0}, ice_gradient=0.0, no_damage=True)
    expected = RATE**2 * np.exp(-1000.0 / ICE_MEAN_FREE_PATH)
    assert frames_of("out").mean() == pytest.approx(expected, rel=0.003)
    assert read_mrc(Path("out/truth/movie_0001.mrc")).mean() == pytest.approx(6 * expected, rel=0.003)


def test_gradient_of_the_ice() -> None:
    truths = []
    for gradient in (0.0, 1.0):
        folder = f"out{gradient}"
        simulate(folder, **{**PLAIN, "ice_thickness": 1000.0}, ice_gradient=gradient)
        truths.append(read_mrc(Path(folder, "truth/movie_0001.mrc")))
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
    slopes = [np.hypot((y * truth).mean(), (x * truth).mean()) * 12 / truth.mean() for truth in truths]
    assert slopes[0] < 0.06
    # Over the width across its direction (1 to 1.41 sides) the thickness changes by its mean.
    assert 0.15 < slopes[1] < 0.30


def test_power_spectrum_is_zero_where_the_ctf_is() -> None:
    """The truth's power at the zeros of the contrast transfer is far below that between them."""
    options = {
        "particles": 12,
        "drift": 0.0,
        "ice_gradient": 0.0,
        "blur": 0.0,
        "no_damage": True,
        "defocus_spread": 0.0,
    }
    facts = simulate("out", **options, defocus=1.2, carbon=1.0)["movie_0001"]
    assert facts.defocus == 12000
    truth = read_mrc(Path("out/truth/movie_0001.mrc")).astype(np.float64)
    window = np.outer(np.hanning(SIZE), np.hanning(SIZE))
    power = np.abs(np.fft.fft2((truth - truth.mean()) * window)) ** 2
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(SIZE, RATE), np.fft.fftfreq(SIZE, RATE)))
    ctf = Optics(300.0, 2.7, 0.1, 12000.0).ctf(k)
    band = (k > 0.03) & (k < 0.16)
    at_zeros, between = power[band & (np.abs(ctf) < 0.05)].mean(), power[band & (np.abs(ctf) > 0.8)].mean()
    assert at_zeros < 0.06 * between
    spread = np.corrcoef(power[band], ctf[band] ** 2)[0, 1]
    assert spread > 0.4


def test_same_seed_same_movies_whatever_the_number_of_threads_and_another_seed_others() -> None:
    for folder, options in (("a", {"threads": 1}), ("b", {"threads": 3}), ("c", {"seed": 2})):
        simulate(folder, particles=3, **options)
    for file in ("movies/movie_0001.mrcs", "truth/movie_0001.mrc", "truth/movie_0001.json", "gain.mrc", "defects.txt"):
        contents = [Path(folder, file).read_bytes() for folder in "abc"]
        assert contents[0] == contents[1], file
        assert contents[0] != contents[2], file


def test_particles_are_dark_and_lie_where_the_coordinates_say() -> None:
    options = {**PLAIN, "particles": 8}
    facts = simulate("out", **options, defocus=2.0, dose_per_frame=5.0)["movie_0001"]
    truth = read_mrc(Path("out/truth/movie_0001.mrc")).astype(np.float64)
    table = starfile.read("out/coordinates.star")["particles"]
    assert len(table) == len(facts.coordinates) > 3
    assert set(table["rlnMicrographName"]) == {"out/truth/movie_0001.mrc"}
    places = table[["rlnCoordinateX", "rlnCoordinateY"]].to_numpy()
    np.testing.assert_allclose(places, facts.coordinates, rtol=1e-5)
    inside = np.zeros(truth.shape, bool)
    y, x = np.mgrid[:SIZE, :SIZE]
    for px, py in places:
        inside |= np.hypot(x - px, y - py) < 12  # px of 2 A
    assert truth[inside].mean() < truth.mean() - 0.3 * truth.std()
    variance = (truth - truth.mean()) ** 2
    assert variance[inside].mean() > 3 * variance[~inside].mean()


def test_drift_moves_the_frames_by_what_is_recorded() -> None:
    options = {**PLAIN, "particles": 8, "drift": 40.0}
    shifts = np.array(simulate("out", **options, dose_per_frame=60.0, no_damage=True)["movie_0001"].shifts)
    np.testing.assert_array_equal(shifts[0], 0)
    assert np.hypot(*shifts[-1]) == pytest.approx(40.0 / RATE)
    frames = frames_of("out").astype(np.float64)
    first, last = (np.fft.fft2(frame - frame.mean()) for frame in (frames[0], frames[-1]))
    peak = np.unravel_index(np.argmax(np.fft.ifft2(last * first.conj()).real), first.shape)
    found = [p if p < SIZE / 2 else p - SIZE for p in peak]
    np.testing.assert_allclose(found, shifts[-1], atol=1.0)


def test_drift_slows_down() -> None:
    places = drift(40, 1.0, 20.0, np.random.default_rng(1))
    steps = np.hypot(*np.diff(places, axis=0).T)
    assert steps[:5].mean() > 2 * steps[-5:].mean()


def test_truth_is_the_mean_of_many_movies() -> None:
    """With no drift the gain-corrected frames scatter around the truth as Poisson counts do."""
    simulate("out", particles=6, drift=0.0, dose_per_frame=4.0, dead_pixels=0, hot_pixels=0)
    total = frames_of("out").sum(axis=0) * read_mrc(Path("out/gain.mrc")).astype(np.float64)
    truth = read_mrc(Path("out/truth/movie_0001.mrc")).astype(np.float64)
    gain = read_mrc(Path("out/gain.mrc")).astype(np.float64)
    deviations = (total - truth) / np.sqrt(truth * gain)
    assert abs(deviations.mean()) < 5 / SIZE
    assert deviations.std() == pytest.approx(1.0, abs=0.02)


def test_damage_takes_fine_detail_from_later_frames() -> None:
    fine = []
    for no_damage in (False, True):
        folder = f"out{no_damage}"
        simulate(folder, **{**PLAIN, "particles": 8}, dose_per_frame=10.0, no_damage=no_damage)
        truth = read_mrc(Path(folder, "truth/movie_0001.mrc")).astype(np.float64)
        power = np.abs(np.fft.rfft2((truth - truth.mean()) * np.outer(np.hanning(SIZE), np.hanning(SIZE)))) ** 2
        k = np.hypot(*np.meshgrid(np.fft.rfftfreq(SIZE, RATE), np.fft.fftfreq(SIZE, RATE)))
        fine.append([power[(k > low) & (k < low + 0.03)].mean() for low in (0.01, 0.15)])
    faded = np.divide(*fine)
    assert faded[1] < 0.2
    assert faded[0] > 2 * faded[1]


def test_blur_carbon_map_and_other_options_change_the_truth(tmp_path: Path) -> None:
    side = 24
    z = np.arange(side) - side / 2
    cube = (np.maximum.outer(np.maximum.outer(abs(z), abs(z)), abs(z)) < 8).astype(np.float32)
    write_mrc(tmp_path / "cube.mrc", cube, 4.0)
    base: Dict[str, Any] = {"particles": 6, "frames": 2}
    changes: Dict[str, Any] = {
        "blur": 1.5, "carbon": 0.5, "map": "cube.mrc", "potential": 5.0, "voltage": 200.0, "particles": 2,
        "spherical_aberration": 0.01,
        "amplitude_contrast": 0.3, "defocus": 3.0, "defocus_spread": 0.0, "ice_thickness": 600.0, "ice_gradient": 1.0,
        "dose_per_frame": 2.0, "no_damage": True,
    }  # fmt: skip
    simulate("base", **base)
    truth = read_mrc(Path("base/truth/movie_0001.mrc"))
    for name, value in changes.items():
        simulate(name, **{**base, name: value})
        assert not np.array_equal(read_mrc(Path(name, "truth/movie_0001.mrc")), truth), name
    share = (read_mrc(Path("carbon/truth/movie_0001.mrc")) < 0.93 * truth.mean()).mean()
    assert 0.3 < share < 0.7


def test_gain_and_defects_are_those_of_the_files() -> None:
    options = {**PLAIN, "gain_spread": 0.2, "dead_pixels": 5, "hot_pixels": 7}
    simulate("out", **options, dose_per_frame=2.0)
    total, gain = frames_of("out").sum(axis=0), read_mrc(Path("out/gain.mrc"))
    assert (1 / gain).std() == pytest.approx(0.2, rel=0.05)
    defects = np.loadtxt("out/defects.txt", dtype=int)
    assert defects.shape == (12, 4)
    defective = total[defects[:, 1], defects[:, 0]]
    assert np.sort(defective)[4] == 0
    assert np.sort(defective)[5] > 6 * 100  # 20 x 8 counts, cut off at 127 in int8
    corrected = Movie("out/movies/movie_0001.mrcs")
    assert corrected.sampling_rate == pytest.approx(RATE)
    good = np.ones(total.shape, bool)
    good[defects[:, 1], defects[:, 0]] = False
    assert (total * gain)[good].std() < 0.8 * total[good].std()
    flat = (total * gain)[good]
    assert flat.mean() == pytest.approx(6 * 2.0 * RATE**2, rel=0.003)


def test_counts_that_do_not_fit_into_a_byte() -> None:
    assert count_type(1.0) == np.int8
    assert count_type(60.0) == np.uint16
    simulate("out", **PLAIN, dose_per_frame=100.0)
    assert frames_of("out").dtype == np.uint16
    assert frames_of("out").mean() == pytest.approx(400, rel=0.001)
    detector = Detector(np.ones((4, 4), np.float32), np.array([0]), np.array([1]))
    counts = detector.count(np.ones((4, 4)), 10.0, np.dtype(np.int8), np.random.default_rng(1))
    assert counts[0, 0] == 0
    assert counts[0, 1] == 127 < 10 * HOT


def test_a_stopped_simulation_is_continued_and_another_one_is_refused(cryoden: Any) -> None:
    words = ["simulate", "movies", "--output", "out", "--size", 128, 128, "--frames", 3, "--sampling-rate", 3]
    words += ["--shape", "rod", "--particles", 4]
    assert cryoden(*words, "--movies", 1).status == 0
    first = Path("out/movies/movie_0001.mrcs")
    written = first.stat().st_mtime_ns
    result: Result = cryoden(*words, "--movies", 2)
    assert result.status == 0
    assert result.out.startswith("Simulated 2 movies with ")
    assert result.out.endswith("particles: out/movies.star\n")
    assert first.stat().st_mtime_ns == written
    tables = starfile.read("out/movies.star")
    assert list(tables["movies"]["rlnMicrographMovieName"]) == [f"out/movies/movie_000{i}.mrcs" for i in (1, 2)]
    assert list(tables["optics"]["rlnMicrographOriginalPixelSize"]) == [3.0]
    truths = starfile.read("out/micrographs.star")["micrographs"]
    assert (truths["rlnDefocusU"] == truths["rlnDefocusV"]).all()
    assert 10000 <= truths["rlnDefocusU"].min() <= truths["rlnDefocusU"].max() <= 20000
    before = first.read_bytes()
    first.unlink()
    assert cryoden(*words, "--movies", 2).status == 0
    assert first.read_bytes() == before  # made again, and the same
    refused = cryoden(*words, "--movies", 2, "--dose-per-frame", 2)
    assert refused.status == 2
    assert "was made with other options" in refused.last_error


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--dose-per-frame", "-1"], "Option --dose-per-frame is -1.0; it must be above 0 and finite."),
        (["--size", "20", "400"], "Option --size is 20 400; it must be rows and columns, each at least 64."),
        (["--carbon", "1.5"], "Option --carbon is 1.5; it must be between 0 and 1."),
        (["--frames", "1"], "Option --frames is 1; it must be at least 2."),
        (["--map", "none.mrc"], "none.mrc does not exist or is no file; check the path."),
    ],
)
def test_what_cannot_be_simulated(cryoden: Any, words: list, reason: str) -> None:
    result = cryoden("simulate", "movies", "--output", "out", *words)
    assert result.status == 2
    assert result.last_error == f"cryoden: {reason}"
    assert not Path("out").exists()


def test_map_larger_than_the_frames(tmp_path: Path, cryoden: Any) -> None:
    write_mrc(tmp_path / "m.mrc", np.ones((70, 70, 70), np.float32), 2.0)
    result = cryoden("simulate", "movies", "--output", "out", "--size", 128, 200, "--map", "m.mrc")
    assert result.status == 2
    assert result.last_error == (
        "cryoden: Map m.mrc is 70 voxels of 2 Å = 140 Å wide, but the frames are only 128 px of 1 Å = 128 Å. "
        "Give a smaller map or larger frames. Choose another --size."
    )
    assert not Path("out").exists()


@pytest.mark.parametrize("name", ["gain.mrc", "movies.star", "movies/movie_0001.mrcs", "truth/movie_0001.mrc"])
def test_files_that_no_simulation_made_are_not_overwritten(tmp_path: Path, cryoden: Any, name: str) -> None:
    path = write_mrc(tmp_path / "out" / name, np.ones((8, 8)))
    before = path.read_bytes()
    result = cryoden("simulate", "movies", "--output", "out", *SMALL)
    assert result.status == 2
    assert result.last_error == (
        f"cryoden: out/{name} is there, and was not made by this command. Choose another --output folder."
    )
    assert path.read_bytes() == before
    assert not Path("out/simulation.json").exists()


def test_a_truth_that_was_deleted_is_made_again(cryoden: Any) -> None:
    assert cryoden("simulate", "movies", "--output", "out", *SMALL).status == 0
    truth = Path("out/truth/movie_0001.mrc")
    before = truth.read_bytes()
    truth.unlink()
    assert cryoden("simulate", "movies", "--output", "out", *SMALL).status == 0
    assert truth.read_bytes() == before


def test_a_movie_that_is_deleted_while_the_command_runs_is_in_no_star_file(
    cryoden: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def describe_and_delete(name: str, facts: Facts) -> str:
        Path("out/movies", f"{name}.mrcs").unlink()
        return name

    monkeypatch.setattr(movies, "describe", describe_and_delete)
    result = cryoden("simulate", "movies", "--output", "out", *SMALL)
    assert result.status == 2
    assert result.last_error.startswith("cryoden: out/movies/movie_0001.mrcs was deleted while the command ran.")
    assert not Path("out/movies.star").exists()
