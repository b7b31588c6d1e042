"""One process of the denoiser for many rounds: it waits for its list of inputs to change.

It is fed by rewriting the list, and says in a file how each round ended. It ends when this process closes the pipe to
it, or dies.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from types import TracebackType
from typing import Any, Dict, Optional, Type

import psutil

from cryoden.formats.outcome import Ending, file_state, read_ending
from cryoden_scipion.protocols.protocol_base import Launch

LOOK_SECONDS = 0.2
"""Between two looks at the list of inputs, by the one process, and at how a round ended, by the other."""

STOP_SECONDS = 30.0
"""How long the process may take to end: longer than it gives itself."""


class WarmCommand:
    """A process that is kept between rounds; as a context manager it is stopped at the end.

    Attributes
    ----------
    launch
        How it was started.
    """

    launch: Launch

    def __init__(self) -> None:
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._options: Dict[str, Any] = {}

    def __enter__(self) -> WarmCommand:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.stop()

    @property
    def isRunning(self) -> bool:
        """Whether there is a process that has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def status(self) -> int:
        """Exit status of the process; 0 while it runs."""
        return (self._process.poll() or 0) if self._process else 0

    def hasOptions(self, options: Dict[str, Any]) -> bool:
        """Return whether there is, or was, a process with these options."""
        return self._process is not None and self._options == options

    def start(self, line: str, launch: Launch, options: Dict[str, Any]) -> None:
        """Start a process.

        Parameters
        ----------
        line
            What a shell runs.
        launch
            The same in its parts.
        options
            Of its command.
        """
        self.launch, self._options = launch, options
        self._process = subprocess.Popen(
            line, shell=True, stdin=subprocess.PIPE, stdout=sys.stdout, stderr=sys.stderr, env=launch.environ
        )

    def doRound(self, inputFile: str, outcome: str) -> Optional[Ending]:
        """Wait until the process has done all that its list of inputs names now; return how that ended.

        Parameters
        ----------
        inputFile
            The list.
        outcome
            File in which the process says how a round ended, or the whole.

        Returns
        -------
        ending
            That of the whole where an error or a signal ended it in the round; None where the process is gone without
            having said anything of it.
        """
        state = file_state(inputFile)
        while True:
            isRunning = self.isRunning  # before the look: it may write and end
            ending = read_ending(outcome)
            if ending is not None and ending.round is not None and ending.round.inputs.get(inputFile) == state:
                return ending
            if not isRunning:
                return ending if ending is not None and ending.round is None else None
            time.sleep(LOOK_SECONDS)

    def stop(self) -> None:
        """End the process, if there is one: between two rounds it does so at once, in a round as if it were stopped."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
            process.kill()
            process.wait()
