"""Runs that are continued: with other options or input, after a full disk, after one of several processes died."""

import json
import os
import signal
import subprocess
from unittest import mock

import mrcfile
import numpy as np
import scipy.ndimage
from pwem.objects import Movie
from pwem.protocols import ProtImportMovies
from pyworkflow.protocol import MODE_RESTART, MODE_RESUME

from cryoden_scipion.constants import CRYODEN_ENV_ACTIVATION
from cryoden_scipion.convert import filesById
from cryoden_scipion.protocols import CryodenProtSplitHalves, CryodenProtTrain
from cryoden_scipion.protocols.protocol_train import NETWORKS
from cryoden_scipion.tests.denoising import ACQUISITION, SAMPLING_RATE, CryodenDenoiseTest, noise, writeImage

MOVIE_SHAPE = (64, 96)


def writeMovie(path, number):
    """Write five frames of a specimen in noise."""
    rng = np.random.default_rng(number)
    clean = 8 + 20 * scipy.ndimage.gaussian_filter(rng.standard_normal(MOVIE_SHAPE), 2.0)
    with mrcfile.new(path) as mrc:
        mrc.set_data(rng.poisson(np.maximum(clean, 0), (5, *MOVIE_SHAPE)).astype(np.uint16))
        mrc.set_image_stack()


class TestCryodenContinued(CryodenDenoiseTest):
    """What may be changed before Continue, and what a finished run does then."""

    def continued(self, protocol, **changes):
        """Return a run as its form would launch it with Continue after some fields were changed."""
        protocol = self.stored(protocol)
        protocol.runMode.set(MODE_RESUME)
        for name, value in changes.items():
            protocol.setAttributeValue(name, value)
        return protocol

    def assertRefused(self, protocol, words):
        """Validation says one thing, in the window's words."""
        problems = protocol.validate()
        self.assertEqual(len(problems), 1, (words, problems))
        self.assertIn(words, problems[0])
        self.assertIn("Restart", problems[0])
        self.assertNotIn("--", problems[0])

    def importMovies(self, name, n):
        """Write movies NAME_1, NAME_2... and return them as their import leaves them."""

        def makeOutputs(protocol):
            movies = protocol._createSetOfMovies()
            movies.setSamplingRate(SAMPLING_RATE)
            movies.setAcquisition(ACQUISITION)
            for number in range(1, n + 1):
                path = protocol._getExtraPath(f"{name}_{number}.mrcs")
                writeMovie(path, number)
                movie = Movie(location=path)
                movie.setMicName(os.path.basename(path))
                movie.setSamplingRate(SAMPLING_RATE)
                movie.setAcquisition(ACQUISITION)
                movies.append(movie)
            protocol._defineOutputs(outputMovies=movies)

        return self.finishHere(self.newProtocol(ProtImportMovies), makeOutputs).outputMovies

    def testDenoisingRefusesToMix(self):
        """Other options and micrographs are refused, Restart takes them; Continue takes what came since the end."""
        micrographs, others = self.importMicrographs("late", 2), self.importMicrographs("other", 2)
        path = os.path.realpath(filesById(micrographs)[2])
        with open(path, "r+b") as file:
            file.truncate(2000)
        protocol = self.launchDenoise(micrographs)
        self.assertIn("*1* of 2", protocol.summary()[0])
        self.assertIn("*Left out: 1*", protocol.summary())
        other = self.importModel("other.safetensors", epoch=9)
        for changes, words in (
            ({"quality": 1, "scale": 1}, "*Quality* (was fast, is now best) and *Grey scale* (was input, is now"),
            ({"full_size": True}, "*Restore the original pixel size* (was No, is now Yes)."),
            ({"inputModel": other}, "another value of *Denoiser*."),
            ({"inputMicrographs": others}, "*Micrographs* is another set: late_1.mrc, already made, comes from none"),
        ):
            changed = self.continued(protocol, **changes)
            self.assertRefused(changed, words)
            changed.runMode.set(MODE_RESTART)
            self.assertEqual(changed.validate(), [])
        writeImage(path, noise(2))
        protocol = self.continued(protocol, thumbnails=1)
        self.launchProtocol(protocol)
        self.checkOutput(protocol, 2)
        self.assertNotIn("Left out", "".join(protocol.summary()))
        pictures = [name for _, _, names in os.walk(protocol._getExtraPath()) for name in names if ".png" in name]
        self.assertEqual(sorted(pictures), ["late_1.png", "late_2.png"])

    def testSplitAndTrainRefuseToMix(self):
        """The split's and the training's fields are named; other movies and halves too."""
        movies = self.importMovies("movie", 2)
        split = self.newProtocol(CryodenProtSplitHalves, inputMovies=movies)
        self.launchProtocol(split)
        for changes, words in (
            ({"lastFrame": 4}, "*Frames to use* (was empty, is now 1-4)."),
            ({"hot_pixels": 8.0}, "*Replace hot pixels above (deviations)* (was auto, is now 8.0)."),
            ({"hot_pixels": 0.0}, "*Replace hot pixels above (deviations)* (was auto, is now off)."),
            ({"inputMovies": self.importMovies("foreign", 2)}, "*Movies* is another set: movie_1.mrc"),
        ):
            self.assertRefused(self.continued(split, **changes), words)
        odd, even = split.outputMicrographsOdd, split.outputMicrographsEven
        training = self.newProtocol(
            CryodenProtTrain, network=NETWORKS.index("cnn3"), epochs=1, crop=32, batch_size=2, min_batches=1,
            useGpu=False, inputMicrographsOdd=odd, inputMicrographsEven=even,
        )  # fmt: skip
        self.launchProtocol(training)
        other = self.importMicrographs("strange", 2, shape=MOVIE_SHAPE)
        for changes, words in (
            ({"epochs": 3}, "*Epochs* (was 1, is now 3)."),
            ({"sampling_rate": 9.0}, "*Working pixel size in Å/px* (was 4.0, is now 9.0)."),
            ({"inputMicrographsEven": other}, "*Even micrographs* is another set"),
        ):
            self.assertRefused(self.continued(training, **changes), words)
        self.assertIn("as *Start from model*", self.continued(training, epochs=3).validate()[0])
        self.assertEqual(self.continued(training, keep=1, memory=2.0).validate(), [])


class TestCryodenInterrupted(CryodenDenoiseTest):
    """Runs that a full disk, or the death of one of several processes, ended."""

    def testFullDisk(self):
        """On a real small disk: what is finished is registered, the run fails with one line, Continue finishes."""
        micrographs = self.importMicrographs("disk", 4)
        protocol = self.denoise(micrographs)
        self.proj.saveProtocol(protocol)
        extra = os.path.abspath(protocol._getExtraPath())
        os.makedirs(extra)
        room = 3 * noise(1).nbytes
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", extra], capture_output=True, text=True
        )
        if mounted.returncode:
            self.skipTest(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
        self.addCleanup(subprocess.run, ["umount", extra], check=True)
        with self.assertRaises(Exception):
            self.launchProtocol(protocol)
        message = "disk is full: 2 of 4 still to be done; what is finished is kept. Free some space and Continue."
        self.assertIn(message, protocol.getErrorMessage())
        files, isOpen = self.outputOf(protocol)
        self.assertEqual(([objId for objId, _ in files], isOpen), ([1, 2], False))
        summary = protocol.summary()
        self.assertIn("Denoised: *2* of 4 micrographs", summary[0])
        self.assertIn("*The disk was full*: 2 still to be done. Free some space and Continue.", summary)
        subprocess.run(["mount", "-o", f"remount,size={10 * room}", extra], check=True)
        protocol = self.continueRun(protocol)
        self.checkOutput(protocol, 4)
        self.assertNotIn("full", "".join(protocol.summary()))


class TestCryodenOnSeveralGpus(CryodenDenoiseTest):
    """A GPU list of two, served by two processes on the CPU: they are shown no GPU."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        hidden = mock.patch.dict(os.environ, {CRYODEN_ENV_ACTIVATION: "export CUDA_VISIBLE_DEVICES="})
        hidden.start()
        cls.addClassCleanup(hidden.stop)

    def denoise(self, micrographs, **options):
        """Return a protocol that is not launched."""
        return super().denoise(micrographs, useGpu=True, gpuList="0,1", **options)

    def killSecond(self, protocol):
        """Kill -9 the second of a run's two processes, and see the run fail."""
        second = [p for p in self.processesOf(protocol) if p.environ().get("LOCAL_RANK") == "1"]
        self.assertEqual(len(second), 1)
        second[0].send_signal(signal.SIGKILL)
        self.waitUntil(lambda: not self.stored(protocol).isActive())
        protocol = self.stored(protocol)
        self.assertTrue(protocol.isFailed())
        self.assertIn("One of the 2 processes of cryoden", protocol.getErrorMessage())
        self.assertIn("Continue resumes from there.", protocol.getErrorMessage())
        return protocol

    def testDeathOfOneEndsDenoising(self):
        """One of two killed -9: the run fails and says so; Continue finishes, and tells what each of them left out."""
        micrographs = self.importMicrographs("dead", 8, shape=(512, 768))
        for number in (7, 8):
            with open(os.path.realpath(filesById(micrographs)[number]), "r+b") as file:
                file.truncate(2000)
        protocol = self.denoise(micrographs, quality=1, tile=512)
        self.proj.launchProtocol(protocol, wait=False)
        extra = protocol._getExtraPath()
        self.waitUntil(lambda: sum(name.endswith(".mrc") for name in os.listdir(extra)) >= 2)
        protocol = self.killSecond(protocol)
        done = [name for name in os.listdir(extra) if name.endswith(".mrc")]
        self.assertLess(len(done), 6)
        self.assertEqual(len(self.outputOf(protocol)[0]), len(done))
        protocol = self.continueRun(protocol)
        self.assertTrue(protocol.isFinished())
        files, isOpen = self.outputOf(protocol)
        self.assertEqual((sorted(objId for objId, _ in files), isOpen), ([1, 2, 3, 4, 5, 6], False))
        summary = "\n".join(protocol.summary())
        self.assertIn("Denoised: *6* of 8 micrographs", summary)
        self.assertIn("*Left out: 2*", summary)
        for number in (7, 8):
            self.assertIn(f"dead_{number}.mrc", summary)
        with open(protocol._getExtraPath("progress.json")) as file:
            self.assertEqual(json.load(file)["micrographs"], 6)

    def testDeathOfOneEndsTraining(self):
        """One of two killed -9: no model is registered, though there is one of the first epochs; Continue finishes."""
        odd, even = (self.importMicrographs("half", 3, half) for half in (0, 1))
        options = {"epochs": 6, "crop": 32, "batch_size": 2, "min_batches": 20, "gpuList": "0,1"}
        training = self.newProtocol(
            CryodenProtTrain,
            network=NETWORKS.index("cnn3"),
            inputMicrographsOdd=odd,
            inputMicrographsEven=even,
            **options,
        )
        training.batch_size.set(3)
        self.assertEqual(
            training.validate(), ["*Crops per step* is 3, which 2 GPUs cannot share evenly; choose a multiple of 2."]
        )
        training.batch_size.set(2)
        self.proj.launchProtocol(training, wait=False)
        self.waitUntil(lambda: os.path.exists(training._getExtraPath("model.safetensors")))
        training = self.killSecond(training)
        self.assertFalse(training.hasAttribute("outputModel"))
        training = self.continueRun(training)
        with open(training.getLogFile()) as log:
            self.assertEqual([json.loads(line)["epoch"] for line in log][-1], 6)
        self.assertTrue(os.path.exists(training.outputModel.getFileName()))
