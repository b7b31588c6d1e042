"""What the three protocols share: options from one configuration class, one subprocess, named failures."""

import json
import os
import subprocess

from pwem.protocols import EMProtocol
from pyworkflow.protocol import params

from cryoden.errors import OptionError
from cryoden_scipion import Plugin

FAILURES_NAME = "failures.json"
OPTIONS_NAME = "options.json"
SOME_FAILED, NOTHING_DONE = 1, 2


class CryodenProtBase(EMProtocol):
    """Base of the protocols that run a command of the denoiser."""

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
        options = self._getExtraPath(OPTIONS_NAME)
        with open(options, "w") as file:
            json.dump(config.to_dict(), file, indent=2)
        environ = Plugin.getEnviron()
        gpus = (self._stepsExecutor.getGpuList() or [0]) if self.usesGpu() else []
        if gpus:
            environ["CUDA_VISIBLE_DEVICES"] = ",".join(str(gpu) for gpu in gpus)
        try:
            self.runJob(
                Plugin.getProgram(len(gpus) if isShared else 1),
                f"{command} --config {options}",
                env=environ,
                numberOfMpi=1,
            )
        except subprocess.CalledProcessError as error:
            if error.returncode != SOME_FAILED:
                raise Exception(
                    self._lastError() or f"cryoden {command} ended with status {error.returncode}"
                ) from error

    def _lastError(self):
        """Return the last line that the denoiser wrote about an error, from the run's own log."""
        with open(self.getStderrLog(), errors="replace") as log:
            lines = [line.strip() for line in log if line.startswith("cryoden: ")]
        return lines[-1] if lines else None

    def _device(self):
        return "auto" if self.usesGpu() else "cpu"

    # --------------------------- INFO functions -------------------------------
    @staticmethod
    def _problemsOf(makeConfig):
        """Return every rule that the options break; `makeConfig` builds the configuration."""
        try:
            makeConfig()
        except OptionError as error:
            return list(error.problems)
        return []

    def _failures(self):
        """Return why some inputs were left out, name -> reason."""
        path = self._filePath(FAILURES_NAME)
        if not os.path.exists(path):
            return {}
        with open(path) as file:
            return json.load(file)

    def _filePath(self, name):
        """Return where a file of the folder lies that the command fills."""
        return self._getExtraPath(name)

    def _failureLines(self):
        failures = self._failures()
        lines = [f"*Left out: {len(failures)}*"] if failures else []
        return lines + [f"  {reason}" for reason in list(failures.values())[:10]]

    def _citations(self):
        return ["Lehtinen2018"]
