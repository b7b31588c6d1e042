"""What the form says of the denoiser's problems, and of a command's end; needs no project."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from unittest import mock

import psutil
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from pwem.protocols import EMProtocol
from pyworkflow.protocol import STATUS_ABORTED, STATUS_RUNNING, params
from pyworkflow.tests import BaseTest
from pyworkflow.utils import Message

from cryoden.config import HalvesConfig
from cryoden.errors import COMMAND_LINE, ExistingResultsError, OptionError, Problem, Remedy, option_problem
from cryoden.formats.model_file import KEPT_START, ModelCard, read_card, write_model
from cryoden.formats.outcome import DONE, FAILED, SOME_FAILED, STOPPED, Ending, Round, file_state, write_ending
from cryoden.formats.training_folder import TrainingStatus, write_status
from cryoden.report.evaluation_table import Absent
from cryoden_scipion import Plugin, protocols
from cryoden_scipion.objects import CryodenModel
from cryoden_scipion.protocols import (
    CryodenProtDenoise,
    CryodenProtEvaluate,
    CryodenProtImportModel,
    CryodenProtSimulateMovies,
    CryodenProtSplitHalves,
    CryodenProtTrain,
    denoise_rules,
    streaming,
)
from cryoden_scipion.protocols import warm as warm_module
from cryoden_scipion.protocols.protocol_base import MAX_STDERR_LINES, CommandError, CryodenProtBase, Launch
from cryoden_scipion.protocols.streaming import StreamingRun
from cryoden_scipion.protocols.warm import WarmCommand
from cryoden_scipion.protocols.words import ACTIONS
from cryoden_scipion.viewers.browsing import PairBrowser
from cryoden_scipion.viewers.plotting import newPlotter, waiting
from cryoden_scipion.wizards.wizard_look import CryodenLookAtDataWizard

PROTOCOLS = [kind for name, kind in sorted(vars(protocols).items()) if name.startswith("CryodenProt")]

HOT_PIXELS = Remedy("set_to", "hot_pixels", "8")


class EndOfCommand(CryodenProtBase):
    """A protocol whose command only ends: with a status, an outcome, and lines on stderr."""

    def __init__(self, folder, status, ending, lines, gpus=()):
        super().__init__()
        self.folder, self.status, self.ending, self.lines = folder, status, ending, lines
        self._stepsExecutor = mock.Mock(getGpuList=lambda: list(gpus))

    def _getExtraPath(self, *names):
        return os.path.join(self.folder, *names)

    _getLogsPath = _getExtraPath

    def getStderrLog(self):
        return os.path.join(self.folder, "run.stderr")

    def usesGpu(self, value=None):
        return bool(self._stepsExecutor.getGpuList())

    def runJob(self, program, arguments, **kwargs):
        self.arguments = shlex.split(arguments)
        with open(self.getStderrLog(), "a") as log:
            log.write("".join(f"{line}\n" for line in self.lines))
        if self.ending is not None:
            write_ending(self._outcomeFile(), self.ending)
        if self.status:
            raise subprocess.CalledProcessError(self.status, program)


class GrowingInput(StreamingRun):
    """A protocol whose input grows from look to look, and which notes how its command is run.

    Parameters
    ----------
    looks : list
        Files that are there, and whether these are all.
    gpus : tuple
        That share the work.
    isQueued : bool
        Whether a queue gets every step.
    """

    def __init__(self, looks, gpus=(), isQueued=False):
        super().__init__()
        self.looks, self.isQueued, self.ways = iter(looks), isQueued, []
        self._stepsExecutor = mock.Mock(getGpuList=lambda: list(gpus))

    def usesGpu(self, value=None):
        return bool(self._stepsExecutor.getGpuList())

    def useQueueForSteps(self):
        return self.isQueued

    def _loadInput(self):
        names, isComplete = next(self.looks)
        return [mock.Mock(getFileName=lambda name=name: name) for name in names], isComplete

    def _writeInput(self, items):
        pass

    _register = _writeInput

    def _runCryoden(self, command, config, isShared=False):
        self.ways.append("started")

    def _runWarm(self, warm, command, config):
        warm._process = mock.Mock(poll=lambda: None)
        self.ways.append("kept")


class WarmRun(EndOfCommand, StreamingRun):
    """A protocol that has a process do a round."""

    def _inputFile(self):
        return self._getExtraPath("list.star")


class TestCryodenWords(BaseTest):
    """Problems, warnings and ends of commands, in fields and buttons."""

    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)

    # --------------------------- problems --------------------------------------
    def testEveryRemedyHasWords(self):
        """The form knows the actions of the command line, no more and no fewer, and says each in its own way."""
        self.assertEqual(set(ACTIONS), set(COMMAND_LINE.actions))
        words = CryodenProtSplitHalves()._words
        for action in ACTIONS:
            sentence = words.remedy(Remedy(action, "hot_pixels", "8"))
            self.assertTrue(sentence.endswith("."), sentence)
            for forbidden in ("{", "}", "--"):
                self.assertNotIn(forbidden, sentence)
            isAboutField = "{option}" in ACTIONS[action]
            self.assertEqual("*Replace hot pixels above (deviations)*" in sentence, isAboutField, sentence)

    def testOptionsAreCalledByTheirFields(self):
        """By the field, by the line of several fields, by the field of another name; else by the option's own."""
        split, train = CryodenProtSplitHalves()._words, CryodenProtTrain()._words
        self.assertEqual(split.option("frames"), "*Frames to use*")
        self.assertEqual(split.option("gain"), "*Apply the gain reference*")
        self.assertEqual(train.option("from_model"), "*Start from model*")
        self.assertEqual(train.option("lr"), "*Learning rate*")
        self.assertEqual(train.option("folders"), "folders")
        self.assertEqual(CryodenProtSimulateMovies()._words.option("size"), "*Frame size (px)*")

    def testBrokenRuleBeginsWithTheField(self):
        """As `_validate` says it, one text for each rule."""

        def makeConfig():
            raise OptionError([option_problem("lr", "is -1; it must be above 0."), option_problem("seed", "is bad.")])

        problems = CryodenProtTrain()._problemsOf(makeConfig)
        self.assertEqual(problems, ["*Learning rate* is -1; it must be above 0.", "*Random seed* is bad."])

    def testOtherOptionsAreNamedWithTheirValues(self):
        """What was and what is, except of paths."""
        differences = {"lr": (0.1, 0.2), "compile": (True, False), "from_model": ("/a/b", "/c/d")}
        error = ExistingResultsError("", remedy=Remedy("overwrite"), differences=differences)
        text = CryodenProtTrain()._errorText(error)
        said = (
            "The results of this run so far were computed with another value of *Learning rate* (was 0.1, is now 0.2) "
            "and *Compile the network* (was Yes, is now No) and *Start from model*. Set it back and Continue; or "
        )
        self.assertTrue(text.startswith(said), text)

    def fields(self):
        """Yield name, label and help of every field of every form; those that Scipion has a place for excepted."""
        self.assertGreaterEqual(len(PROTOCOLS), 8)
        for kind in PROTOCOLS:
            inherited = {*dict(EMProtocol()._definition.iterAllParams()), params.USE_GPU, params.GPU_LIST}
            for name, param in kind()._definition.iterAllParams():
                isHidden = param.condition.get() == "False"
                if name not in inherited and not isinstance(param, params.ElementGroup) and not isHidden:
                    yield f"{kind.__name__}.{name}", param.label.get() or "", param.help.get() or ""

    def testSplitComputesWhereTheFormSays(self):
        """The GPU is the form's choice; that there is none is no warning, since CPUs align movies, too."""
        protocol = CryodenProtSplitHalves()
        for isUsed, device in ((True, "auto"), (False, "cpu")):
            protocol.useGpu.set(isUsed)
            self.assertEqual(protocol._device(), device)
        protocol.useGpu.set(True)
        with mock.patch.object(Plugin, "gpuWarnings", return_value=["There is no GPU."]):
            self.assertEqual(protocol.warnings(), [])
            self.assertEqual(CryodenProtTrain().warnings(), ["There is no GPU."])

    def testFormsNameNoOption(self):
        """Labels and help of every field."""
        for name, *texts in self.fields():
            for text in texts:
                self.assertNotRegex(text, r"(^|\W)--[a-z]|`cryoden ", name)

    def testUnitsAreWrittenAsInTheField(self):
        """Å, Å/px, e/Å², µm; the network's name; no field that only has a name of its own."""
        for name, *texts in self.fields():
            for text in texts:
                self.assertNotRegex(
                    text, r"A/px|e/A|\bA\^2|[\d(] ?A\b|\bin A\b|\bum\b|\+-|U-net|(?<![(`])\bunet\b", name
                )

    def testHelpIsInWholeSentences(self):
        """Of every field that has some, and of the protocol: one line for each paragraph, which the window wraps."""
        ofScipion = vars(Message).values()  # its own words for an acquisition
        for name, label, text in self.fields():
            self.assertTrue(label, name)
            for line in text.splitlines() if text not in ofScipion else ():
                self.assertRegex(line, r"^[*_]?\S.*[.?]$", name)
        for kind in PROTOCOLS:
            for paragraph in kind.getHelpText().split("\n\n"):
                self.assertRegex(paragraph, r"^[A-Z][^\n]*\.$", kind.__name__)

    def testWhatFewNeedIsAdvanced(self):
        """At the normal expert level a simulation asks for no more than a handful of numbers, a split not for EER."""
        fields = dict(CryodenProtSimulateMovies()._definition.iterAllParams())
        normal = {name for name, param in fields.items() if not param.isExpert()}
        self.assertLessEqual({"movies", "frames", "particles", "defocus", "dose_per_frame"}, normal)
        self.assertFalse(normal & {"potential", "carbon", "drift", "blur", "gain_spread", "voltage"})
        for kind, names in (
            (CryodenProtSplitHalves, ("eer_frames", "eer_dose", "eer_sampling")),
            (CryodenProtTrain, ("batch_size", "lr")),
            (CryodenProtDenoise, ("dtype", "tile")),
            (CryodenProtEvaluate, ("topaz", "topaz_network")),
        ):
            for name in names:
                self.assertTrue(kind().getParam(name).isExpert(), name)

    # --------------------------- what lies in a run's folder, of this version and of 0.1 ---------------------------
    def protocol(self, kind):
        """Return a protocol whose results lie in the test's folder."""
        protocol = kind()
        protocol._getExtraPath = lambda *names: os.path.join(self.folder, *names)
        return protocol

    def write(self, name, content):
        """Write a result as JSON, or a log as text."""
        with open(os.path.join(self.folder, name), "w") as file:
            file.write(content if isinstance(content, str) else json.dumps(content))

    def testWarningsOfHalves(self):
        """A remedy becomes a field; a sentence of 0.1 stays as it is."""
        problem = Problem("warning", "There is a pattern.", remedy=HOT_PIXELS).to_dict()
        self.write("sanity.json", {"warnings": [problem, "The halves do not correlate."]})
        self.assertEqual(
            self.protocol(CryodenProtSplitHalves)._sanityLines(),
            [
                "*Warning:* There is a pattern. Set *Replace hot pixels above (deviations)* to 8.",
                "*Warning:* The halves do not correlate.",
            ],
        )

    def testWarningsOfDenoising(self):
        """In the logs of all processes, each once; a line that a kill cut off is passed over."""
        problem = Problem("warning", "b.mrc is small.", "b.mrc", Remedy("set_to", "tile", "64")).to_dict()
        lines = [json.dumps({"warning": warning}) for warning in ("a.mrc is large.", "a.mrc is large.")]
        self.write("log.jsonl", "\n".join([*lines, '{"micrograph": "c.mrc"}', '{"warning": "cut o']))
        self.write("log_1.jsonl", json.dumps({"warning": problem}) + "\n")
        protocol = self.protocol(CryodenProtDenoise)
        self.assertEqual(
            protocol._warningLines(protocol._logWarnings()),
            ["*Warning:* a.mrc is large.", "*Warning:* b.mrc is small. Set *Tile size (px)* to 64."],
        )

    def testProgressOfTraining(self):
        """While it runs, after a stop, and before there is anything to say."""
        protocol = self.protocol(CryodenProtTrain)
        self.assertEqual(len(protocol._summary()), 1)
        self.assertTrue(protocol._summary()[0].startswith("No model yet."))
        write_status(self.folder, TrainingStatus(3, 20, 40, 400, 0.1, 720.0, 0.9, 0.2134))
        protocol.setStatus(STATUS_RUNNING)
        self.assertEqual(
            protocol._summary(), ["*Epoch 3 of 20, R2 0.21, 12 minutes left.* *Analyze results* shows the curves."]
        )
        protocol.setStatus(STATUS_ABORTED)
        self.assertTrue(protocol._summary()[0].startswith("*Stopped in epoch 3 of 20, R2 0.21.*"))
        self.write("training_status.json", "{")
        self.assertIn("training_status.json", protocol._summary()[0])

    def testWhatATrainingStartsFrom(self):
        """The general model where nothing is chosen, or nothing; what is left empty suits it."""
        config = self.protocol(CryodenProtTrain)._config()
        self.assertEqual((config.from_model, config.network, config.channels), ("auto", "resunet", ()))
        self.assertEqual((config.lr, config.epochs), (None, None))
        protocol = self.protocol(CryodenProtTrain)
        protocol.startFrom.set(1)
        self.assertEqual(protocol._config().from_model, "none")
        protocol.startModel.set(CryodenModel("other.safetensors"))
        self.assertEqual(protocol._config().from_model, "other.safetensors")

    def testStartThatWasKept(self):
        """The summary says so, and what it was."""
        path = os.path.join(self.folder, "model.safetensors")
        facts = {
            "epoch": 0,
            "r2": 0.4,
            "start": {"model": "general", "digest": "0"},
            "options": {"from_model": "general"},
        }
        write_model(path, {}, ModelCard("cnn3", (), 4.0, {}, facts))
        model = CryodenModel(path)
        model.setFromCard(read_card(path))
        protocol = self.protocol(CryodenProtTrain)
        protocol.outputModel = model
        self.assertIn("Started from the general model.", protocol._summary())
        self.assertIn(f"*{KEPT_START}*", protocol._summary())

    def testWeakModel(self):
        """Said in the summaries that show the model, and before micrographs are denoised with it."""
        path = os.path.join(self.folder, "model.safetensors")
        write_model(path, {}, ModelCard("cnn3", (), 4.0, {}, {"step": 24, "r2": 0.1, "wiener_r2": 0.2}))
        model = CryodenModel(path)
        model.setFromCard(read_card(path))
        sentences = [
            "This model is hardly trained (24 steps): train longer.",
            "This model is worse than a linear filter (R2 0.100, a Wiener filter 0.200): train longer.",
        ]
        for kind in (CryodenProtTrain, CryodenProtImportModel):
            protocol = self.protocol(kind)
            protocol.outputModel = model
            lines = [f"*Warning:* {sentence}" for sentence in sentences]
            self.assertEqual([line for line in protocol._summary() if "Warning" in line], lines)

        protocol = self.protocol(CryodenProtDenoise)
        protocol.inputMicrographs.set(mock.Mock(getSize=lambda: 1))
        protocol.inputModel.set(model)
        with mock.patch.multiple(denoise_rules, repeatWarnings=lambda *_: [], sizeWarnings=lambda *_: []):
            self.assertEqual(protocol._warnings(), sentences)

    def testWizardWarns(self):
        """Of what no crop shows; after the sheet, not in its place."""
        form, wizard, plotter = mock.Mock(), CryodenLookAtDataWizard(), mock.Mock()
        form.protocol._validateHalves.return_value = []
        for warnings in ([], ["A fixed pattern."]):
            with mock.patch.object(wizard, "plot", lambda protocol, found=warnings: (plotter, found)):
                wizard.show(form)
            self.assertEqual([call.args for call in form.showWarning.mock_calls], [(text,) for text in warnings])
        self.assertEqual(plotter.show.call_count, 2)

    def testFailures(self):
        """Each with what to do; a full disk apart, many not all."""
        failures = {f"{n}.mrc": Problem("file", f"{n}.mrc is bad.").to_dict() for n in range(12)}
        failures["old.mrc"] = "old.mrc is truncated."
        failures["late.mrc"] = Problem("full_disk", "The disk is full.", remedy=Remedy("free_disk")).to_dict()
        self.write("failures.json", failures)
        lines = self.protocol(CryodenProtDenoise)._failureLines()
        self.assertEqual(lines[0], "*The disk was full*: 1 still to be done. Free some space and Continue.")
        self.assertEqual(lines[1:3], ["*Left out: 13*", "  0.mrc is bad."])
        self.assertEqual(len(lines), 13)
        self.assertTrue(lines[-1].startswith("  and 3 more; see "), lines[-1])

    def testAbsentDenoisers(self):
        """A row without numbers says how the form can add the denoiser; that of 0.1 has a sentence."""
        self.write("metrics.json", {})
        reason = Problem("absent", "It was not given.", remedy=Remedy("set", "model"))
        absent = [Absent("unet", "U-Net", "network", reason)]
        absent.append(Absent("topaz", "Topaz", "external", Problem.from_dict("topaz is not installed")))
        protocol = self.protocol(CryodenProtEvaluate)
        protocol.table = lambda: mock.Mock(bands=["300-8"], scored=["a"], rows=[], absent=absent, warnings=["Alas."])
        self.assertEqual(
            protocol._summary()[1:4],
            ["  U-Net: It was not given. Fill in *Denoisers*.", "  Topaz: topaz is not installed", "*Warning:* Alas."],
        )

    # --------------------------- what a run says when its command has failed ---------------------------
    def runCommand(self, status, ending=None, lines=(), gpus=()):
        """Run a command that ends so."""
        protocol = EndOfCommand(self.folder, status, ending, lines, gpus)
        with open(protocol.getStderrLog(), "w") as log:
            log.write("of an earlier command\n")
        write_ending(protocol._outcomeFile(), Ending(FAILED, (Problem("file", "Of an earlier command."),)))
        protocol._runCryoden("halves", mock.Mock(to_dict=lambda: {"seed": 1}), isShared=True)

    def errorOf(self, *given):
        """Return what the run fails with: text and ending."""
        with self.assertRaises(CommandError) as caught:
            self.runCommand(*given)
        return str(caught.exception), caught.exception.ending

    def testDoneAndPartlyDone(self):
        """Failures of some inputs fail no run."""
        self.runCommand(0, Ending.of({}))
        self.runCommand(1, Ending(SOME_FAILED, (), {"a": Problem("file", "a is bad.")}))
        with open(os.path.join(self.folder, "options.json")) as file:
            self.assertEqual(json.load(file), {"seed": 1})

    def testOwnWordsOfTheCommand(self):
        """Its problems in the form's words, and nothing of stderr."""
        ending = Ending(FAILED, (Problem("file", "a is bad.", remedy=Remedy("free_disk")), Problem("file", "b too.")))
        text, given = self.errorOf(2, ending, ["cryoden: a is bad. Give --x."])
        self.assertEqual(text, "a is bad. Free some space and Continue; what is finished is kept. b too.")
        self.assertEqual(given, ending)

    def testKilled(self):
        """Without a word the run shows the end of stderr as it is, and of this command alone."""
        lines = [f"line {number} --of {{this}}" for number in range(MAX_STDERR_LINES + 5)]
        for status in (-9, 137):
            text, ending = self.errorOf(status, None, lines)
            self.assertIsNone(ending)
            first, *rest = text.splitlines()
            self.assertEqual(
                first,
                "cryoden halves was killed (signal 9). The memory may not have been enough. What is finished is kept: "
                "Continue resumes from there.",
            )
            self.assertEqual(rest, lines[-MAX_STDERR_LINES:])

    def testDeathOfOneOfSeveralProcesses(self):
        """Whether nobody could say anything, or the first process does not know what hit it."""
        lost = Ending(FAILED, (Problem("unexpected", "Connection reset by peer."),))
        for ending, end in ((None, "\n[rank1] died"), (lost, "\nConnection reset by peer.")):
            text, _ = self.errorOf(1, ending, ["[rank1] died"], (0, 1))
            self.assertTrue(text.startswith("One of the 2 processes of cryoden halves ended early"), text)
            self.assertTrue(text.endswith(f"Continue resumes from there.{end}"), text)
        lost = {"mic": Problem("lost_process", "Process 2 of 2 ended before this was done.")}
        text, _ = self.errorOf(1, Ending(SOME_FAILED, (), lost), [], (0, 1))
        self.assertTrue(text.endswith("Continue resumes from there."), text)
        with open(os.path.join(self.folder, "options.json")) as file:
            self.assertEqual(json.load(file), {"seed": 1, "gpus": "auto,auto"})
        known = Ending(FAILED, (Problem("training", "The loss is not a number."),))
        self.assertEqual(self.errorOf(1, known, [], (0, 1))[0], "The loss is not a number.")

    def testEndedWithoutAWord(self):
        """Of a folder that cannot be written, or of an environment without the denoiser."""
        text, _ = self.errorOf(1, None, ["No module named cryoden"])
        self.assertIn("ended with status 1; run.stderr says why", text)
        self.assertTrue(text.endswith("\nNo module named cryoden"), text)

    def testStopped(self):
        """By a signal that it could still answer."""
        text, _ = self.errorOf(143, Ending(STOPPED), ["Stopped."])
        self.assertTrue(text.startswith("cryoden halves was killed (signal 15). What is finished is kept"), text)

    # --------------------------- rounds of an input that grows -----------------------------------------
    def testOneProcessWhereThatIsPossible(self):
        """Not for an input that is there, nor where a queue gets every command, or several processes share the work."""
        growing = [("a", False), ("ab", False), ("ab", False), ("abc", True), ("abc", True)]
        for looks, options, ways in (
            (growing, {}, ["kept"] * 3),
            (growing, {"gpus": (1,)}, ["kept"] * 3),
            (growing, {"gpus": (0, 1)}, ["started"] * 3),
            (growing, {"isQueued": True}, ["started"] * 3),
            ([("abc", True)] * 2, {}, ["started"]),
        ):
            protocol = GrowingInput(looks, **options)
            with mock.patch.object(streaming, "WAIT_SECONDS", 0):
                protocol._runInRounds("halves", lambda: None, isShared=True)
            self.assertEqual(protocol.ways, ways)

    def roundOf(self, *answers, isKept=True):
        """Have a process answer to a round, one after the other; return how many were started, or what the run says."""
        protocol = WarmRun(self.folder, 0, None, ())
        with open(protocol.getStderrLog(), "w"):
            pass
        config = HalvesConfig(movies=("list.star",), output=self.folder)
        warm, starts = WarmCommand(), []

        def start(line, launch, options):
            warm.launch, warm._options, warm._process = launch, options, mock.Mock(poll=lambda: None)
            starts.append(options)

        with mock.patch.object(warm, "start", start):
            if isKept:
                with mock.patch.object(warm, "doRound", lambda *_: Ending.of({})):
                    protocol._runWarm(warm, "halves", config)
            with mock.patch.object(warm, "doRound", mock.Mock(side_effect=answers)):
                try:
                    protocol._runWarm(warm, "halves", config)
                except CommandError as error:
                    return str(error)
        self.assertTrue(all(options["end_with_stdin"] for options in starts))
        return len(starts)

    def testProcessThatIsGone(self):
        """One that did rounds is replaced once; an error of the command is said as always."""
        done, failed = Ending.of({}), Ending(FAILED, (Problem("file", "a is bad."),))
        self.assertEqual(self.roundOf(done), 1)
        self.assertEqual(self.roundOf(None, done), 2)
        self.assertEqual(self.roundOf(Ending(STOPPED), done), 2)
        self.assertEqual(self.roundOf(failed), "a is bad.")
        self.assertEqual(self.roundOf(None, failed), "a is bad.")
        self.assertIn("run.stderr says why", self.roundOf(None, None))
        self.assertIn("run.stderr says why", self.roundOf(None, isKept=False))

    def testProcessThatEndsOrHangs(self):
        """One that ended after another round did not do this one; one that hears nothing is killed, children too."""
        star, outcome = os.path.join(self.folder, "list.star"), os.path.join(self.folder, "outcome.json")
        with open(star, "w") as file:
            file.write("a")
        write_ending(outcome, Ending.of({}, Round(1, 1, {star: file_state(star)})))
        warm = WarmCommand()
        launch = Launch("halves", "", dict(os.environ), 1, 0)
        with open(os.path.join(self.folder, "out"), "w") as out, mock.patch.multiple(sys, stdout=out, stderr=out):
            warm.start("true", launch, {})
            self.assertEqual(warm.doRound(star, outcome).status, DONE)
            with open(star, "a") as file:
                file.write("b")
            self.assertIsNone(warm.doRound(star, outcome))
            warm.stop()
            warm.start("sleep 60; true", launch, {})
        shell = psutil.Process(warm._process.pid)
        while not shell.children():
            pass
        processes = [shell, *shell.children()]
        with mock.patch.object(warm_module, "STOP_SECONDS", 0.1):
            warm.stop()
        self.assertEqual(psutil.wait_procs(processes, timeout=10)[1], [])

    def testProgramWithASpace(self):
        """An environment may lie anywhere."""
        with mock.patch.object(sys, "executable", "/opt/my env/bin/python"):
            self.assertEqual(shlex.split(Plugin.getProgram())[:3], ["/opt/my env/bin/python", "-m", "cryoden"])

    # --------------------------- windows ---------------------------------------
    def testWindowsSayWhoseTheyAre(self):
        """The run's name comes first; a viewer without a run has its title alone."""
        run = CryodenProtTrain()
        run.setObjLabel("train on hexagons")
        for given, expected in ((run, "train on hexagons: curves"), (None, "curves")):
            with mock.patch("cryoden_scipion.viewers.plotting.EmPlotter") as plotter:
                newPlotter(given, "curves", (3, 2))
            self.assertEqual(plotter.call_args.kwargs["windowTitle"], expected)

    def testWaitCursorGoesAway(self):
        """Also where drawing fails; nothing happens where there is no window."""
        window = mock.Mock()
        with self.assertRaises(ValueError), waiting(window):
            self.assertEqual(window.configure.call_args, mock.call(cursor="watch"))
            raise ValueError
        self.assertEqual(window.configure.call_args, mock.call(cursor=""))
        with waiting(None):
            pass

    def testPagingKeysAreWritten(self):
        """In the title, with how many there are; the buttons have arrows, too."""
        figure = Figure()
        FigureCanvasAgg(figure)
        PairBrowser(figure, lambda: [("m1", "a", "b"), ("m2", "c", "d")], ("odd", "even"), False, str)
        texts = [text.get_text() for text in figure.findobj(Text)]
        self.assertTrue(any("m1   (1 of 2; arrow keys: previous, next)" in text for text in texts), texts)
        self.assertIn("next \N{RIGHTWARDS ARROW}", texts)
