"""Import from an archive on the loopback address, served as a web server lists folders."""

import functools
import http.server
import json
import os
import threading
from pathlib import Path

import mrcfile
import numpy as np
from pyworkflow.tests import BaseTest, setupTestProject

from cryoden.errors import NetworkError
from cryoden.formats.outcome import read_ending
from cryoden_scipion.protocols import CryodenProtImportEmpiar

N_MOVIES, N_FRAMES, SHAPE, RATE = 3, 4, (24, 32), 1.25


def writeArchive(folder):
    """Write entry, map entry, movies and gain as the archive's two APIs and its file server have them."""
    imageset = {
        "name": "movies", "directory": "data/raw", "category": "micrographs - multiframe", "data_format": "MRC",
        "num_images_or_tilt_series": N_MOVIES, "frames_per_image": N_FRAMES, "pixel_width": RATE,
    }  # fmt: skip
    entry = {"title": "Test protein", "imagesets": [imageset], "cross_references": ["EMD-9999"]}
    microscopy = {
        "acceleration_voltage": {"valueOf_": "200"}, "nominal_cs": {"valueOf_": "1.4"},
        "image_recording_list": {"image_recording": [{"average_electron_dose_per_image": {"valueOf_": "40"}}]},
    }  # fmt: skip
    structure = {"structure_determination": [{"microscopy_list": {"microscopy": [microscopy]}}]}
    answers = {
        "api/entry/10999": {"EMPIAR-10999": entry},
        "maps/entry/EMD-9999": {"structure_determination_list": structure},
    }
    for path, answer in answers.items():
        os.makedirs(os.path.join(folder, os.path.dirname(path)), exist_ok=True)
        place = os.path.join(folder, path)
        if path.startswith("api"):  # the API is asked with a slash at the end
            os.makedirs(place)
            place = os.path.join(place, "index.html")
        with open(place, "w") as file:
            json.dump(answer, file)
    raw = os.path.join(folder, "files", "10999", "data", "raw")
    os.makedirs(raw)
    rng = np.random.default_rng(1)
    for number in range(N_MOVIES):
        with mrcfile.new(os.path.join(raw, f"movie{number}.mrcs")) as mrc:
            mrc.set_data(rng.poisson(3, (N_FRAMES, *SHAPE)).astype(np.int8))
            mrc.set_image_stack()
    with mrcfile.new(os.path.join(raw, "..", "gain.mrc")) as mrc:
        mrc.set_data(np.ones(SHAPE, np.float32))


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Lists and sends files without a word."""

    def log_message(self, *words):
        pass


class TestCryodenImportEmpiar(BaseTest):
    """The number of an entry in, movies out."""

    @classmethod
    def setUpClass(cls):
        setupTestProject(cls)
        cls.archive = os.path.abspath(cls.proj.getTmpPath("archive"))
        writeArchive(cls.archive)
        handler = functools.partial(QuietHandler, directory=cls.archive)
        cls.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=cls.server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{cls.server.server_port}"
        cls.addresses = {name: f"{address}/{name}" for name in ("api", "files", "maps")}

    @classmethod
    def tearDownClass(cls):
        cls.server.shutdown()
        cls.server.server_close()
        super().tearDownClass()

    def importEntry(self, **options):
        """Run the protocol on the archive."""
        given = {"entry": "10999", **self.addresses, **options}
        return self.launchProtocol(self.newProtocol(CryodenProtImportEmpiar, **given))

    def testMoviesWithTheArchivesAcquisition(self):
        """Pixel size, voltage, aberration, dose and gain are those of the archive."""
        protocol = self.importEntry()
        movies = protocol.outputMovies
        self.assertSetSize(movies, N_MOVIES)
        self.assertEqual(movies.getDim(), (SHAPE[1], SHAPE[0], N_FRAMES))
        self.assertAlmostEqual(movies.getSamplingRate(), RATE)
        acquisition = movies.getAcquisition()
        self.assertAlmostEqual(acquisition.getVoltage(), 200.0)
        self.assertAlmostEqual(acquisition.getSphericalAberration(), 1.4)
        self.assertAlmostEqual(acquisition.getDosePerFrame(), 10.0)
        self.assertEqual(mrcfile.read(movies.getGain()).shape, SHAPE)
        self.assertEqual([m.getMicName() for m in movies], [f"movie{n}.mrcs" for n in range(N_MOVIES)])
        self.assertIn("EMPIAR-10999: Test protein", protocol.summary())
        (methods,) = protocol.getParsedMethods()
        self.assertRegex(methods, r"^The data are \d movies? of EMPIAR-10999 \[\[.*\]\[Iudin2023\]\]  \(\d frames of ")

    def testWhatIsFilledInWins(self):
        """A subset, another acquisition, no gain."""
        options = {"voltage": 300.0, "sphericalAberration": 2.7, "dosePerFrame": 1.5, "samplingRate": 2.0}
        movies = self.importEntry(subset=2, gainFile="none", amplitudeContrast=0.07, **options).outputMovies
        self.assertSetSize(movies, 2)
        acquisition = movies.getAcquisition()
        self.assertAlmostEqual(acquisition.getVoltage(), 300.0)
        self.assertAlmostEqual(acquisition.getSphericalAberration(), 2.7)
        self.assertAlmostEqual(acquisition.getDosePerFrame(), 1.5)
        self.assertAlmostEqual(acquisition.getAmplitudeContrast(), 0.07)
        self.assertAlmostEqual(movies.getSamplingRate(), 2.0)
        self.assertFalse(movies.getGain())

    def testDamagedMovieIsNamed(self):
        """A movie that the archive sends without a header is left out, and the summary says so."""
        path = next(Path(self.archive).rglob("movie1.mrcs"))
        content = path.read_bytes()
        path.write_bytes(bytes(len(content)))
        try:
            protocol = self.importEntry()
        finally:
            path.write_bytes(content)
        self.assertSetSize(protocol.outputMovies, N_MOVIES - 1)
        self.assertIn("*Left out: 1*", protocol.summary())
        self.assertIn("movie1.mrcs", protocol.summary()[-1])

    def testPatternAndWrongEntries(self):
        """A name pattern chooses movies; a wrong number is refused by the form, an unknown one by the archive."""
        self.assertSetSize(self.importEntry(pattern="*1.mrcs").outputMovies, 1)
        problems = self.newProtocol(CryodenProtImportEmpiar, entry="one").validate()
        self.assertEqual(len(problems), 1, problems)
        self.assertTrue(problems[0].startswith("*EMPIAR entry* is 'one'"), problems)
        unknown = self.newProtocol(CryodenProtImportEmpiar, entry="10998", **self.addresses)
        with self.assertRaises(Exception):
            self.launchProtocol(unknown)
        ending = read_ending(unknown._outcomeFile())
        self.assertTrue(ending.has(NetworkError.kind))
        self.assertIn(unknown._problemsText(ending.problems), unknown.getErrorMessage())
