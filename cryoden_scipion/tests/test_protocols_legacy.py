"""A project that version 0.1 made: its runs are there, are continued, and what they made goes on to new runs.

The material lies in tests/legacy/made_by_0_1 of the repository, with the script that made it.
"""

import json
import os
import shutil
import unittest
from pathlib import Path

import mrcfile
import numpy as np
from pwem.objects import SetOfMicrographs
from pyworkflow.project import Manager
from pyworkflow.protocol import MODE_RESUME, params
from pyworkflow.tests import BaseTest

from cryoden_scipion import protocols

MADE = Path(__file__).resolve().parents[2] / "tests" / "legacy" / "made_by_0_1"
SPLIT, TRAIN, DENOISE, EVALUATE, SIMULATE = "split", "train", "denoise", "evaluate", "simulate"

RESULTS = ("**/*.mrc", "**/*.mrcs", "**/*.npz", "**/*.safetensors", "thumbnails/*")
"""What takes long to make."""

PIXEL_TOLERANCE = 1e-4
"""Of an image's deviation; float32 convolutions of other libraries and processors differ by some 1e-6 each."""

RENAMED_OUTPUTS = {"CryodenProtSimulateMovies": {"outputMicrographs", "outputCoordinates"}}
"""Protocol -> outputs that new runs call otherwise; runs of 0.1 have them."""

CHANGED_DEFAULTS = {
    ("CryodenProtTrain", "network"): "2",
    ("CryodenProtTrain", "channels"): "",
    ("CryodenProtTrain", "epochs"): None,
    ("CryodenProtTrain", "lr"): None,
    ("CryodenProtTrain", "window"): "0.5",
}
"""(protocol, field) -> today's default, where it is meant to be another than in 0.1."""


@unittest.skipUnless(MADE.is_dir(), f"{MADE} is in the repository only")
class TestCryodenMadeBy01(BaseTest):
    """Runs of 0.1, opened and continued."""

    @classmethod
    def setUpClass(cls):
        """Copy the project, as one that comes from another computer."""
        manager = Manager()
        path = manager.getProjectPath(cls.__name__)
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(str(MADE / "project"), path, symlinks=True)
        cls.proj = manager.loadProject(cls.__name__)
        cls.outputPath = cls.proj.path
        os.chdir(cls.proj.path)

    def run01(self, label):
        """Return a run by its label."""
        return next(run for run in self.proj.getRuns() if run.getObjLabel() == label)

    def continued(self, label, **changes):
        """Return a run as its form would launch it with Continue after some fields were changed."""
        protocol = self.run01(label)
        protocol.runMode.set(MODE_RESUME)
        for name, value in changes.items():
            protocol.setAttributeValue(name, value)
        return protocol

    def launchContinued(self, label):
        """Continue a run to its end and return it; runs that come after it are no hindrance (Continue workflow)."""
        protocol = self.continued(label)
        self.assertEqual(protocol.validate(), [])
        self.proj.launchProtocol(protocol, wait=True, force=True)
        self.assertTrue(protocol.isFinished(), protocol.getErrorMessage())
        return protocol

    @staticmethod
    def stamps(protocol):
        """Return result -> what changes when it is made again."""
        extra = Path(protocol._getExtraPath())
        files = [path for pattern in RESULTS for path in extra.glob(pattern) if path.name != "fixed_pattern.npz"]
        return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}

    def checkMicrographs(self, micrographs, size):
        """So many files with names and ids of the movies, in a closed set that says what is in them."""
        stored = SetOfMicrographs(filename=micrographs.getFileName())
        stored.loadAllProperties()
        self.assertSetSize(stored, size)
        self.assertFalse(stored.isStreamOpen())
        for number, micrograph in enumerate(stored, 1):
            self.assertEqual(micrograph.getObjId(), number)
            self.assertEqual(micrograph.getMicName(), f"movie_{number:04d}.mrcs")
            with mrcfile.open(micrograph.getFileName()) as mrc:
                self.assertEqual(stored.getDim()[:2], mrc.data.shape[::-1])
                self.assertAlmostEqual(float(mrc.voxel_size.x), stored.getSamplingRate(), 4)
        stored.close()

    def checkPixels(self, protocol, then, *names):
        """Compare images with those of the same names that 0.1 made in another run."""
        for name in names:
            image, expected = mrcfile.read(protocol._getExtraPath(name)), mrcfile.read(then._getExtraPath(name))
            np.testing.assert_allclose(image, expected, rtol=0, atol=PIXEL_TOLERANCE * expected.std())

    def testRunsAreThere(self):
        """Every run is one of today's protocols, has its outputs, says something of itself, and could be continued."""
        sizes = {
            SPLIT: {"outputMicrographs": 3, "outputMicrographsOdd": 3, "outputMicrographsEven": 3},
            SIMULATE: {"outputMovies": 2, "outputMicrographs": 2},
            DENOISE: {"outputMicrographs": 3},
            EVALUATE: {"outputMicrographs": 3},
        }
        for label, outputs in sizes.items():
            for name, size in outputs.items():
                self.assertSetSize(getattr(self.run01(label), name), size)
        model = self.run01(TRAIN).outputModel
        self.assertTrue(os.path.isfile(model.getFileName()))
        self.assertEqual(model.getNetwork(), "cnn3")
        self.assertAlmostEqual(model.getSamplingRate(), 5.0, delta=0.1)
        self.assertEqual(self.run01("import model").outputModel.getR2(), model.getR2())
        for run in self.proj.getRuns():
            if run.getClassName().startswith("Cryoden"):
                self.assertIs(type(run), getattr(protocols, run.getClassName()))
                self.assertTrue("".join(run.summary()), run.getObjLabel())
                methods = "".join(run.getParsedMethods())
                self.assertNotIn("ERROR", methods, run.getObjLabel())
                self.assertTrue(methods or not run.isFinished(), run.getObjLabel())
        for label in (*sizes, TRAIN, "split stopped", "denoise stopped", "train stopped"):
            self.assertEqual(self.continued(label).validate(), [], label)
        scores = {mic.getObjId(): mic._cryodenR2.get() for mic in self.run01(EVALUATE).outputMicrographs}
        self.assertEqual(sorted(scores), [1, 2, 3])
        self.assertGreater(min(scores.values()), 0.5)

    def testFinishedRunsMakeNothingAgain(self):
        """Continue leaves every result as it is."""
        for label in (SPLIT, DENOISE, TRAIN, EVALUATE):
            before = self.stamps(self.run01(label))
            self.assertTrue(before, label)
            protocol = self.launchContinued(label)
            self.assertEqual(self.stamps(protocol), before, label)
        for name in ("outputMicrographs", "outputMicrographsOdd", "outputMicrographsEven"):
            self.checkMicrographs(getattr(self.run01(SPLIT), name), 3)
        self.checkMicrographs(self.run01(DENOISE).outputMicrographs, 3)

    def testStoppedRunsGoOn(self):
        """A split and a denoising that were stopped after two of three: the third is made, the others stay."""
        before = self.stamps(self.run01("split stopped"))
        split = self.launchContinued("split stopped")
        after = self.stamps(split)
        self.assertEqual(len(after), len(before) + 3)
        self.assertEqual({path: after[path] for path in before}, before)
        for name in ("outputMicrographs", "outputMicrographsOdd", "outputMicrographsEven"):
            self.checkMicrographs(getattr(split, name), 3)
        self.checkPixels(split, self.run01(SPLIT), *(f"{half}/movie_0003.mrc" for half in ("full", "odd", "even")))
        before = self.stamps(self.run01("denoise stopped"))
        denoise = self.launchContinued("denoise stopped")
        after = self.stamps(denoise)
        self.assertEqual(len(after), len(before) + 1)
        self.assertEqual({path: after[path] for path in before}, before)
        self.checkMicrographs(denoise.outputMicrographs, 3)
        self.checkPixels(denoise, self.run01(DENOISE), "movie_0003.mrc")

    def testStoppedTrainingGoesOn(self):
        """From its checkpoint to its last epoch."""
        with open(self.run01("train stopped").getLogFile()) as log:
            before = [json.loads(line) for line in log]
        training = self.launchContinued("train stopped")
        with open(training.getLogFile()) as log:
            records = [json.loads(line) for line in log]
        self.assertEqual(records[: len(before)], before)
        self.assertEqual([record["epoch"] for record in records], [1, 2, 3, 4, 5, 6])
        self.assertAlmostEqual(training.outputModel.getR2(), max(record["r2"] for record in records), 5)

    def testOtherFieldsAreRefused(self):
        """Before the run, as in 0.1."""
        for label, changes in (
            (SPLIT, {"lastFrame": 4}),
            (SPLIT, {"hot_pixels": 6.0}),
            (SPLIT, {"useGain": False}),
            ("split stopped", {"hot_pixels": 6.0}),
            (DENOISE, {"quality": 1}),
            (DENOISE, {"full_size": True}),
            ("denoise stopped", {"scale": 1}),
            (DENOISE, {"inputMicrographs": self.run01("simulate").outputMicrographs}),
            (TRAIN, {"epochs": 5}),
            ("train stopped", {"lr": 0.002}),
        ):
            self.assertNotEqual(self.continued(label, **changes).validate(), [], (label, changes))

    def testFreeFieldsMayChange(self):
        """Those that change no result; an empty field, which meant something else then, goes on as it was begun."""
        for label, changes in (
            (SPLIT, {"hot_pixels": None}), ("train stopped", {"sampling_rate": None}),
            (SPLIT, {"jobs": 1}), (DENOISE, {"thumbnails": 0}), ("train stopped", {"keep": 1, "memory": 2.0}),
        ):  # fmt: skip
            self.assertEqual(self.continued(label, **changes).validate(), [], (label, changes))

    def testNewRunsTakeWhatOldOnesMade(self):
        """Micrographs and denoiser of 0.1 give the pixels of 0.1."""
        old = self.run01(DENOISE)
        new = self.newProtocol(
            protocols.CryodenProtDenoise, inputMicrographs=self.run01(SPLIT).outputMicrographs,
            inputModel=self.run01("import model").outputModel, useGpu=False, precision=old.precision.get(),
        )  # fmt: skip
        self.launchProtocol(new)
        self.checkMicrographs(new.outputMicrographs, 3)
        self.checkPixels(new, old, *(f"movie_000{number}.mrc" for number in (1, 2, 3)))

    def testFieldsAndOutputsKeepTheirNames(self):
        """A stored run or workflow finds its fields by name, with the same default, and their choices by number."""
        for name, facts in json.loads((MADE / "protocols.json").read_text()).items():
            protocol = self.proj.newProtocol(getattr(protocols, name))
            outputs = protocol.getPossibleOutputs() or {}
            now = {
                getattr(output, "name", output): getattr(output, "value", None) or outputs[output] for output in outputs
            }
            kept = {key: kind for key, kind in facts["outputs"].items() if key not in RENAMED_OUTPUTS.get(name, ())}
            self.assertLessEqual(set(kept), set(now), name)
            self.assertEqual({key: now[key].__name__ for key in kept}, kept)
            for field, then in facts["fields"].items():
                param = protocol.getParam(field)
                self.assertIsNotNone(param, (name, field))
                self.assertEqual(type(param).__name__, then["class"], (name, field))
                default = CHANGED_DEFAULTS.get((name, field), then["default"])
                self.assertEqual(param.default.get(), default, (name, field))
                if isinstance(param, params.EnumParam):
                    self.checkChoices(param, then["choices"])

    def checkChoices(self, param, then):
        """The first choices are those of 0.1: options' words to the letter, sentences by their number."""
        now = list(param.choices)
        self.assertGreaterEqual(len(now), len(then))
        for word, choice in zip(then, now):
            if " " not in word:
                self.assertEqual(choice, word)
