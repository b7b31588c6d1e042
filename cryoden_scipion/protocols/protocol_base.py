"""What the protocols share: options from one configuration class, one subprocess, named failures, being continued."""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import signal
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, ClassVar, Dict, Iterable, List, Mapping, Optional, Type, Union

from pwem.protocols import EMProtocol
from pyworkflow.protocol import params
from pyworkflow.utils import Environ

from cryoden.config import Options
from cryoden.errors import UNEXPECTED, CryodenError, FullDiskError, LostProcessError, OptionError, Problem, Words
from cryoden.formats import outputs
from cryoden.formats.model_file import read_card
from cryoden.formats.outcome import FAILED, STOPPED, Ending, read_ending, read_failures
from cryoden.metrics.model_weaknesses import weaknesses
from cryoden_scipion import Plugin
from cryoden_scipion.objects import CryodenModel
from cryoden_scipion.protocols.words import errorText, formWords

if TYPE_CHECKING:
    from cryoden.report.evaluation_table import Number

HINT = re.compile(r"\?$| \((optional|empty: auto)\)$")
"""What the end of a label says of how a field is filled in; it is no part of the field's name."""

OPTIONS_FILE = "options.json"
"""In the run's folder: the options with which the last command was started."""

MAX_REASONS = 10
"""Lines of a summary about inputs that were left out."""

MAX_STDERR_LINES = 20
"""Lines of a command's stderr that are shown where it could not say how it ended."""

SHELL_SIGNAL = 128
"""A shell adds this to the number of the signal that killed its command."""


class CommandError(Exception):
    """A command of the denoiser did not do what it was started for.

    Parameters
    ----------
    text
        In the form's words.
    ending
        What the command left; None where it was killed.
    """

    def __init__(self, text: str, ending: Optional[Ending] = None) -> None:
        super().__init__(text)
        self.ending = ending


@dataclass(frozen=True)
class Launch:
    """How a command of the denoiser is started.

    Attributes
    ----------
    command
        Its name.
    arguments
        Its words, as a shell reads them.
    environ
        Its environment variables.
    nProcesses
        How many processes of the denoiser it is.
    logStart
        How long the run's stderr was before it.
    """

    command: str
    arguments: str
    environ: Environ
    nProcesses: int
    logStart: int


class CryodenProtBase(EMProtocol):
    """Base of the protocols: the denoiser's problems in the form's words, and a way to run its commands."""

    _fields: ClassVar[Mapping[str, str]] = {}
    """Option -> the form's parameter (or the label of a line) that sets it, where they have different names."""

    _isSlowOnCpu: ClassVar[bool] = True
    """Whether who has no GPU is warned of it."""

    @classmethod
    def getDoc(cls) -> str:
        """Return what the form's help says: one line for each paragraph, which the window wraps."""
        paragraphs = inspect.cleandoc(cls.__doc__ or "").split("\n\n")
        return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)

    # --------------------------- DEFINE param functions ----------------------
    @staticmethod
    def _addGpuParams(form: params.Form, help: str, slower: str = "many times slower") -> None:
        useGpuHelp = f"If Yes, a GPU is used where there is one, otherwise the CPU, {slower}. The log says which."
        form.addHidden(params.USE_GPU, params.BooleanParam, default=True, label="Use a GPU?", help=useGpuHelp)
        form.addHidden(params.GPU_LIST, params.StringParam, default="0", label="GPU IDs", help=help)

    @staticmethod
    def _addOption(
        place: params.FormElement,
        configClass: Type[Options],
        name: str,
        paramClass: Type[params.Param],
        label: str,
        **kwargs: Any,
    ) -> None:
        """Add a form field for one option of the command, with the command line's own default and help."""
        kwargs.setdefault("help", configClass.help_of(name))
        if configClass.default_of(name) is None or configClass.words_of(name):  # a number, or nothing for a word
            kwargs["allowsNull"] = True
        else:
            kwargs.setdefault("default", configClass.default_of(name))
        place.addParam(name, paramClass, label=label, **kwargs)

    @staticmethod
    def _addChoice(place: params.FormElement, configClass: Type[Options], name: str, label: str, **kwargs: Any) -> None:
        """Add a form field for an option with named choices."""
        choices = list(configClass.choices_of(name))
        default = choices.index(configClass.default_of(name))
        help_ = configClass.help_of(name)
        place.addParam(name, params.EnumParam, choices=choices, default=default, label=label, help=help_, **kwargs)

    def _choice(self, configClass: Type[Options], name: str) -> str:
        """Return the chosen word of a field that `_addChoice` added."""
        return configClass.choices_of(name)[self.getAttributeValue(name)]

    def _numberOrWord(self, configClass: Type[Options], name: str) -> Union[float, str]:
        """Return the value of an option that is a number or a word: the field may be empty (the first word) or 0."""
        value = self.getAttributeValue(name)
        first, other = configClass.words_of(name)
        return first if value is None else value or other

    # --------------------------- STEPS functions ------------------------------
    def _runCryoden(self, command: str, config: Options, isShared: bool = False) -> None:
        """Run one command with the options of `config`; some failed inputs do not fail the protocol.

        Parameters
        ----------
        command
            Of the denoiser's command line.
        config
            Its options.
        isShared
            Whether several GPUs share the work, in one process each.

        Raises
        ------
        CommandError
            If nothing could be done, or the command was killed.
        """
        launch = self._prepareLaunch(command, config, isShared)
        try:
            self.runJob(Plugin.getProgram(), launch.arguments, env=launch.environ, numberOfMpi=1)
        except subprocess.CalledProcessError as error:
            failure = self._commandError(launch, read_ending(self._outcomeFile()), error.returncode)
            if failure is not None:
                raise failure from error

    def _prepareLaunch(self, command: str, config: Options, isShared: bool = False) -> Launch:
        """Write the options of a command, remove what an earlier one said, and return how it is started.

        Parameters
        ----------
        command, config, isShared
            As for `_runCryoden`.
        """
        environ = Plugin.getEnviron()
        gpus = self._gpus()
        if gpus:
            environ["CUDA_VISIBLE_DEVICES"] = ",".join(str(gpu) for gpu in gpus)
        nProcesses = self._countProcesses() if isShared else 1
        processes = {"gpus": ",".join(["auto"] * nProcesses)} if nProcesses > 1 else {}

        options = self._getExtraPath(OPTIONS_FILE)
        with open(options, "w") as file:
            json.dump({**config.to_dict(), **processes}, file, indent=2)

        outcome = self._outcomeFile()
        if os.path.exists(outcome):  # of an earlier command: this one may be killed before it can say how it ended
            os.remove(outcome)
        arguments = f"{command} --config {shlex.quote(options)} --outcome {shlex.quote(outcome)}"
        return Launch(command, arguments, environ, nProcesses, os.path.getsize(self.getStderrLog()))

    def _commandError(self, launch: Launch, ending: Optional[Ending], status: int) -> Optional[CommandError]:
        """Return what a command says that did not do everything; None if it did what can be done.

        Parameters
        ----------
        launch
            How it was started.
        ending
            What it left; None where it was killed.
        status
            Its exit status.
        """
        exitText = _describeExit(launch.command, status, launch.nProcesses)
        if ending is None:
            return CommandError(f"{exitText}\n{self._stderrSince(launch.logStart)}".strip())
        if ending.status == STOPPED:
            return CommandError(exitText, ending)
        if ending.status == FAILED:
            text = self._problemsText(ending.problems)
            if launch.nProcesses > 1 and (ending.has(UNEXPECTED) or ending.has(LostProcessError.kind)):
                text = f"{exitText}\n{text}"
            return CommandError(text, ending)
        if ending.has(LostProcessError.kind):  # the others have done their parts
            return CommandError(exitText, ending)
        return None

    def _gpus(self) -> List[int]:
        """Return the GPUs that may be used."""
        return (self._stepsExecutor.getGpuList() or [0]) if self.usesGpu() else []

    def _countProcesses(self) -> int:
        """Return how many processes share the work of a command that several can do: one for each GPU."""
        return max(1, len(self._gpus()))

    def _outcomeFile(self) -> str:
        """Return where the last command said how it ended, for this run alone."""
        return self._getLogsPath(outputs.OUTCOME)

    def _stderrSince(self, start: int) -> str:
        """Return the end of what the last command wrote to stderr, as it is."""
        with open(self.getStderrLog(), "rb") as log:
            log.seek(start)
            lines = log.read().decode(errors="replace").splitlines(keepends=True)
        return "".join(lines[-MAX_STDERR_LINES:])

    def _device(self) -> str:
        return "auto" if self.usesGpu() else "cpu"

    # --------------------------- the form's words -----------------------------
    @property
    def _words(self) -> Words:
        return formWords(self._labelOf)

    def _labelOf(self, option: str) -> Optional[str]:
        """Return the name of the field that sets an option, its label; None where the form has none."""
        name = self._fields.get(option, option)
        param = self.getParam(name)
        if param is not None:
            return HINT.sub("", param.label.get())
        return name if option in self._fields else None

    def _problemsText(self, problems: Iterable[Problem]) -> str:
        """Return problems of the denoiser in the form's words."""
        return " ".join(problem.text(self._words) for problem in problems)

    def _errorText(self, error: CryodenError) -> str:
        """Return an error of the denoiser in the form's words."""
        return errorText(error, self._words)

    # --------------------------- INFO functions -------------------------------
    def warnings(self) -> List[str]:
        """Return what speaks against a run; a queue sends it to another computer, whose GPUs are not known here."""
        asksForGpu = self.usesGpu() and self._isSlowOnCpu and not self.useQueue()
        return super().warnings() + (Plugin.gpuWarnings() if asksForGpu else [])

    def _problemsOf(self, makeConfig: Callable[[], Options]) -> List[str]:
        """Return every rule that the options break; `makeConfig` builds the configuration."""
        try:
            makeConfig()
        except OptionError as error:
            return [problem.text(self._words) for problem in error.problems]
        return []

    def _validateContinued(self) -> List[str]:
        """Return why the run, if it is to be continued, cannot be; Scipion asks before and at the start of a run."""
        return self._continueProblems() if self.isContinued() and self.workingDir.hasValue() else []

    def _continueProblems(self) -> List[str]:
        """Return why what the run has made so far does not go with its options and input of now."""
        return []

    def _failures(self) -> Dict[str, Problem]:
        """Return why some inputs were left out, name -> problem."""
        return read_failures(os.path.dirname(self._filePath(outputs.FAILURES)))

    def _filePath(self, name: str) -> str:
        """Return where a file of the folder lies that the command fills."""
        return self._getExtraPath(name)

    def _failedForFullDisk(self) -> List[str]:
        """Return the failed inputs that a full disk left without a result."""
        return [name for name, problem in self._failures().items() if problem.kind == FullDiskError.kind]

    def _failureLines(self) -> List[str]:
        nWithoutRoom = len(self._failedForFullDisk())
        lines = []
        if nWithoutRoom:
            lines.append(f"*The disk was full*: {nWithoutRoom} still to be done. Free some space and Continue.")

        problems = [problem for problem in self._failures().values() if problem.kind != FullDiskError.kind]
        if problems:
            lines.append(f"*Left out: {len(problems)}*")
            lines += [f"  {problem.text(self._words)}" for problem in problems[:MAX_REASONS]]

        nMore = len(problems) - MAX_REASONS
        if nMore > 0:
            lines.append(f"  and {nMore} more; see {self._filePath(outputs.FAILURES)}")
        return lines

    def _warningLines(self, warnings: Iterable[Problem]) -> List[str]:
        """Return what a command found suspicious, each thing once."""
        texts = dict.fromkeys(warning.text(self._words) for warning in warnings)
        return [f"*Warning:* {text}" for text in texts]

    def _modelWarningLines(self, model: CryodenModel) -> List[str]:
        """Return what speaks against a model; nothing where its file is gone."""
        try:
            return self._warningLines(weaknesses(read_card(model.getFileName())))
        except CryodenError:
            return []

    @staticmethod
    def _withError(number: Optional[Number]) -> str:
        """Return a number with its standard error."""
        from cryoden.report.tables import with_error

        return with_error(number, 3)

    def _citations(self) -> List[str]:
        return ["Lehtinen2018"]


def _describeExit(command: str, status: int, nProcesses: int) -> str:
    """Return why a command that said nothing ended, and how to go on."""
    goOn = "What is finished is kept: Continue resumes from there."
    if nProcesses > 1:
        return (
            f"One of the {nProcesses} processes of cryoden {command} ended early; run.stderr says which and how. If it "
            f"was killed (signal 9), the memory may not have been enough. {goOn}"
        )
    signalNumber = -status if status < 0 else status - SHELL_SIGNAL
    if signalNumber <= 0:
        return f"cryoden {command} ended with status {status}; run.stderr says why. {goOn}"

    memory = " The memory may not have been enough." if signalNumber == signal.SIGKILL else ""
    return f"cryoden {command} was killed (signal {signalNumber}).{memory} {goOn}"
