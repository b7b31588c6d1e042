"""The three protocols on movies that the test makes: outputs, what a denoised set must keep, options, failures."""

import json
import os
import time
from unittest import mock

import mrcfile
import numpy as np
import psutil
from pwem.objects import Acquisition, Movie
from pwem.protocols import ProtImportMovies
from pyworkflow.object import Set
from pyworkflow.protocol import MODE_RESUME, getProtocolFromDb

from cryoden.errors import NothingDoneError
from cryoden.formats.outcome import read_ending
from cryoden.formats.star import PIXEL_SIZE, read_table
from cryoden_scipion.convert import clonedItems
from cryoden_scipion.protocols import (
    CryodenProtDenoise,
    CryodenProtExportModel,
    CryodenProtImportModel,
    CryodenProtSplitHalves,
    CryodenProtTrain,
)
from cryoden_scipion.protocols.halves_input import LINKED_SET
from cryoden_scipion.protocols.protocol_split_halves import MOTIONS
from cryoden_scipion.protocols.protocol_train import ALWAYS_STREAMING, NETWORKS
from cryoden_scipion.tests.base import ProjectTest

N_MOVIES, N_FRAMES, SHAPE, SAMPLING_RATE = 4, 7, (160, 192), 2.0
VOLTAGE, SPHERICAL_ABERRATION, AMPLITUDE_CONTRAST = 200.0, 2.1, 0.07
ACQUISITION = Acquisition(
    voltage=VOLTAGE, sphericalAberration=SPHERICAL_ABERRATION, amplitudeContrast=AMPLITUDE_CONTRAST,
    magnification=50000, dosePerFrame=1.5,
)  # fmt: skip

EPOCHS_TO_KILL_IN = 8
"""Of a training that is killed after its first."""


def makeMovies(folder, rng):
    """Write movies of dark discs in Poisson noise and a gain reference; returns the counts and the gain."""
    os.makedirs(folder, exist_ok=True)
    gain = rng.uniform(0.8, 1.2, SHAPE).astype(np.float32)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    counts = {}
    for number in range(1, N_MOVIES + 1):
        clean = np.full(SHAPE, 5.0)
        for centerY, centerX in rng.uniform(0, SHAPE, (12, 2)):
            clean -= 2.0 * np.exp(-((y - centerY) ** 2 + (x - centerX) ** 2) / 50)
        frames = rng.poisson(np.maximum(clean, 0.2) / gain, (N_FRAMES, *SHAPE)).astype(np.uint16)
        name = f"movie_{number:02d}"
        writeMrc(os.path.join(folder, f"{name}.mrcs"), frames)
        counts[name] = frames
    writeMrc(os.path.join(folder, "gain.mrc"), gain)
    return counts, gain


def writeMrc(path, data, samplingRate=SAMPLING_RATE):
    """Write an array as MRC."""
    with mrcfile.new(path, overwrite=True) as mrc:
        mrc.set_data(data)
        if data.ndim == 3:
            mrc.set_image_stack()
        mrc.voxel_size = samplingRate


class CryodenTest(ProjectTest):
    """Base: a project with movies and their halves."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = os.path.abspath(cls.proj.getTmpPath("movies"))
        cls.counts, cls.gain = makeMovies(cls.folder, np.random.default_rng(7))
        cls.makeHalves()

    @classmethod
    def makeHalves(cls):
        """Make movies and halves as their import and the split leave them, without a run."""
        cls.movies = cls.finishHere(cls.newProtocol(ProtImportMovies), cls.listMovies).outputMovies
        cls.split = cls.finishHere(cls.newProtocol(CryodenProtSplitHalves, inputMovies=cls.movies), cls.sumMovies)

    @classmethod
    def listMovies(cls, protocol):
        """Define the output of an import."""
        movies = protocol._createSetOfMovies()
        movies.setSamplingRate(SAMPLING_RATE)
        movies.setAcquisition(ACQUISITION)
        for name in cls.counts:
            movie = Movie(location=os.path.join(cls.folder, f"{name}.mrcs"))
            movie.setMicName(f"{name}.mrcs")
            movie.setSamplingRate(SAMPLING_RATE)
            movie.setAcquisition(ACQUISITION)
            movies.append(movie)
        protocol._defineOutputs(outputMovies=movies)

    @classmethod
    def sumMovies(cls, protocol):
        """Sum by NumPy what the command would sum, and register it as the protocol does."""
        movies = clonedItems(cls.movies)
        for movie in movies:
            frames = cls.counts[os.path.splitext(movie.getMicName())[0]]
            for folder, start, step in (("full", 0, 1), ("odd", 0, 2), ("even", 1, 2)):
                path = protocol._sumsOf(movie)[folder]
                os.makedirs(os.path.dirname(path), exist_ok=True)
                writeMrc(path, (frames[start::step].sum(axis=0) * cls.gain).astype(np.float32))
        protocol._register(movies)
        protocol._closeOutputSet()

    @classmethod
    def launch(cls, kind, **options):
        """Run a protocol and return it, finished."""
        return cls.launchProtocol(cls.newProtocol(kind, **options))

    @classmethod
    def launchTraining(cls, **options):
        """Run a tiny training on the halves."""
        return cls.launch(CryodenProtTrain, **{**cls.trainingOptions(), **options})

    @classmethod
    def trainingOptions(cls):
        """Return the options of a tiny training."""
        return {
            "inputMicrographsOdd": cls.split.outputMicrographsOdd,
            "inputMicrographsEven": cls.split.outputMicrographsEven,
            "network": NETWORKS.index("cnn3"),
            "epochs": 2,
            "crop": 64,
            "batch_size": 4,
            "min_batches": 1,
            "useGpu": False,
        }

    def checkMicrographs(self, micrographs, size, samplingRate, dims):
        """Compare a set with what it must be, on disk too."""
        self.assertIsNotNone(micrographs)
        self.assertSetSize(micrographs, size)
        self.assertAlmostEqual(micrographs.getSamplingRate(), samplingRate, 4)
        self.assertEqual(tuple(micrographs.getDim()[:2]), dims)
        self.assertAlmostEqual(micrographs.getAcquisition().getVoltage(), VOLTAGE)
        self.assertAlmostEqual(micrographs.getAcquisition().getSphericalAberration(), SPHERICAL_ABERRATION)
        names = {movie.getMicName(): movie.getObjId() for movie in self.movies}
        files = set()
        for micrograph in micrographs:
            self.assertEqual(names[micrograph.getMicName()], micrograph.getObjId())
            self.assertAlmostEqual(micrograph.getSamplingRate(), samplingRate, 4)
            files.add(micrograph.getFileName())
            with mrcfile.open(micrograph.getFileName()) as mrc:
                self.assertEqual(mrc.data.dtype, np.float32)
                self.assertEqual(mrc.data.shape, dims[::-1])
                self.assertAlmostEqual(float(mrc.voxel_size.x), samplingRate, 4)
        self.assertEqual(len(files), size)


class TestCryodenSplitHalves(CryodenTest):
    """Movies in, three sets out."""

    @classmethod
    def makeHalves(cls):
        """Import and split."""
        cls.movies = cls.importMovies(
            cls.folder,
            gainFile=os.path.join(cls.folder, "gain.mrc"),
            voltage=VOLTAGE,
            sphericalAberration=SPHERICAL_ABERRATION,
            amplitudeContrast=AMPLITUDE_CONTRAST,
            dosePerFrame=1.5,
        )
        cls.split = cls.launch(CryodenProtSplitHalves, inputMovies=cls.movies, motion=MOTIONS.index("none"))

    @classmethod
    def importMovies(cls, folder, **options):
        """Return the imported movies of a folder."""
        given = {"filesPath": folder, "filesPattern": "movie_*.mrcs", "samplingRate": SAMPLING_RATE, **options}
        return cls.launch(ProtImportMovies, **given).outputMovies

    def testSumsAreThoseOfNumpy(self):
        """Full, odd and even are the gain-corrected sums of all, odd and even frames."""
        starts = {"outputMicrographs": (0, 1), "outputMicrographsOdd": (0, 2), "outputMicrographsEven": (1, 2)}
        for output, (start, step) in starts.items():
            micrographs = getattr(self.split, output)
            self.checkMicrographs(micrographs, N_MOVIES, SAMPLING_RATE, SHAPE[::-1])
            for micrograph in micrographs:
                name = os.path.splitext(os.path.basename(micrograph.getFileName()))[0]
                expected = self.counts[name][start::step].sum(axis=0) * self.gain
                np.testing.assert_allclose(mrcfile.read(micrograph.getFileName()), expected, rtol=1e-5)

    def testOptionsChangeTheSums(self):
        """Without gain, and with a frame range, other sums come out."""
        options = {"inputMovies": self.movies, "useGain": False, "motion": MOTIONS.index("none")}
        plain = self.launch(CryodenProtSplitHalves, **options)
        part = self.launch(CryodenProtSplitHalves, **options, firstFrame=2, lastFrame=5)
        for protocol, frames in ((plain, slice(None)), (part, slice(1, 5))):
            file = protocol.outputMicrographs.getFirstItem().getFileName()
            name = os.path.splitext(os.path.basename(file))[0]
            np.testing.assert_array_equal(mrcfile.read(file), self.counts[name][frames].sum(axis=0))

    def testOneBadMovieIsNamedAndLeftOut(self):
        """A truncated movie does not stop the others."""
        folder = os.path.abspath(self.proj.getTmpPath("damaged"))
        makeMovies(folder, np.random.default_rng(8))
        movies = self.importMovies(folder)
        with open(os.path.join(folder, "movie_03.mrcs"), "r+b") as file:
            file.truncate(5000)
        split = self.launch(CryodenProtSplitHalves, inputMovies=movies)
        self.assertSetSize(split.outputMicrographs, N_MOVIES - 1)
        self.assertEqual([os.path.basename(name) for name in split._failures()], ["movie_03.mrcs"])
        self.assertIn("*Left out: 1*", split.summary())
        self.assertIn("movie_03.mrcs", "\n".join(split.summary()))

    def testBadRangeIsRefusedBeforeTheRun(self):
        """The form refuses what the command line refuses, and names its own field."""
        protocol = self.newProtocol(CryodenProtSplitHalves, inputMovies=self.movies, firstFrame=5, lastFrame=2)
        problems = protocol.validate()
        self.assertEqual(len(problems), 1, problems)
        self.assertTrue(problems[0].startswith("*Frames to use* is '5-2'"), problems)


class TestCryodenTrain(CryodenTest):
    """Halves in, a model out."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.training = cls.trainOnOpenSets()

    @classmethod
    def trainOnOpenSets(cls):
        """Return a finished training that waited for all micrographs, though their sets may still grow."""
        halves = (cls.split.outputMicrographsOdd, cls.split.outputMicrographsEven)
        for micrographs in halves:
            cls.setState(micrographs, Set.STREAM_OPEN)
        try:
            return cls.launchTraining(waitForPairs=N_MOVIES)
        finally:
            for micrographs in halves:
                cls.setState(micrographs, Set.STREAM_CLOSED)

    @staticmethod
    def setState(micrographs, state):
        """Say whether a set may still grow."""
        micrographs.setStreamState(state)
        micrographs.write()

    @staticmethod
    def lossesOf(training):
        """Return the loss of every epoch."""
        with open(training.getLogFile()) as log:
            return [json.loads(line)["loss"] for line in log]

    def testTwoSetsAndTheUNet(self):
        """The U-Net at a working pixel size."""
        training = self.launchTraining(
            network=NETWORKS.index("unet"), channels="4 8", sampling_rate=4.0, epochs=2, crop=32
        )
        model = training.outputModel
        self.assertEqual(model.getNetwork(), "unet")
        self.assertAlmostEqual(model.getSamplingRate(), 4.0, 1)
        self.assertTrue(os.path.exists(model.getFileName()))
        with open(training.getLogFile()) as log:
            records = [json.loads(line) for line in log]
        self.assertEqual([record["epoch"] for record in records], [1, 2])
        self.assertAlmostEqual(model.getR2(), max(record["r2"] for record in records), 5)

    def testLinkedSetAndMemoryModesAgree(self):
        """One set that links its halves, streamed or kept in memory, trains the same model as two sets."""
        streamed = self.launchTraining(
            halvesFrom=LINKED_SET, inputMicrographs=self.split.outputMicrographs, memoryMode=ALWAYS_STREAMING
        )
        self.assertEqual(self.lossesOf(streamed), self.lossesOf(self.training))

    def testWrongInputsAreRefusedBeforeTheRun(self):
        """The same set twice, and a set without links."""
        odd = self.split.outputMicrographsOdd
        twice = self.newProtocol(CryodenProtTrain, inputMicrographsOdd=odd, inputMicrographsEven=odd)
        self.assertIn("Odd and even are the same set", "".join(twice.validate()))
        unlinked = self.newProtocol(CryodenProtTrain, halvesFrom=LINKED_SET, inputMicrographs=odd)
        self.assertIn("is not linked to halves", "".join(unlinked.validate()))
        wrong = self.newProtocol(
            CryodenProtTrain,
            inputMicrographsOdd=odd,
            inputMicrographsEven=self.split.outputMicrographsEven,
            validation=2.0,
            lr=-1.0,
        )
        self.assertEqual(len(wrong.validate()), 2)

    def testWaitsForEnoughMicrographs(self):
        """A set that still grows is trained on as soon as it has enough, not when it is complete."""
        odd = self.split.outputMicrographsOdd
        self.setState(odd, Set.STREAM_OPEN)
        looks = []

        def closeAtSecondLook(seconds):
            looks.append(seconds)
            if len(looks) == 2:
                self.setState(odd, Set.STREAM_CLOSED)

        waiting = self.newProtocol(CryodenProtTrain, waitForPairs=N_MOVIES + 1)
        with mock.patch("time.sleep", closeAtSecondLook):
            waiting._waitFor(odd.getFileName())
        self.assertEqual(len(looks), 2)
        self.assertEqual(self.training.outputModel._nPairs.get(), N_MOVIES)  # was trained on sets that were open

    def testOptionsReachTheDenoiser(self):
        """Every choice of the form is written into the options of the command."""
        training = self.launchTraining(
            crops=1, normalization=1, precision=2, compile=2, keep=1, budget=0, patience=3, seed=5, max_batches=2,
            validation=0.3, lr=2e-3, ema=0.9,
        )  # fmt: skip
        with open(training._getExtraPath("options.json")) as file:
            options = json.load(file)
        expected = {"crops": "grid", "normalization": "p95", "precision": "float32", "compile": "no", "keep": "all"}
        expected.update(patience=3, seed=5, max_batches=2, validation=0.3, lr=2e-3, ema=0.9, batch_size=4, crop=64)
        self.assertEqual({key: options[key] for key in expected}, expected)
        self.assertEqual(len(os.listdir(training._getExtraPath("epochs"))), 2)

    def testContinueAfterAKillGoesOnFromTheCheckpoint(self):
        """The denoiser is killed in the middle; Continue ends at the same losses as a run without interruption."""
        options = {"epochs": EPOCHS_TO_KILL_IN, "max_batches": 6}
        training = self.newProtocol(CryodenProtTrain, **{**self.trainingOptions(), **options})
        self.proj.launchProtocol(training, wait=False)
        checkpoint = training._getExtraPath("checkpoint.pt")
        for _ in range(600):
            if os.path.exists(checkpoint):
                break
            time.sleep(0.05)
        for process in psutil.process_iter(["cmdline", "cwd"]):
            words = process.info["cmdline"] or []
            if training._getExtraPath("options.json") in words and process.info["cwd"] == self.proj.path:
                process.kill()
        for _ in range(100):
            time.sleep(0.2)
            stored = getProtocolFromDb(self.proj.path, training.getDbPath(), training.getObjId())
            if not stored.isActive():
                break
        self.assertTrue(stored.isFailed())
        self.assertIn("cryoden train was killed (signal 9)", stored.getErrorMessage())
        lastLine = open(stored.getStderrLog()).read().splitlines()[-1]  # noqa: SIM115
        self.assertIn(lastLine, stored.getErrorMessage())
        with open(training.getLogFile()) as log:
            self.assertLess(len(log.readlines()), EPOCHS_TO_KILL_IN)
        training.runMode.set(MODE_RESUME)
        self.launchProtocol(training)
        whole = self.launchTraining(**options)
        self.assertEqual(len(self.lossesOf(training)), EPOCHS_TO_KILL_IN)
        self.assertEqual(self.lossesOf(training), self.lossesOf(whole))

    def testModelTravels(self):
        """Exported, imported again, and gone on from."""
        model = self.training.outputModel
        target = os.path.abspath(self.proj.getTmpPath("denoiser.safetensors"))
        export = self.launch(CryodenProtExportModel, inputModel=model, targetFile=target)
        self.assertIn(model.getDescription(), export.getParsedMethods()[0])
        again = self.newProtocol(CryodenProtExportModel, inputModel=model, targetFile=target)
        self.assertIn("exists already", "".join(again.validate()))
        imported = self.launch(CryodenProtImportModel, modelFile=target).outputModel
        self.assertEqual((imported.getNetwork(), imported.getR2()), (model.getNetwork(), model.getR2()))
        tuned = self.launchTraining(startModel=imported, lr=1e-9, epochs=1)
        self.assertAlmostEqual(tuned.outputModel.getR2(), model.getR2(), 3)
        self.assertIn(f"Started from {imported.getFileName()}.", tuned._summary())
        self.assertIn(f"The training started from {imported.getFileName()}.", tuned._methods())
        wrong = self.newProtocol(CryodenProtImportModel, modelFile=os.path.join(self.folder, "gain.mrc"))
        problems = wrong.validate()
        self.assertEqual(len(problems), 1, problems)
        self.assertIn("gain.mrc", problems[0])


class TestCryodenDenoise(CryodenTest):
    """Micrographs and a model in, denoised micrographs and a STAR file out."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = cls.launchTraining(sampling_rate=4.0, crop=32, epochs=4).outputModel
        cls.denoised = cls.denoise()

    @classmethod
    def denoise(cls, **options):
        """Run the protocol on the full set."""
        return cls.launch(
            CryodenProtDenoise,
            inputMicrographs=cls.split.outputMicrographs,
            inputModel=cls.model,
            useGpu=False,
            **options,
        )

    def testDenoisedSetKeepsWhatItMust(self):
        """Names, ids, acquisition, mean; the pixel size is the model's; the deviation is lower."""
        micrographs = self.denoised.outputMicrographs
        self.checkMicrographs(micrographs, N_MOVIES, self.model.getSamplingRate(), (96, 80))
        raw = {mic.getMicName(): mrcfile.read(mic.getFileName()) for mic in self.split.outputMicrographs}
        for micrograph in micrographs:
            image, before = mrcfile.read(micrograph.getFileName()), raw[micrograph.getMicName()]
            self.assertAlmostEqual(image.mean() / before.mean(), 1.0, 1)
            self.assertLess(image.std(), before.std())
        table = read_table(self.denoised._getExtraPath("micrographs.star"))
        self.assertEqual([os.path.exists(path) for path in table.paths], [True] * N_MOVIES)
        self.assertAlmostEqual(float(table.optics[PIXEL_SIZE].iloc[0]), self.model.getSamplingRate(), 4)
        self.assertEqual(float(table.optics["rlnVoltage"].iloc[0]), VOLTAGE)

    def testDenoisedSetIsLinkedWithTheOriginals(self):
        """Scipion offers the CTFs of the originals through the transform relation."""
        relations = self.proj.mapper.getRelationsByName("relation_transform")
        parents = [row["object_child_id"] for row in relations]
        self.assertIn(self.denoised.outputMicrographs.getObjId(), parents)

    def testOptionsChangeTheImages(self):
        """Quality, pixel type and tile size reach the denoiser."""
        best = self.denoise(quality=1)
        images = [mrcfile.read(p.outputMicrographs.getFirstItem().getFileName()) for p in (self.denoised, best)]
        self.assertGreater(np.abs(images[0] - images[1]).max(), 0)
        half = self.denoise(dtype=1, tile=64)
        image = mrcfile.read(half.outputMicrographs.getFirstItem().getFileName())
        self.assertEqual(image.dtype, np.float16)
        np.testing.assert_allclose(image, images[0], rtol=2e-3)

    def testDenoisedInputIsWarnedOf(self):
        """Denoising twice is one click away."""
        again = self.newProtocol(
            CryodenProtDenoise, inputMicrographs=self.denoised.outputMicrographs, inputModel=self.model
        )
        self.assertIn("already a denoised set", "".join(again._warnings()))

    def testOwnWordsOfTheDenoiserReachTheUser(self):
        """A micrograph that vanished: the run fails only if nothing can be done, with the denoiser's line."""
        protocol = self.newProtocol(CryodenProtSplitHalves, inputMovies=self.movies)
        lonely = self.finishHere(protocol, self.sumMovies)
        for micrograph in lonely.outputMicrographs:
            os.remove(micrograph.getFileName())
        protocol = self.newProtocol(
            CryodenProtDenoise, inputMicrographs=lonely.outputMicrographs, inputModel=self.model, useGpu=False
        )
        with self.assertRaises(Exception):
            self.launchProtocol(protocol)
        ending = read_ending(protocol._outcomeFile())
        self.assertTrue(ending.has(NothingDoneError.kind))
        self.assertEqual(len(ending.items), N_MOVIES)
        self.assertIn(protocol._problemsText(ending.problems), protocol.getErrorMessage())
