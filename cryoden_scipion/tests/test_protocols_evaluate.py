"""The evaluation protocol, its viewer, and the wizard that looks at the data."""

import csv
import json
import os
from unittest import mock

import mrcfile
import numpy as np
from pwem.objects import SetOfMicrographs
from pwem.protocols import ProtImportMicrographs

from cryoden.formats.star import read_table
from cryoden_scipion.convert import clonedItems, micNameKey, newMicrograph
from cryoden_scipion.protocols import CryodenProtEvaluate, CryodenProtTrain
from cryoden_scipion.protocols.halves_input import LINKED_SET
from cryoden_scipion.tests.test_protocols_cryoden import N_MOVIES, SAMPLING_RATE, SHAPE, CryodenTest, writeMrc
from cryoden_scipion.viewers import CryodenEvaluateViewer
from cryoden_scipion.viewers.viewer_evaluate import EXAMPLES, OVERALL
from cryoden_scipion.wizards import CryodenLookAtDataWizard


class TestCryodenEvaluate(CryodenTest):
    """Halves and denoisers in, micrographs with their R2 and a report out."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.training = cls.launchTraining(sampling_rate=4.0, crop=32, epochs=2)
        cls.evaluation = cls.evaluate(halvesFrom=LINKED_SET, inputMicrographs=cls.split.outputMicrographs)
        cls.binned = cls.finishHere(cls.newProtocol(ProtImportMicrographs), cls.binMicrographs).outputMicrographs
        cls.withTruth = cls.evaluate(
            micrographsToScore=cls.binned, inputTruth=cls.split.outputMicrographs, bandHigh=12.0, scored=1,
            **cls.twoSets(),
        )  # fmt: skip

    @classmethod
    def binMicrographs(cls, protocol):
        """Define micrographs of larger pixels, as denoised ones are."""
        binned = protocol._createSetOfMicrographs()
        binned.copyInfo(cls.split.outputMicrographs)
        binned.setSamplingRate(2 * SAMPLING_RATE)
        for micrograph in clonedItems(cls.split.outputMicrographs):
            path = protocol._getExtraPath(os.path.basename(micrograph.getFileName()))
            writeMrc(path, np.ascontiguousarray(mrcfile.read(micrograph.getFileName())[::2, ::2]), 2 * SAMPLING_RATE)
            binned.append(newMicrograph(micrograph, path, 2 * SAMPLING_RATE))
        protocol._defineOutputs(outputMicrographs=binned)

    @classmethod
    def evaluate(cls, **options):
        """Run the protocol with the trained model."""
        return cls.launch(CryodenProtEvaluate, **{**cls.options(), **options})

    @classmethod
    def options(cls):
        """Return the options of a quick evaluation."""
        return {"inputModels": [cls.training.outputModel], "useGpu": False, "bootstrap": 20, "topaz": "no"}

    @classmethod
    def twoSets(cls):
        """Return the halves as two sets."""
        return {
            "inputMicrographsOdd": cls.split.outputMicrographsOdd,
            "inputMicrographsEven": cls.split.outputMicrographsEven,
        }

    def testEveryMicrographCarriesItsR2(self):
        """The output is the full set, and the numbers in its database are those of the table."""
        micrographs = self.evaluation.outputMicrographs
        self.assertSetSize(micrographs, N_MOVIES)
        with open(self.evaluation._getExtraPath("metrics.csv")) as file:
            rows = [row for row in csv.DictReader(file) if row["denoiser"] == "CNN3"]
        expected = {row["micrograph"]: row for row in rows}
        files = {mic.getMicName(): mic.getFileName() for mic in self.split.outputMicrographs}
        stored = SetOfMicrographs(filename=micrographs.getFileName())
        for micrograph in stored:
            numbers = expected[micNameKey(micrograph)]
            self.assertAlmostEqual(micrograph._cryodenR2.get(), float(numbers["r2"]), 4)
            self.assertAlmostEqual(micrograph._cryodenR2Corr.get(), float(numbers["r2_corr"]), 4)
            self.assertGreater(micrograph._cryodenR2Error.get(), 0)
            self.assertEqual(micrograph.getFileName(), files[micrograph.getMicName()])
        best = [mic.getMicName() for mic in stored.iterItems(orderBy="_cryodenR2", direction="DESC")]
        self.assertEqual(len(best), N_MOVIES)
        self.assertEqual(best, sorted(best, key=lambda name: -float(expected[os.path.splitext(name)[0]]["r2"])))
        stored.close()

    def testOnlyTheHeldOutMicrographsCount(self):
        """The model says on what it was trained."""
        with open(self.training.getLogFile()) as log:
            heldOut = list(json.loads(log.readlines()[-1])["r2_per_micrograph"])
        self.assertEqual(self.evaluation.table().scored, heldOut)
        self.assertEqual(len(self.withTruth.table().scored), N_MOVIES)

    def testR2GoesOnAThirdSet(self):
        """Two sets as input, the score on a third one, matched by name; a truth beside them."""
        evaluation, output = self.withTruth, self.withTruth.outputMicrographs
        self.checkMicrographs(output, N_MOVIES, 2 * SAMPLING_RATE, (SHAPE[1] // 2, SHAPE[0] // 2))
        self.assertEqual(evaluation.table().bands[0], "300-12")
        self.assertIsNotNone(evaluation.leader().truth)
        self.assertEqual(len(read_table(evaluation._getExtraPath("truth.star")).paths), N_MOVIES)
        viewer = CryodenEvaluateViewer(project=self.proj)
        viewer.setProtocol(evaluation)
        (plotter,) = viewer._plotExample("one_truth")
        plotter.draw()
        self.assertEqual(len(plotter.getFigure().axes), 6)  # four images, two colour bars

    def testOptionsReachTheDenoiser(self):
        """Every choice of the form is written into the options of the command; no denoiser is needed."""
        protocol = self.newProtocol(
            CryodenProtEvaluate, **{**self.options(), "inputModels": []}, **self.twoSets(), scored=1, topaz_network=2,
            quality=1, precision=2, sampling_rate=4.5, tile=96, seed=7, bandLow=250.0, bandHigh=10.0,
        )  # fmt: skip
        self.launchProtocol(protocol)
        with open(protocol._getExtraPath("options.json")) as file:
            options = json.load(file)
        expected = {
            "scored": "all", "topaz": "no", "topaz_network": "affine", "quality": "best", "precision": "float32",
            "sampling_rate": 4.5, "tile": 96, "seed": 7, "bootstrap": 20, "band": [250.0, 10.0], "model": [],
            "device": "cpu", "truth": None,
        }  # fmt: skip
        self.assertEqual({key: options[key] for key in expected}, expected)
        self.assertTrue(any("ring-wise Wiener" in line for line in protocol.summary()))

    def testWrongInputsAreRefusedBeforeTheRun(self):
        """The same words as the command line's, and as the training's for the halves."""
        odd = self.split.outputMicrographsOdd
        twice = self.newProtocol(
            CryodenProtEvaluate, **self.options(), inputMicrographsOdd=odd, inputMicrographsEven=odd
        )
        self.assertIn("Odd and even are the same set", "".join(twice.validate()))
        wrong = self.newProtocol(CryodenProtEvaluate, **self.options(), **self.twoSets(), bandLow=5.0, bandHigh=8.0)
        problems = wrong.validate()
        self.assertEqual(len(problems), 1, problems)
        self.assertTrue(problems[0].startswith("*Score band (Å)* is 5 8"), problems)

    def testSummaryHasTheTable(self):
        """A newcomer reads the numbers without opening anything."""
        lines = "\n".join(self.evaluation.summary())
        for words in (
            "R2 at 300-8 Å on 1 micrograph ",
            "ring-wise Wiener: ",
            "*CNN3: ",
            "Topaz-Denoise unet: It was left out. Set *Topaz-Denoise* to auto.",
        ):
            self.assertIn(words, lines)

    def testEveryButtonOfTheViewerDraws(self):
        """Each plot of the form, and the report in a browser."""
        viewer = CryodenEvaluateViewer(project=self.proj)
        viewer.setProtocol(self.evaluation)
        drawn = {}
        for name, plot in viewer._getVisualizeDict().items():
            if name in ("report", "one_truth"):
                continue
            (plotter,) = plot(name)
            plotter.draw()  # with Scipion's own layout of figures, which some pictures do not bear
            drawn[name] = len(plotter.getFigure().axes)
            self.assertGreater(drawn[name], 0)
        self.assertEqual(set(drawn), (set(OVERALL) | set(EXAMPLES) | {"inside"}) - {"one_truth"})
        self.assertFalse(viewer.hasAttribute("one_truth"))
        with mock.patch("webbrowser.open_new_tab", return_value=True) as browser:
            viewer._openReport("report")
        path = browser.call_args[0][0]
        self.assertTrue(os.path.isfile(path[len("file://") :]), path)

    def testWizardLooksAtTheData(self):
        """The contact sheet of what the training's form has selected; or what is wrong with it."""
        wizard = CryodenLookAtDataWizard()
        self.assertEqual(wizard._targets, [(CryodenProtTrain, ["lookAtData"])])
        protocol = self.newProtocol(CryodenProtTrain, **self.trainingOptions())
        axes = wizard.plot(protocol)[0].getFigure().axes
        titles = [place.get_title() for place in axes[1:4]]
        self.assertEqual(titles[:2], ["even half", "sum of both"])
        self.assertRegex(titles[2], r"should show no specimen:\ncorrelation 0\.\d\d")
        protocol.sampling_rate.set(6.0)
        coarse = wizard.plot(protocol)[0].getFigure().axes
        self.assertNotEqual(axes[0].get_xlim(), coarse[0].get_xlim())
        form = mock.Mock()
        odd = self.split.outputMicrographsOdd
        form.protocol = self.newProtocol(CryodenProtTrain, inputMicrographsOdd=odd, inputMicrographsEven=odd)
        wizard.show(form)
        self.assertIn("Odd and even are the same set", form.showError.call_args[0][0])
