"""Halves that other programs made become linked sets: at once, while they come, and again after a Continue."""

import os
from unittest import mock

import mrcfile
import numpy as np
from pyworkflow.protocol import MODE_RESUME

from cryoden_scipion.convert import itemsOfFile, linkedHalves
from cryoden_scipion.protocols import CryodenProtImportHalves
from cryoden_scipion.protocols.protocol_import_halves import DIFFERENCES, STOP_FILE, TWO_SOURCES
from cryoden_scipion.protocols.protocol_split_halves import OUTPUT_FOLDERS
from cryoden_scipion.tests.base import StreamingTest
from cryoden_scipion.viewers.viewer_images import CryodenHalvesViewer

SHAPE, SAMPLING_RATE = (96, 128), 1.5


def halfImages(number):
    """Return odd and even halves with a common signal."""
    rng = np.random.default_rng(number)
    signal = rng.normal(0, 1, SHAPE)
    return [(signal + rng.normal(0, 1, SHAPE)).astype(np.float32) for _ in range(2)]


class TestCryodenImportHalves(StreamingTest):
    """A folder or STAR file in, three sets out."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # How often runs look for new files: Scipion's own variable, which its processes inherit.
        environment = mock.patch.dict(os.environ, SCIPION_EM_NEW_FILE_CHECK_SEC="1")
        environment.start()
        cls.addClassCleanup(environment.stop)

    def write(self, name, image, rate=SAMPLING_RATE):
        """Write an image below the test's folder."""
        path = os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with mrcfile.new(path, overwrite=True) as mrc:
            mrc.set_data(image)
            mrc.voxel_size = rate

    def writeMotioncor(self, number):
        """Write what MotionCor leaves of a movie; the weighted sum is not asked for."""
        odd, even = halfImages(number)
        for mark, image in (("", odd + even), ("_DW", odd), ("_ODD", odd), ("_EVN", even)):
            self.write(f"m {number}{mark}.mrc", image)

    def newFolder(self, name):
        """Make a folder for the files of a test."""
        self.folder = os.path.abspath(self.proj.getTmpPath(name))
        os.makedirs(self.folder)

    def checkOutputs(self, protocol, numbers, folders=tuple(OUTPUT_FOLDERS.values())):
        """Every movie once in each set, closed, with the right pixels; the full ones link their halves."""
        for name, folder in OUTPUT_FOLDERS.items():
            output = getattr(protocol, name, None)
            self.assertEqual(output is not None, folder in folders)
            if output is None:
                continue
            self.assertTrue(output.isStreamClosed())
            self.assertEqual(output.getSamplingRate(), SAMPLING_RATE)
            self.assertEqual(output.getAcquisition().getVoltage(), 200)
            micrographs = itemsOfFile(output.getFileName())
            self.assertEqual([mic.getObjId() for mic in micrographs], list(range(1, len(numbers) + 1)))
            for number, mic in zip(numbers, micrographs):
                odd, even = halfImages(number)
                expected = {"odd": odd, "even": even, "full": odd + even}[folder]
                np.testing.assert_allclose(mrcfile.read(mic.getFileName()), expected, atol=1e-5)
                if folder == "full":
                    np.testing.assert_allclose(mrcfile.read(linkedHalves(mic)[1]), even, atol=1e-5)

    def testFolderOfMotioncor(self):
        """Blanks in names; one movie that lost a half is named; its half comes and Continue adds it."""
        self.newFolder("motioncor")
        for number in (1, 2, 3):
            self.writeMotioncor(number)
        lost = os.path.join(self.folder, "m 3_EVN.mrc")
        os.remove(lost)
        protocol = self.newProtocol(CryodenProtImportHalves, filesPath=self.folder, voltage=200)
        self.launchProtocol(protocol)
        self.checkOutputs(protocol, [1, 2])
        self.assertEqual(itemsOfFile(protocol.outputMicrographs.getFileName())[0].getMicName(), "m1.mrc")
        self.assertTrue(os.path.islink(itemsOfFile(protocol.outputMicrographs.getFileName())[0].getFileName()))
        summary = "\n".join(protocol.summary())
        self.assertIn("2 micrographs with both halves.", summary)
        self.assertIn("'m 3' has an odd half but no even half.", summary)
        self.assertIn(self.folder, protocol.methods()[0])
        self.assertEqual(len(CryodenHalvesViewer(project=self.proj)._pairsOf(protocol)), 2)

        self.writeMotioncor(3)
        self.checkOutputs(self.continueRun(protocol), [1, 2, 3])

        protocol.filesPath.set(os.path.dirname(self.folder))
        protocol.runMode.set(MODE_RESUME)
        self.assertIn("computed with another value of *Folder or STAR file*", protocol._continueProblems()[0])

    def testDifferencesAreConverted(self):
        """CryoCRAB: what `cryoden halves` makes of full images and differences."""
        self.newFolder("crab")
        for number in (1, 2):
            odd, even = halfImages(number)
            self.write(f"m{number}_full.mrc", odd + even)
            self.write(f"m{number}_diff.mrc", odd - even)
        protocol = self.newProtocol(
            CryodenProtImportHalves, importFrom=DIFFERENCES, fullPath=self.folder, differencePath=self.folder,
            voltage=200, full_is=1,
        )  # fmt: skip
        self.launchProtocol(protocol)
        self.checkOutputs(protocol, [1, 2])

    def testStreamingWithoutFullSums(self):
        """Two folders that fill; the outputs are open while they do; STOP STREAMING ends the import."""
        self.newFolder("streaming")

        def write(number):
            for folder, image in zip(("o", "e"), halfImages(number)):
                self.write(f"{folder}/m{number}.mrc", image)

        write(1)
        protocol = self.newProtocol(
            CryodenProtImportHalves, importFrom=TWO_SOURCES, oddPath=f"{self.folder}/o", evenPath=f"{self.folder}/e",
            voltage=200, dataStreaming=True, fileTimeout="0", samplingRate=SAMPLING_RATE,
        )  # fmt: skip
        self.proj.launchProtocol(protocol, wait=False)
        path = protocol._getPath("micrographsodd.sqlite")
        self.waitUntil(lambda: (len(self.content(path)[0]), self.content(path)[1]) == (1, True))
        write(2)
        self.waitUntil(lambda: len(self.content(path)[0]) == 2)
        self.assertIn("2 micrographs with both halves, more may come.", self.stored(protocol).summary())
        with open(protocol._getExtraPath(STOP_FILE), "w"):
            pass
        self.waitUntil(lambda: not self.content(path)[1])
        self.waitUntil(lambda: not self.processesOf(protocol))
        self.proj._updateProtocol(protocol)
        self.checkOutputs(protocol, [1, 2], ("odd", "even"))
        self.assertIn("There are no full sums beside the halves", "\n".join(protocol.summary()))

    def testWhatIsMissingIsSaid(self):
        """Needs no run."""
        self.newFolder("nothing")
        protocol = self.newProtocol(CryodenProtImportHalves)
        self.assertEqual(protocol._validate(), ["*Folder or STAR file* is empty; say where the halves are."])
        protocol.filesPath.set(self.folder)
        self.assertEqual(
            protocol._validate(), [f"There are no micrographs with halves in {self.folder}; check the path."]
        )
        protocol.filesPath.set(self.folder + "/none")
        self.assertIn("is neither a folder nor a STAR file", protocol._validate()[0])
        protocol.dataStreaming.set(True)
        protocol.filesPath.set(self.folder)
        self.assertEqual(protocol._validate(), [])
