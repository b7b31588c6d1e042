"""The protocol that chooses a denoiser: its output denoises, its summary says why, Continue is safe."""

import os

from pyworkflow.protocol import MODE_RESUME

from cryoden.formats import outputs
from cryoden.formats.general_model import has_general_model
from cryoden.formats.model_file import read_card
from cryoden_scipion.objects import CryodenModel
from cryoden_scipion.protocols import CryodenProtChoose, CryodenProtDenoise, CryodenProtImportModel
from cryoden_scipion.protocols.halves_input import LINKED_SET
from cryoden_scipion.tests.denoising import writeMeanModel
from cryoden_scipion.tests.test_protocols_cryoden import N_MOVIES, SAMPLING_RATE, CryodenTest
from cryoden_scipion.viewers import CryodenChooseViewer
from cryoden_scipion.viewers.viewer_evaluate import OVERALL

WORKING_RATE = 4.0


class TestCryodenChoose(CryodenTest):
    """Halves in, the denoiser that is best on them out."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.own = cls.finishHere(cls.newProtocol(CryodenProtImportModel), cls.makeModel).outputModel
        cls.choice = cls.launch(CryodenProtChoose, **cls.options())

    @classmethod
    def makeModel(cls, protocol):
        """Define the output of an import."""
        model = CryodenModel(protocol._getExtraPath(outputs.MODEL))
        writeMeanModel(model.getFileName(), WORKING_RATE, trained_on=[])
        model.setFromCard(read_card(model.getFileName()))
        protocol._defineOutputs(outputModel=model)

    @classmethod
    def options(cls):
        """Return the options of a quick election."""
        return {
            "halvesFrom": LINKED_SET, "inputMicrographs": cls.split.outputMicrographs, "inputModels": [cls.own],
            "seconds": 0.0, "useGpu": False, "bootstrap": 20, "topaz": "no", "held_out": 0.5,
        }  # fmt: skip

    def testTheElectedOneDenoises(self):
        """It is a denoiser like any that was trained, with the R2 of the election."""
        model, election = self.choice.outputModel, self.choice.election()
        self.assertEqual(os.path.basename(model.getFileName()), outputs.MODEL)
        self.assertAlmostEqual(model.getR2(), election.winner.value, 5)
        card = read_card(model.getFileName())
        self.assertEqual((model.getNetwork(), model.getNetworkLabel()), (card.network, card.label))
        self.assertEqual(len(election.held_out), N_MOVIES // 2)
        keys = {candidate.key for candidate in election.candidates if candidate.value is not None}
        self.assertEqual(keys, {"gaussian", "wiener", "own1"} | ({"general"} if has_general_model() else set()))

        denoised = self.launch(
            CryodenProtDenoise, inputMicrographs=self.split.outputMicrographs, inputModel=model, useGpu=False
        )
        self.assertSetSize(denoised.outputMicrographs, N_MOVIES)
        self.assertAlmostEqual(denoised.outputMicrographs.getSamplingRate(), WORKING_RATE, 4)
        self.assertGreater(WORKING_RATE, SAMPLING_RATE)

    def testSummaryAndMethodsSayWhoWonAndBy(self):
        """The headline, what took no part in the form's words, and a paragraph for a paper."""
        election, summary = self.choice.election(), self.choice.summary()
        self.assertEqual(summary[0], f"*{election.headline()}*")
        self.assertRegex(summary[0], r"elected: R2 -?\d\.\d{3} ± \d\.\d{3}; .*own model")
        self.assertIn("Topaz-Denoise unet took no part: It was left out. Set *Topaz-Denoise* to auto.", summary)
        self.assertIn(self.choice.evaluationPath(outputs.REPORT), summary[-1])
        self.assertTrue(os.path.isfile(self.choice.evaluationPath(outputs.REPORT)))
        methods = " ".join(self.choice.methods())
        self.assertIn(f"{election.winner.label} was used", methods)
        self.assertEqual(self.choice._citations(), ["Lehtinen2018"])

    def testOptionsReachTheDenoiser(self):
        """Every field of the form is an option of the command."""
        protocol = self.newProtocol(
            CryodenProtChoose, **{**self.options(), "seconds": 90.0, "topaz": "auto"}, topaz_network=2, quality=1,
            precision=2, tile=96, seed=7, bandLow=250.0, bandHigh=10.0, margin=0.01, at_most=5,
        )  # fmt: skip
        options = protocol._config().to_dict()
        expected = {
            "seconds": 90.0, "topaz": "auto", "topaz_network": "affine", "quality": "best", "precision": "float32",
            "tile": 96, "seed": 7, "band": [250.0, 10.0], "margin": 0.01, "at_most": 5, "held_out": 0.5,
            "bootstrap": 20, "model": [self.own.getFileName()], "device": "cpu", "overwrite": False,
        }  # fmt: skip
        self.assertEqual({name: options[name] for name in expected}, expected)

    def testWrongInputsAreRefusedBeforeTheRun(self):
        """In the words of the form."""
        odd = self.split.outputMicrographsOdd
        wrong = self.newProtocol(
            CryodenProtChoose, inputMicrographsOdd=odd, inputMicrographsEven=odd, held_out=1.0, waitForPairs=-1
        )
        problems = "\n".join(wrong.validate())
        self.assertIn("Odd and even are the same set", problems)
        self.assertIn("*Held-out fraction* is 1.0; it must be above 0 and below 1.", problems)
        self.assertIn("*Micrographs to wait for* is negative", problems)

    def testContinueRefusesOtherOptions(self):
        """They would be another election; what changes nothing may change."""
        protocol = self.proj.getProtocol(self.choice.getObjId())
        protocol.runMode.set(MODE_RESUME)
        self.assertEqual(protocol.validate(), [])
        protocol.margin.set(0.02)
        problems = protocol.validate()
        self.assertEqual(len(problems), 1, problems)
        self.assertIn("*R2 that counts as equal* (was 0.005, is now 0.02)", problems[0])
        self.assertIn("Restart", problems[0])

    def testTheViewerShowsCandidatesAndPictures(self):
        """The buttons of an evaluation, and one for the candidates."""
        viewer = CryodenChooseViewer(project=self.proj)
        viewer.setProtocol(self.choice)
        plots = viewer._getVisualizeDict()
        for name in ("candidates", "scores", "one_side_by_side"):
            (plotter,) = plots[name](name)
            plotter.draw()
            self.assertGreater(len(plotter.getFigure().axes), 0)
        self.assertLessEqual(set(OVERALL), set(plots))
        (plotter,) = plots["candidates"]("candidates")
        (axes,) = plotter.getFigure().axes
        labels = [label.get_text() for label in axes.get_yticklabels()]
        self.assertIn(f"{self.choice.election().winner.label} (elected)", labels)
        self.assertIn("Set Topaz-Denoise to auto.", plotter.getFigure()._supxlabel.get_text())
