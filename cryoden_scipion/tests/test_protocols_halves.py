"""Splitting while movies are acquired, after a kill, and after a real motion correction."""

import json
import os
import shutil
import signal
from unittest import mock

import mrcfile
import numpy as np
import psutil
import scipy.ndimage
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pwem.objects import Movie, MovieAlignment, SetOfMicrographs, SetOfMovies
from pwem.protocols import ProtImportMicrographs, ProtImportMovies
from pyworkflow.object import CsvList, Set, String

from cryoden.config import HalvesConfig
from cryoden.formats.relion_job import read_movie_correction, write_movie_correction
from cryoden_scipion import convert
from cryoden_scipion.constants import HALVES_LINK
from cryoden_scipion.convert import firstItem
from cryoden_scipion.protocols import CryodenProtSplitHalves, CryodenProtTrain
from cryoden_scipion.protocols.halves_input import LINKED_SET
from cryoden_scipion.protocols.protocol_split_halves import MOTIONS, OUTPUT_FOLDERS, OUTPUT_FULL
from cryoden_scipion.tests.base import StreamingTest
from cryoden_scipion.viewers.browsing import MotionBrowser

SAMPLING_RATE = 1.5


def writeMovie(path, frames):
    """Write frames as an MRC stack."""
    with mrcfile.new(path, overwrite=True) as mrc:
        mrc.set_data(frames)
        mrc.set_image_stack()
        mrc.voxel_size = SAMPLING_RATE


def noise(number):
    """Return the frames of one movie of the streaming tests."""
    return np.random.default_rng(number).poisson(8, (5, 64, 96)).astype(np.uint16)


class CryodenHalvesTest(StreamingTest):
    """Base: ways to import."""

    def importMovies(self, folder, **options):
        """Return the imported movies of a folder."""
        protocol = self.newProtocol(
            ProtImportMovies,
            filesPath=os.path.abspath(folder),
            filesPattern="*.mrcs",
            samplingRate=SAMPLING_RATE,
            voltage=300,
            **{"dosePerFrame": 1.2, **options},
        )
        self.launchProtocol(protocol)
        return protocol.outputMovies


class TestCryodenHalvesStreaming(CryodenHalvesTest):
    """An open set of movies that grows while it is split."""

    def openMovies(self, name, n):
        """Import n movies and open their set again."""
        self.folder = self.proj.getTmpPath(name)
        os.makedirs(self.folder)
        for number in range(1, n + 1):
            writeMovie(os.path.join(self.folder, f"{name}_{number}.mrcs"), noise(number))
        return self.openAgain(self.importMovies(self.folder))

    def addMovie(self, movies, number, state):
        """Append one more movie to a set, as an import in streaming does."""
        movie = firstItem(movies)
        name = os.path.basename(movie.getFileName()).replace("_1.", f"_{number}.")
        writeMovie(os.path.join(self.folder, name), noise(number))
        movie.setFileName(os.path.join(os.path.dirname(movie.getFileName()), name))
        shutil.copy(os.path.join(self.folder, name), movie.getFileName())
        movie.setMicName(movie.getMicName().replace("_1", f"_{number}"))
        movie.setObjId(number)
        self.append(movies, [movie], state)

    def outputs(self, protocol):
        """Return, for each output, the file names by id and whether it is open, read from the sets' own files."""
        paths = {folder: protocol._getPath(f"micrographs{folder}.sqlite") for folder in OUTPUT_FOLDERS.values()}
        return {folder: self.content(path) for folder, path in paths.items() if os.path.exists(path)}

    def sizes(self, protocol):
        """Return how many micrographs each output set has."""
        return [len(files) for files, _ in self.outputs(protocol).values()]

    def checkOutputs(self, protocol, n):
        """Every movie once in every set, in every file what NumPy sums, and the sets closed."""
        content = self.outputs(protocol)
        for folder, (start, step) in {"full": (0, 1), "odd": (0, 2), "even": (1, 2)}.items():
            files, isOpen = content[folder]
            self.assertFalse(isOpen)
            self.assertEqual(sorted(objId for objId, _ in files), list(range(1, n + 1)))
            for objId, path in files:
                np.testing.assert_array_equal(mrcfile.read(path), noise(objId)[start::step].sum(axis=0))
        aligned = SetOfMovies(filename=protocol._getPath("movies.sqlite"))
        aligned.loadAllProperties()
        self.assertEqual((sorted(aligned.getIdSet()), aligned.isStreamClosed()), (list(range(1, n + 1)), True))
        self.assertTrue(all(movie.hasAlignment() for movie in aligned))
        aligned.close()

    def testMoviesAreSplitAsTheyCome(self):
        """Outputs are there and open while the movies' set is open; they are closed with it.

        A process that is gone between two rounds is replaced, once.
        """
        movies = self.openMovies("grow", 2)
        split = self.newProtocol(CryodenProtSplitHalves, inputMovies=movies)
        self.proj.launchProtocol(split, wait=False)
        self.waitUntil(lambda: self.sizes(split) == [2, 2, 2])
        self.assertTrue(all(isOpen for _, isOpen in self.outputs(split).values()))
        self.assertIn("Split: *2* of 2 movies, more may come.", self.stored(split).summary()[0])
        first = self.roundOf(split)
        os.kill(first.process, signal.SIGKILL)
        self.addMovie(movies, 3, Set.STREAM_OPEN)
        self.waitUntil(lambda: self.sizes(split) == [3, 3, 3])
        second = self.roundOf(split)
        self.assertEqual((first.number, second.number), (1, 1))
        self.assertNotEqual(first.process, second.process)
        self.addMovie(movies, 4, Set.STREAM_CLOSED)
        self.waitUntil(lambda: not any(isOpen for _, isOpen in self.outputs(split).values()))
        self.checkOutputs(split, 4)
        last = self.roundOf(split)
        self.assertEqual((last.number, last.process), (2, second.process))

    def testKillAndContinueLoseAndRepeatNothing(self):
        """Killed -9 with an open input, continued with two more movies, of which one was split but not registered.

        The denoiser's process ends by itself when the run is gone that started it.
        """
        movies = self.openMovies("kill", 2)
        split = self.newProtocol(CryodenProtSplitHalves, inputMovies=movies)
        self.proj.launchProtocol(split, wait=False)
        self.waitUntil(lambda: self.sizes(split) == [2, 2, 2])
        process = self.roundOf(split).process
        self.killEverything(split, but=process)
        self.waitUntil(lambda: not psutil.pid_exists(process), seconds=20)
        before = {path: os.stat(path).st_mtime_ns for files, _ in self.outputs(split).values() for _, path in files}
        even = SetOfMicrographs(filename=split._getPath("micrographseven.sqlite"))  # as if killed between two sets
        even.loadAllProperties()
        even.enableAppend()
        even._getMapper().delete(even[2])
        even._size.set(1)
        even.write()
        even.close()
        self.addMovie(movies, 3, Set.STREAM_CLOSED)
        split = self.continueRun(split)
        self.checkOutputs(split, 3)
        self.assertEqual({path: os.stat(path).st_mtime_ns for path in before}, before)
        with open(split._getExtraPath("log.jsonl")) as log:
            statuses = [json.loads(line)["status"] for line in log]
        self.assertEqual(statuses, ["split", "split", "kept", "kept", "split"])

    def testBadMoviesDoNotEndAnOpenRun(self):
        """While more may come, a set of which no movie can be split yet is waited for."""
        movies = self.openMovies("bad", 1)
        path = os.path.join(self.folder, "bad_1.mrcs")
        first = firstItem(movies).getFileName()
        content = open(path, "rb").read()  # noqa: SIM115
        with open(os.path.realpath(first), "wb") as file:
            file.write(content[:2000])
        split = self.newProtocol(CryodenProtSplitHalves, inputMovies=movies)
        self.proj.launchProtocol(split, wait=False)
        self.waitUntil(lambda: os.path.exists(split._getExtraPath("log.jsonl")))
        self.addMovie(movies, 2, Set.STREAM_CLOSED)
        self.waitUntil(lambda: self.sizes(split) == [1, 1, 1])
        self.assertEqual([objId for objId, _ in self.outputs(split)["full"][0]], [2])


class TestCryodenHalvesOptions(CryodenHalvesTest):
    """Every option of the form reaches the command."""

    def testOptionsReachTheCommand(self):
        """The options file holds what the form says."""
        folder = self.proj.getTmpPath("options")
        os.makedirs(folder)
        writeMovie(os.path.join(folder, "m.mrcs"), noise(1))
        gain = os.path.join(folder, "gain.mrc")
        with mrcfile.new(gain) as mrc:
            mrc.set_data(np.ones((96, 64), np.float32))
        split = self.newProtocol(
            CryodenProtSplitHalves, inputMovies=self.importMovies(folder, gainFile=os.path.abspath(gain)),
            gain_rotation=1, gain_flip=2, hot_pixels=9.0, expect_frames=5, flip_tiff=True, eer_dose=1.5, eer_sampling=1,
            weightByDose=True, jobs=2, memory=3.0, firstFrame=2, lastFrame=5,
        )  # fmt: skip
        self.launchProtocol(split)
        with open(split._getExtraPath("options.json")) as file:
            options = json.load(file)
        expected = {
            "gain_rotation": "90", "gain_flip": "left-right", "hot_pixels": 9.0, "expect_frames": 5, "flip_tiff": True,
            "eer_dose": 1.5, "eer_sampling": "8K", "dose_per_frame": 1.2, "jobs": 2, "memory": 3.0, "frames": "2-5",
            "shifts": None,
        }  # fmt: skip
        self.assertEqual({key: options[key] for key in expected}, expected)
        self.assertEqual(split.outputMicrographs.getSize(), 1)

    @staticmethod
    def movingFrames():
        """Return the frames of a specimen that drifts, and of which one side drifts further than the other."""
        rng = np.random.default_rng(1)
        shape, nFrames = (256, 320), 10
        scene = rng.standard_normal([side + 60 for side in shape])
        scene = scipy.ndimage.gaussian_filter(scene, 1.5) - scipy.ndimage.gaussian_filter(scene, 8)
        scene = 1 + 0.15 * scene / scene.std()
        y, x = np.mgrid[: shape[0], : shape[1]].astype(float) + 30
        frames = []
        for number in range(nFrames):
            places = [y + 0.5 * number, x + number * (1 + 0.4 * (y / shape[0] - 0.6))]
            frames.append(rng.poisson(6 * np.maximum(scipy.ndimage.map_coordinates(scene, places), 0)))
        return np.array(frames, np.uint16)

    def testMoviesAreAlignedHere(self):
        """By itself where movies carry no shifts; the output movies do, and split again they give the same halves."""
        folder = self.proj.getTmpPath("moving")
        os.makedirs(folder)
        writeMovie(os.path.join(folder, "ice.mrcs"), np.random.default_rng(1).poisson(4, (10, 256, 320)).astype("u2"))
        frames = self.movingFrames()
        frames[:, 60, 20] = 300  # a hot pixel
        writeMovie(os.path.join(folder, "m.mrcs"), frames)

        split = self.newProtocol(CryodenProtSplitHalves, inputMovies=self.importMovies(folder), gpuList="0,1")
        self.launchProtocol(split)
        for log in ("log.jsonl", "log_1.jsonl"):  # each of two processes has split one
            with open(split._getExtraPath(log)) as lines:
                self.assertEqual(len(lines.readlines()), 1)
        self.assertTrue(split.outputMovies.isStreamClosed())
        self.assertAlmostEqual(split.outputMovies.getAcquisition().getDosePerFrame(), 1.2)
        aligned = {movie.getMicName(): movie.clone() for movie in split.outputMovies}
        (first, last), (x, y) = (
            aligned["m.mrcs"].getAlignment().getRange(),
            aligned["m.mrcs"].getAlignment().getShifts(),
        )
        self.assertEqual((first, last, len(x)), (1, 10, 10))
        self.assertLess(max(abs(x[9] - x[0] - 9), abs(y[9] - y[0] - 4.5)), 0.5)
        self.assertEqual(list(aligned["ice.mrcs"].getAlignment().getShifts()[0]), [0.0] * 10)
        self.assertEqual((convert.hasLocalModel(aligned["m.mrcs"]), convert.hasLocalModel(aligned["ice.mrcs"])), (1, 0))

        summary, methods = split.summary(), "\n".join(split.methods())
        self.assertTrue(any(line.startswith("Aligned 1 of 2 movies; the FRC of their halves to 8") for line in summary))
        self.assertTrue(any("  ice: its frames" in line and "summed unaligned" in line for line in summary), summary)
        self.assertIn("as a whole and in 5 x 5 patches, whose motion was described by a third-order", methods)
        self.assertIn("Median drift", methods)
        self.checkMotionViewer(split)

        again = self.newProtocol(CryodenProtSplitHalves, inputMovies=split.outputMovies)
        self.launchProtocol(again)
        self.assertFalse(again.hasAttribute("outputMovies"))
        self.assertIn("The motion was applied that an earlier split found, local motion too.", again.summary())
        for kind in ("odd", "even"):
            for name in ("m.mrc", "ice.mrc"):
                one, other = (mrcfile.read(run._getExtraPath(kind, name)) for run in (split, again))
                np.testing.assert_allclose(other, one, atol=1e-3 * one.std())

        # Without that file, movies carry all of it, but for the last digits.
        correction = read_movie_correction(convert.motionStar(aligned["m.mrcs"]))
        carried = convert.movieCorrection(aligned["m.mrcs"], binning=1.0)
        np.testing.assert_allclose(list(carried.shifts.values()), list(correction.shifts.values()))
        np.testing.assert_allclose(carried.coefficients, correction.coefficients)
        np.testing.assert_array_equal(carried.hot_pixels, correction.hot_pixels)
        self.assertIn([60, 20], carried.hot_pixels.T.tolist())

    def checkMotionViewer(self, split):
        """The worst movie is shown first, then the next, and the report is one click away."""
        figure = Figure()
        FigureCanvasAgg(figure)
        browser = MotionBrowser(figure, split)
        self.assertIn("ice   (1 of 2;", figure.get_suptitle())
        browser._onButton(1, None)
        self.assertIn("m   (2 of 2;", figure.get_suptitle())
        self.assertIn("local motion, drawn", figure.axes[0].get_title())
        with mock.patch("cryoden_scipion.viewers.browsing.webbrowser.open_new_tab", return_value=True) as opened:
            browser._buttonActions()["all movies"](None)
        self.assertTrue(opened.call_args.args[0].endswith("extra/motion.html"))

    def testMotionIsOneChoice(self):
        """What the choice becomes for the command; answers to the questions of earlier versions count."""

        def makeOutputs(protocol):
            for suffix, alignment in (("Raw", None), ("Shifted", MovieAlignment(1, 5, xshifts=[0.0], yshifts=[0.0]))):
                movies = protocol._createSetOfMovies(suffix=suffix)
                path = protocol._getExtraPath("m.mrcs")
                writeMovie(path, noise(1))
                movie = Movie(path)
                movie.setAlignment(alignment)
                for item in (movie, movies):
                    item.setSamplingRate(SAMPLING_RATE)
                movies.append(movie)
                protocol._defineOutputs(**{f"output{suffix}": movies})

        imported = self.finishHere(self.newProtocol(ProtImportMovies), makeOutputs)
        raw, shifted = imported.outputRaw, imported.outputShifted

        def asked(movies, fields):
            split = self.newProtocol(CryodenProtSplitHalves, inputMovies=movies, **fields)
            split.workingDir.set("Runs/new")
            config = split._config()
            return "align" if config.align else "stored" if config.shifts else "none"

        stored, align, none = (MOTIONS.index(word) for word in ("stored shifts", "align here", "none"))
        for movies, fields, expected in (
            (raw, {}, "align"), (shifted, {}, "stored"),
            (raw, {"motion": none}, "none"), (shifted, {"motion": none}, "none"),
            (shifted, {"motion": align}, "align"), (shifted, {"motion": stored}, "stored"),
            (raw, {"useShifts": False}, "none"), (shifted, {"useShifts": False}, "none"),
            (shifted, {"useShifts": False, "alignFrames": True}, "align"),
        ):  # fmt: skip
            self.assertEqual(asked(movies, fields), expected, fields)

        split = self.newProtocol(CryodenProtSplitHalves, inputMovies=raw, motion=stored)
        self.assertIn("The movies carry no shifts; choose *align here* for *Motion*", split.validate()[0])
        old = self.newProtocol(CryodenProtSplitHalves, inputMovies=raw, useShifts=False)
        self.assertIn("*Motion* is therefore *none*", old.warnings()[0])

    def testWhatMoviesCarryBecomesAStarFile(self):
        """Coefficients are in the pixels of the motion correction; without its binning they say nothing."""
        folder = self.proj.getTmpPath("carried")
        os.makedirs(folder)
        path = os.path.join(folder, "m.mrcs")
        writeMovie(path, noise(1))
        movie = Movie(path)
        movie.setAlignment(MovieAlignment(first=2, last=4, xshifts=[0.0, 1.5, 2.0], yshifts=[0.0, -1.0, -2.0]))
        numbers = list(np.random.default_rng(1).normal(size=36) * 1e-4)
        movie._rlnMotionModelCoeff = String(json.dumps(numbers))
        movie._rlnHotPixels = String(json.dumps([(90.0, 3.0), (5.0, 63.0)]))

        star = os.path.join(folder, "m.star")
        write_movie_correction(star, convert.movieCorrection(movie, binning=2.0))
        found = read_movie_correction(star)
        self.assertEqual((found.shape, found.n_frames, found.binning), ((64, 96), 5, 2.0))
        self.assertEqual(found.shifts, {2: (0.0, 0.0), 3: (1.5, -1.0), 4: (2.0, -2.0)})
        np.testing.assert_allclose(found.coefficients.ravel(), numbers, rtol=1e-8)
        np.testing.assert_array_equal(found.hot_pixels, [[3, 63], [90, 5]])
        self.assertIsNone(convert.movieCorrection(movie, binning=None).coefficients)


class TestCryodenHalvesAfterRelion(CryodenHalvesTest):
    """Import movies, RELION's own motion correction, split with the shifts that it stored."""

    SHAPE, N_FRAMES = (512, 576), 16

    def makeMovies(self, folder):
        """Write two movies of a specimen that drifts by 12 px; return the specimens at rest."""
        os.makedirs(folder)
        y = np.cumsum(np.linspace(1.5, 0.1, self.N_FRAMES))
        x = -np.cumsum(np.linspace(0.8, 0.2, self.N_FRAMES))
        clean = {}
        for number in (1, 2):
            rng = np.random.default_rng(number)
            large = scipy.ndimage.gaussian_filter(rng.standard_normal([n + 60 for n in self.SHAPE]), 1.5)
            large /= large.std()
            frames = [
                rng.poisson(np.maximum(3 + scipy.ndimage.shift(large, move)[30:-30, 30:-30], 0.05))
                for move in zip(y - y[0], x - x[0])
            ]
            clean[f"drift_{number}"] = large[30:-30, 30:-30]
            writeMovie(os.path.join(folder, f"drift_{number}.mrcs"), np.array(frames, np.int16))
        return clean

    def testSumsAgreeWithThoseOfRelion(self):
        """With its shifts our full sum is RELION's unweighted one, and sharper than without."""
        try:
            from relion.protocols import ProtRelionMotioncor
        except ImportError:
            self.skipTest("scipion-em-relion is not installed")
        if shutil.which("relion_run_motioncorr") is None:
            self.skipTest("RELION (relion_run_motioncorr) is not installed")
        clean = self.makeMovies(self.proj.getTmpPath("drift"))
        movies = self.importMovies(self.proj.getTmpPath("drift"))
        motion = self.newProtocol(
            ProtRelionMotioncor, inputMovies=movies, numberOfMpi=1, numberOfThreads=2, patchX=3, patchY=3, doDW=True,
            saveNonDW=True,
        )  # fmt: skip
        self.launchProtocol(motion)
        relion = {mic.getMicName(): mrcfile.read(mic.getFileName()) for mic in motion.outputMicrographs}
        weighted = {mic.getMicName(): mrcfile.read(mic.getFileName()) for mic in motion.outputMicrographsDoseWeighted}
        images = {}
        asRelion = {"local_motion": HalvesConfig.choices_of("local_motion").index("relion")}
        variants = {
            "middle": {}, "moved": asRelion, "still": {"useShifts": False},
            "weighted": {**asRelion, "weightByDose": True},
        }  # fmt: skip
        for key, options in variants.items():
            split = self.newProtocol(CryodenProtSplitHalves, inputMovies=motion.outputMovies, **options)
            self.launchProtocol(split)
            full = getattr(split, OUTPUT_FULL)
            self.assertEqual(full.getSize(), 2)
            images[key] = {mic.getMicName(): mrcfile.read(mic.getFileName()) for mic in full}
            says = "RELION's local motion was applied, and its hot pixels were replaced." in split._summary()
            self.assertEqual(says, key != "still")
        for name, reference in relion.items():
            truth = clean[os.path.splitext(name)[0]]
            moved, still = (correlation(images[key][name], reference) for key in ("moved", "still"))
            self.assertGreater(moved, 0.999)
            self.assertLess(still, 0.6)
            self.assertGreater(correlation(images["middle"][name], reference), 0.9)
            self.assertFalse(np.array_equal(images["middle"][name], images["moved"][name]))
            self.assertGreater(correlation(images["moved"][name], truth), 3 * correlation(images["still"][name], truth))
            self.assertGreater(correlation(images["weighted"][name], weighted[name]), 0.999)


class TestCryodenHalvesFromElsewhere(CryodenHalvesTest):
    """Halves of MotionCor as it leaves them; ids are shifted by a leftover on either side."""

    def importHalf(self, folder, mark, names):
        """Import one half of some micrographs."""
        os.makedirs(folder)
        for name in names:
            rng = np.random.default_rng(ord(name))
            clean = scipy.ndimage.gaussian_filter(rng.standard_normal((96, 96)), 3.0) * 8
            rng = np.random.default_rng([ord(name), ord(mark[1])])
            with mrcfile.new(os.path.join(folder, f"{name}{mark}.mrc")) as mrc:
                mrc.set_data((10 + clean + rng.standard_normal(clean.shape)).astype(np.float32))
                mrc.voxel_size = SAMPLING_RATE
        protocol = self.newProtocol(
            ProtImportMicrographs, filesPath=os.path.abspath(folder), filesPattern="*.mrc", samplingRate=SAMPLING_RATE
        )
        self.launchProtocol(protocol)
        return protocol

    def train(self, **inputs):
        """Run a tiny training and return it."""
        training = self.newProtocol(
            CryodenProtTrain, network=1, epochs=1, crop=32, batch_size=2, min_batches=1, useGpu=False, **inputs
        )
        self.launchProtocol(training)
        return training

    def testTwoSetsAndOneThatLinksItsHalves(self):
        """Matched by name, leftovers named; a full micrograph may list the files of its halves instead."""
        odd = self.importHalf(self.proj.getTmpPath("odd"), "_ODD", "abcd")
        even = self.importHalf(self.proj.getTmpPath("even"), "_EVN", "bcde")
        training = self.train(inputMicrographsOdd=odd.outputMicrographs, inputMicrographsEven=even.outputMicrographs)
        self.assertEqual(training.outputModel._nPairs.get(), 3)
        self.assertEqual(sorted(training._failures()), ["a", "e"])
        texts = [f"  {problem.text(training._words)}" for problem in training._failures().values()]
        self.assertEqual(training._failureLines(), ["*Left out: 2*", *texts])

        linked = odd._createSetOfMicrographs(suffix="linked")
        linked.copyInfo(odd.outputMicrographs)
        for micrograph in odd.outputMicrographs:
            files = [micrograph.getFileName(), even._getExtraPath(os.path.basename(micrograph.getFileName()))]
            if micrograph.getMicName().startswith("a"):
                continue
            link = CsvList()
            link.set(",".join((files[0], files[1].replace("_ODD", "_EVN"))))
            full = micrograph.clone()
            setattr(full, HALVES_LINK, link)
            linked.append(full)
        odd._defineOutputs(outputLinked=linked)
        odd._store()
        training = self.train(halvesFrom=LINKED_SET, inputMicrographs=odd.outputLinked)
        self.assertEqual((training.outputModel._nPairs.get(), training._failures()), (3, {}))


def correlation(one, two, margin=24):
    """Return the correlation of two images in the signal band (10 to 100 A), away from the edges."""
    bands = []
    for image in (one, two):
        image = image[margin:-margin, margin:-margin].astype(np.float64)
        sigmas = SAMPLING_RATE * np.array([10.0, 100.0]) / SAMPLING_RATE**2 / (2 * np.pi)
        fine, coarse = (scipy.ndimage.gaussian_filter(image, sigma) for sigma in sigmas)
        bands.append((fine - coarse).ravel())
    return np.corrcoef(*bands)[0, 1]
