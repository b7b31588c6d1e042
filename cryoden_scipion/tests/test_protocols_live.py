"""A session as at the microscope: movies arrive, RELION corrects motion, we split and denoise, all at once."""

import os
import shutil
from unittest import mock

import mrcfile
import numpy as np
from pwem.protocols import ProtImportMovies
from pyworkflow.protocol import MODE_RESUME

from cryoden_scipion.convert import filesById
from cryoden_scipion.protocols import CryodenProtSplitHalves
from cryoden_scipion.tests.denoising import SAMPLING_RATE, CryodenDenoiseTest

N_FRAMES, SHAPE = 6, (512, 576)


class TestCryodenLive(CryodenDenoiseTest):
    """Four protocols at work at the same time, each on the open output of another."""

    def takeMovie(self, number):
        """Let a movie appear whole in the folder of the microscope."""
        frames = np.random.default_rng(number).poisson(8, (N_FRAMES, *SHAPE)).astype(np.int16)
        path = os.path.join(self.folder, f"exposure_{number}.mrcs")
        with mrcfile.new(path + ".part") as mrc:
            mrc.set_data(frames)
            mrc.set_image_stack()
            mrc.voxel_size = SAMPLING_RATE
        os.rename(path + ".part", path)

    def launchLive(self, protocol):
        """Launch a protocol and return it at once."""
        self.proj.launchProtocol(protocol, wait=False)
        return protocol

    def outputNow(self, protocol, name):
        """Return an output as soon as the running protocol has it."""
        self.waitUntil(lambda: self.stored(protocol).hasAttribute(name))
        self.proj._updateProtocol(protocol)
        return getattr(protocol, name)

    def testDenoisedWhileMoviesArrive(self):
        """The first is denoised before the last arrives; a kill -9 in between loses and repeats nothing."""
        try:
            from relion.protocols import ProtRelionMotioncor
        except ImportError:
            self.skipTest("scipion-em-relion is not installed")
        if shutil.which("relion_run_motioncorr") is None:
            self.skipTest("RELION (relion_run_motioncorr) is not installed")
        oftener = mock.patch.dict(os.environ, SCIPION_EM_NEW_FILE_CHECK_SEC="1")
        oftener.start()
        self.addCleanup(oftener.stop)
        self.folder = os.path.abspath(self.proj.getTmpPath("microscope"))
        os.makedirs(self.folder)
        self.takeMovie(1)
        imports = self.launchLive(
            self.newProtocol(
                ProtImportMovies, filesPath=self.folder, filesPattern="*.mrcs", samplingRate=SAMPLING_RATE,
                voltage=300, dosePerFrame=1.0, dataStreaming=True, timeout="1h", fileTimeout="1",
            )
        )  # fmt: skip
        motion = self.launchLive(
            self.newProtocol(
                ProtRelionMotioncor, inputMovies=self.outputNow(imports, "outputMovies"), numberOfMpi=1,
                numberOfThreads=2, patchX=1, patchY=1, doDW=True, saveNonDW=True,
            )
        )  # fmt: skip
        split = self.launchLive(
            self.newProtocol(CryodenProtSplitHalves, inputMovies=self.outputNow(motion, "outputMovies"))
        )
        denoise = self.launchLive(self.denoise(self.outputNow(motion, "outputMicrographsDoseWeighted")))
        # Not earlier: with two movies in the set, reading its first one would keep pwem's import from writing more.
        self.waitUntil(lambda: self.outputOf(denoise)[0])
        self.assertTrue(self.outputOf(denoise)[1])
        self.killEverything(denoise)
        early = {path: os.stat(path).st_mtime for _, path in self.outputOf(denoise)[0]}
        denoise = self.stored(denoise)
        denoise.runMode.set(MODE_RESUME)
        self.launchLive(denoise)
        for number in (2, 3, 4):
            self.takeMovie(number)
            self.waitUntil(lambda n=number: len(self.content(imports._getPath("movies.sqlite"))[0]) == n)
        imports.stopImport(None)
        for protocol in (imports, motion, split, denoise):
            self.waitUntil(lambda protocol=protocol: not self.stored(protocol).isActive())
            self.assertTrue(self.stored(protocol).isFinished())
        files, isOpen = self.outputOf(denoise)
        self.assertFalse(isOpen)
        self.assertEqual([objId for objId, _ in files], [1, 2, 3, 4])
        lastMovie = filesById(self.stored(imports).outputMovies)[4]
        self.assertLess(max(early.values()), os.lstat(lastMovie).st_mtime)  # the link was made when it was imported
        self.assertEqual({path: os.stat(path).st_mtime for path in early}, early)
        self.assertEqual(self.stored(split).outputMicrographsOdd.getSize(), 4)
