"""Simulated movies: outputs on disk, and that they go through import-free workflows of ours."""

import os

import mrcfile
import numpy as np
from pyworkflow.tests import BaseTest, setupTestProject

from cryoden_scipion.protocols import CryodenProtSimulateMovies, CryodenProtSplitHalves

SHAPE, RATE, N_FRAMES, DOSE = (160, 192), 3.0, 4, 2.0


class TestCryodenSimulateMovies(BaseTest):
    """Nothing in; movies, truth and coordinates out."""

    @classmethod
    def setUpClass(cls):
        setupTestProject(cls)
        cls.simulation = cls.simulate()

    @classmethod
    def simulate(cls, **options):
        """Run the protocol with two small movies."""
        given = {
            "movies": 2, "rows": SHAPE[0], "columns": SHAPE[1], "frames": N_FRAMES, "sampling_rate": RATE, "shape": 1,
            "dose_per_frame": DOSE, "particles": 6, "voltage": 200.0, "drift": 0.0,
        }  # fmt: skip
        return cls.launchProtocol(cls.newProtocol(CryodenProtSimulateMovies, **{**given, **options}))

    def testMoviesAndTruth(self):
        """Sizes, counts, acquisition, gain; the corrected sum scatters around the truth."""
        movies, truths = self.simulation.outputMovies, self.simulation.trueMicrographs
        self.assertSetSize(movies, 2)
        self.assertSetSize(truths, 2)
        self.assertEqual(movies.getDim(), (SHAPE[1], SHAPE[0], N_FRAMES))
        self.assertAlmostEqual(movies.getSamplingRate(), RATE)
        self.assertAlmostEqual(movies.getAcquisition().getVoltage(), 200.0)
        self.assertAlmostEqual(movies.getAcquisition().getDosePerFrame(), DOSE)
        gain = mrcfile.read(movies.getGain())
        for movie, truth in zip([m.clone() for m in movies], [t.clone() for t in truths]):
            self.assertEqual(movie.getMicName(), truth.getMicName())
            expected = mrcfile.read(truth.getFileName())
            total = mrcfile.read(movie.getFileName()).sum(axis=0) * gain
            usual = np.abs(total - expected) < 6 * np.sqrt(expected)  # all but the hot pixels
            self.assertGreater(usual.mean(), 0.99)
            self.assertAlmostEqual(float((total[usual] - expected[usual]).mean()), 0, delta=0.6)
            self.assertAlmostEqual(float(expected.mean()) / (N_FRAMES * DOSE * RATE**2), 0.92, delta=0.03)

    def testCoordinates(self):
        """Particles lie inside the micrographs, in boxes somewhat larger than they."""
        coordinates = self.simulation.trueCoordinates
        self.assertGreater(coordinates.getSize(), 4)
        self.assertTrue(30 < coordinates.getBoxSize() < 80)
        names = set()
        for coordinate in coordinates:
            self.assertTrue(0 <= coordinate.getX() < SHAPE[1] and 0 <= coordinate.getY() < SHAPE[0])
            names.add(coordinate.getMicName())
        self.assertEqual(names, {"movie_0001.mrcs", "movie_0002.mrcs"})
        self.assertIn("particles", self.simulation.summary()[0])

    def testHalvesOfSimulatedMovies(self):
        """Our own split takes the movies with their gain."""
        split = self.launchProtocol(self.newProtocol(CryodenProtSplitHalves, inputMovies=self.simulation.outputMovies))
        self.assertSetSize(split.outputMicrographsOdd, 2)
        names = {micrograph.getMicName() for micrograph in split.outputMicrographs}
        self.assertEqual(names, {micrograph.getMicName() for micrograph in self.simulation.trueMicrographs})

    def testOptionsReachTheCommand(self):
        """A map of one's own, other optics and detector: other movies."""
        cube = np.zeros((16, 16, 16), np.float32)
        cube[4:12, 4:12, 4:12] = 1
        file = os.path.abspath(self.proj.getTmpPath("cube.mrc"))
        with mrcfile.new(file, overwrite=True) as mrc:
            mrc.set_data(cube)
            mrc.voxel_size = 6.0
        options = {
            "map": file,
            "carbon": 0.3,
            "defocus": 2.5,
            "hot_pixels": 0,
            "no_damage": True,
            "seed": 4,
            "movies": 1,
        }
        other = self.simulate(**options)
        truths = [p.trueMicrographs.getFirstItem().getFileName() for p in (self.simulation, other)]
        self.assertFalse(np.array_equal(*(mrcfile.read(file) for file in truths)))
        for protocol, number in ((self.simulation, 80), (other, 40)):
            with open(protocol._getExtraPath("defects.txt")) as defects:
                self.assertEqual(len(defects.readlines()), number)

    def testBadOptionsAreRefusedBeforeTheRun(self):
        """The rules of the command line, all at once."""
        problems = self.newProtocol(CryodenProtSimulateMovies, dose_per_frame=-1.0, carbon=2.0, rows=3).validate()
        self.assertEqual(len(problems), 3)
