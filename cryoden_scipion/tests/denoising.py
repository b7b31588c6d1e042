"""What tests of denoising share: a model whose result can be computed, micrographs of noise, runs of the protocol."""

import os

import mrcfile
import numpy as np
import scipy.ndimage
from pwem.objects import Acquisition, Micrograph
from pwem.protocols import ProtImportMicrographs

from cryoden.config import DenoiseConfig
from cryoden.formats.model_file import ModelCard, write_model
from cryoden.formats.star import read_table
from cryoden_scipion.protocols import CryodenProtDenoise, CryodenProtImportModel
from cryoden_scipion.tests.base import StreamingTest

SHAPE, SAMPLING_RATE = (96, 128), 3.0
ACQUISITION = Acquisition(voltage=300.0, sphericalAberration=2.7, amplitudeContrast=0.1, magnification=50000)
OUTPUT = "micrographs.sqlite"
FLOAT32 = DenoiseConfig.choices_of("precision").index("float32")


def writeMeanModel(path, samplingRate=SAMPLING_RATE, **training):
    """Write a CNN3 whose prediction is the mean of 3 x 3 pixels, so that every result can be computed by SciPy."""
    shapes = {"0": (16, 1, 3, 3), "2": (16, 16, 3, 3), "4": (1, 16, 3, 3)}
    weights = {f"layers.{layer}.weight": np.zeros(shape, np.float32) for layer, shape in shapes.items()}
    weights.update({f"layers.{layer}.bias": np.zeros(shape[0], np.float32) for layer, shape in shapes.items()})
    for channel, sign in ((0, 1), (1, -1)):  # positive and negative part, which ReLU would cut off
        weights["layers.0.weight"][channel, 0, 1, 1] = sign
        weights["layers.2.weight"][channel, channel, 1, 1] = 1
        weights["layers.4.weight"][0, channel] = sign / 9
    write_model(path, weights, ModelCard("cnn3", (), samplingRate, {"kind": "standard"}, {"r2": 0.5, **training}))


def noise(number, half=None, shape=SHAPE):
    """Return a micrograph of the tests, or one of its halves."""
    rng = np.random.default_rng(number)
    clean = np.maximum(30 + 40 * scipy.ndimage.gaussian_filter(rng.standard_normal(shape), 2.0), 1)
    halves = [rng.poisson(clean).astype(np.float32) for _ in range(2)]
    return sum(halves) if half is None else halves[half]


def writeImage(path, image):
    """Write one image as MRC."""
    with mrcfile.new(path, overwrite=True) as mrc:
        mrc.set_data(image)
        mrc.voxel_size = SAMPLING_RATE


class CryodenDenoiseTest(StreamingTest):
    """Base: a model and sets of micrographs."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = cls.importModel("model.safetensors")

    @classmethod
    def importModel(cls, name, **card):
        """Write and import a model."""
        path = os.path.abspath(cls.proj.getTmpPath(name))
        writeMeanModel(path, **card)
        protocol = cls.newProtocol(CryodenProtImportModel, modelFile=path)
        cls.owner = cls.finishHere(protocol, CryodenProtImportModel.importStep)
        return cls.owner.outputModel

    @classmethod
    def importMicrographs(cls, name, n, half=None, shape=SHAPE):
        """Write micrographs NAME_1, NAME_2... and return them as their import leaves them."""

        def makeOutputs(protocol):
            micrographs = protocol._createSetOfMicrographs()
            micrographs.setSamplingRate(SAMPLING_RATE)
            micrographs.setAcquisition(ACQUISITION)
            for number in range(1, n + 1):
                path = protocol._getExtraPath(f"{name}_{number}.mrc")
                writeImage(path, noise(number, half, shape))
                micrograph = Micrograph(location=path)
                micrograph.setMicName(os.path.basename(path))
                micrograph.setSamplingRate(SAMPLING_RATE)
                micrograph.setAcquisition(ACQUISITION)
                micrographs.append(micrograph)
            protocol._defineOutputs(outputMicrographs=micrographs)

        return cls.finishHere(cls.newProtocol(ProtImportMicrographs), makeOutputs).outputMicrographs

    def denoise(self, micrographs, **options):
        """Return a protocol that is not launched; in float32 on the CPU, as every machine computes it."""
        given = {"inputMicrographs": micrographs, "inputModel": self.model, "useGpu": False, "precision": FLOAT32}
        return self.newProtocol(CryodenProtDenoise, **{**given, **options})

    def launchDenoise(self, micrographs, **options):
        """Return a finished protocol."""
        protocol = self.denoise(micrographs, **options)
        self.launchProtocol(protocol)
        return protocol

    def outputOf(self, protocol):
        """Return the denoised micrographs (id, file) and whether more may come."""
        return self.content(protocol._getPath(OUTPUT))

    def checkOutput(self, protocol, n):
        """Every micrograph once, each the mean of 3 x 3 pixels of its original, the set closed, the STAR file whole."""
        files, isOpen = self.outputOf(protocol)
        self.assertFalse(isOpen)
        self.assertEqual([objId for objId, _ in files], list(range(1, n + 1)))
        for _, path in files:
            image, number = mrcfile.read(path), int(os.path.splitext(path)[0].split("_")[-1])
            expected = scipy.ndimage.uniform_filter(noise(number, shape=image.shape).astype(np.float64), 3)
            np.testing.assert_allclose(image[1:-1, 1:-1], expected[1:-1, 1:-1], rtol=1e-4)
        table = read_table(protocol._getExtraPath("micrographs.star"))
        self.assertEqual(sorted(table.paths), sorted(path for _, path in files))
        hidden = [name for name in os.listdir(protocol._getExtraPath()) if name.startswith(".")]
        self.assertEqual(hidden, [])
