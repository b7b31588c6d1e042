"""What the protocols share: options from one configuration class, one subprocess, named failures, being continued."""

import json
import os
import shlex
import signal
import subprocess

from pwem.protocols import EMProtocol
from pyworkflow.protocol import params

from cryoden.errors import FullDiskError, OptionError
from cryoden.formats import outputs
from cryoden.formats.outcome import FAILED, read_ending, read_failures
from cryoden_scipion import Plugin
from cryoden_scipion.protocols.words import formWords

OPTIONS_FILE = "options.json"
"""In the run's folder: the options with which the last command was started."""

MOST_REASONS = 10
"""Lines of a summary about inputs that were left out."""

SHELL_SIGNAL = 128
"""A shell adds this to the number of the signal that killed its command."""

MOST_LINES = 20
"""Lines of a command's stderr that are shown where it could not say how it ended."""


class CommandError(Exception):
    """A command of the denoiser did not do what it was started for.

    Parameters
    ----------
    text : str
        In the form's words.
    ending : cryoden.formats.outcome.Ending or None
        What the command left; None where it was killed.
    """

    def __init__(self, text, ending=None):
        super().__init__(text)
        self.ending = ending


class CryodenProtBase(EMProtocol):
    """Base of the protocols that run a command of the denoiser."""

    _fields = {}
    """Option -> the form's parameter (or the label of a line) that sets it, where they have different names."""

    # --------------------------- DEFINE param functions ----------------------
    @staticmethod
    def _addGpuParams(form, help):
        useGpuHelp = "With Yes a GPU is used where there is one, else the CPU, many times slower; the log says which."
        form.addHidden(params.USE_GPU, params.BooleanParam, default=True, label="Use a GPU?", help=useGpuHelp)
        form.addHidden(params.GPU_LIST, params.StringParam, default="0", label="GPU ids", help=help)

    @staticmethod
    def _addOption(place, configClass, name, paramClass, label, **kwargs):
        """Add a form field for one option of the command, with the command line's own default and help."""
        kwargs.setdefault("help", configClass.help_of(name))
        if configClass.default_of(name) is None:
            kwargs["allowsNull"] = True
        else:
            kwargs.setdefault("default", configClass.default_of(name))
        place.addParam(name, paramClass, label=label, **kwargs)

    @staticmethod
    def _addChoice(place, configClass, name, label, **kwargs):
        """Add a form field for an option with named choices."""
        choices = list(configClass.choices_of(name))
        default = choices.index(configClass.default_of(name))
        help_ = configClass.help_of(name)
        place.addParam(name, params.EnumParam, choices=choices, default=default, label=label, help=help_, **kwargs)

    def _choice(self, configClass, name):
        """Return the chosen word of a field that `_addChoice` added."""
        return configClass.choices_of(name)[self.getAttributeValue(name)]

    # --------------------------- STEPS functions ------------------------------
    def _runCryoden(self, command, config, isShared=False):
        """Run one command with the options of `config`; some failed inputs do not fail the protocol.

        Parameters
        ----------
        command : str
            Of the denoiser's command line.
        config : cryoden.config.Config
            Its options.
        isShared : bool
            Whether several GPUs share the work, in one process each.

        Raises
        ------
        Exception
            With the denoiser's own one line, if nothing could be done.
        """
        options = self._getExtraPath(OPTIONS_FILE)
        with open(options, "w") as file:
            json.dump(config.to_dict(), file, indent=2)
        environ = Plugin.getEnviron()
        gpus = (self._stepsExecutor.getGpuList() or [0]) if self.usesGpu() else []
        if gpus:
            environ["CUDA_VISIBLE_DEVICES"] = ",".join(str(gpu) for gpu in gpus)
        nProcesses = len(gpus) if isShared and gpus else 1
        outcome = self._outcomeFile()
        if os.path.exists(outcome):
            os.remove(outcome)
        logStart = os.path.getsize(self.getStderrLog())
        arguments = f"{command} --config {shlex.quote(options)} --outcome {shlex.quote(outcome)}"
        try:
            self.runJob(Plugin.getProgram(nProcesses), arguments, env=environ, numberOfMpi=1)
        except subprocess.CalledProcessError as error:
            ending = read_ending(outcome)
            if ending is None:
                lines = self._lastLines(logStart)
                raise CommandError(f"{_howItEnded(command, error.returncode, nProcesses)}\n{lines}".strip()) from error
            if ending.status == FAILED:
                raise CommandError(self._said(ending.problems), ending) from error

    def _outcomeFile(self):
        """Return where the last command said how it ended, for this run alone."""
        return self._getLogsPath(outputs.OUTCOME)

    def _lastLines(self, start):
        """Return the end of what the last command wrote to stderr, as it is."""
        with open(self.getStderrLog(), errors="replace") as log:
            log.seek(start)
            return "".join(log.readlines()[-MOST_LINES:])

    def _said(self, problems):
        """Return problems of the denoiser in the form's words."""
        return " ".join(problem.text(self._words) for problem in problems)

    @property
    def _words(self):
        return formWords(self._labelOf)

    def _device(self):
        return "auto" if self.usesGpu() else "cpu"

    # --------------------------- INFO functions -------------------------------
    def _problemsOf(self, makeConfig):
        """Return every rule that the options break; `makeConfig` builds the configuration."""
        try:
            makeConfig()
        except OptionError as error:
            return [problem.text(self._words) for problem in error.problems]
        return []

    def _validateContinued(self):
        """Return why the run, if it is to be continued, cannot be; Scipion asks before and at the start of a run."""
        return self._continueProblems() if self.isContinued() and self.workingDir.hasValue() else []

    def _continueProblems(self):
        """Return why what the run has made so far does not go with its options and input of now."""
        return []

    def _labelOf(self, option):
        """Return the label of the field that sets an option, None where the form has none."""
        name = self._fields.get(option, option)
        param = self.getParam(name)
        if param is not None:
            return param.label.get().rstrip("?")
        return name if option in self._fields else None

    def _failures(self):
        """Return why some inputs were left out, name -> problem."""
        return read_failures(os.path.dirname(self._filePath(outputs.FAILURES)))

    def _filePath(self, name):
        """Return where a file of the folder lies that the command fills."""
        return self._getExtraPath(name)

    def _withoutRoom(self):
        """Return the failed inputs that a full disk left without a result."""
        return [name for name, problem in self._failures().items() if problem.kind == FullDiskError.kind]

    def _failureLines(self):
        nWithoutRoom = len(self._withoutRoom())
        lines = []
        if nWithoutRoom:
            lines.append(f"*The disk was full*: {nWithoutRoom} are still to be done. Free some space and Continue.")
        problems = [problem for problem in self._failures().values() if problem.kind != FullDiskError.kind]
        lines += [f"*Left out: {len(problems)}*"] if problems else []
        lines += [f"  {problem.text(self._words)}" for problem in problems[:MOST_REASONS]]
        nMore = len(problems) - MOST_REASONS
        return lines + ([f"  and {nMore} more; see {self._filePath(outputs.FAILURES)}"] if nMore > 0 else [])

    def _citations(self):
        return ["Lehtinen2018"]


def _howItEnded(command, status, nProcesses):
    """Return why a command that said nothing ended, and how to go on."""
    if nProcesses > 1:
        what = f"One of the {nProcesses} processes of cryoden {command} ended early; run.stderr says which and how."
        what += " If it was killed (signal 9), the memory may not have been enough."
    else:
        signalNumber = -status if status < 0 else status - SHELL_SIGNAL
        if signalNumber > 0:
            what = f"cryoden {command} was killed (signal {signalNumber})."
            what += " The memory may not have been enough." if signalNumber == signal.SIGKILL else ""
        else:
            what = f"cryoden {command} ended with status {status}; run.stderr says why."
    return f"{what} What is finished is kept: Continue goes on from there."
