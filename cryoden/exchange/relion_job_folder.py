"""The folder of a RELION job: how it is told to stop, how it says that it ended, and what it leaves for other jobs.

RELION does not look at the exit status of an External job: without one of three files it runs for ever. What other jobs
may use stands in `RELION_OUTPUT_NODES.star`, which RELION reads after a success; its columns differ between versions.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Mapping, Sequence

import pandas as pd

from cryoden.errors import one_line
from cryoden.formats.files import whole_file
from cryoden.formats.outcome import DONE, FAILED, SOME_FAILED, STOPPED
from cryoden.formats.star_text import write_blocks

ABORT = "RELION_JOB_ABORT_NOW"
"""RELION writes it where a job is to stop."""

EXITS = {
    DONE: "RELION_JOB_EXIT_SUCCESS",
    SOME_FAILED: "RELION_JOB_EXIT_SUCCESS",
    FAILED: "RELION_JOB_EXIT_FAILURE",
    STOPPED: "RELION_JOB_EXIT_ABORTED",
}
"""How a command ended -> the file that says so. After a failure RELION offers nothing of the job to others: where some
micrographs were left out, the rest is a success, and the file says what was left out."""

NODES = "RELION_OUTPUT_NODES.star"

JOB = "job.star"

MICROGRAPHS, LOG = "micrographs", "log"
"""Kinds of nodes."""

TYPES = {MICROGRAPHS: 1, LOG: 13}
"""Of RELION 3.1."""

LABELS = {
    "4": {MICROGRAPHS: "MicrographsData.star.relion", LOG: "LogFile.pdf.relion"},
    "5": {MICROGRAPHS: "MicrographGroupMetadata.star.relion", LOG: "LogFile.pdf.relion"},
}

MOST_LINES = 1000
"""Of an exit file."""


class JobFolder:
    """The folder of one job.

    Parameters
    ----------
    folder
        As RELION writes it.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    @property
    def is_to_abort(self) -> bool:
        """Whether RELION wants the job to stop."""
        return (self._folder / ABORT).exists()

    def begin(self) -> None:
        """Remove what an earlier run of the job said; an order to stop may be for this one, and stays."""
        for name in {*EXITS.values(), NODES}:
            with suppress(FileNotFoundError):
                (self._folder / name).unlink()

    def offer(self, nodes: Mapping[str, str]) -> None:
        """Say what other jobs can use; raises FileError.

        Parameters
        ----------
        nodes
            File, as RELION would name it -> kind.
        """
        version = relion_version(self._folder)
        columns = {"rlnPipeLineNodeName": list(nodes)}
        if version != "3.1":
            labels = LABELS["5" if version == "5" else "4"]
            columns["rlnPipeLineNodeTypeLabel"] = [labels[kind] for kind in nodes.values()]
        table = pd.DataFrame(columns)
        if version in ("3.1", ""):
            table["rlnPipeLineNodeType"] = [TYPES[kind] for kind in nodes.values()]
        write_blocks(self._folder / NODES, {"output_nodes": table})

    def end(self, status: str, lines: Sequence[str]) -> None:
        """Say how the job ended: the last thing that it does; raises FileError.

        Parameters
        ----------
        status
            How the command ended, see `EXITS`.
        lines
            What is to be read in the file.
        """
        if status == STOPPED:
            with suppress(FileNotFoundError):
                (self._folder / ABORT).unlink()
        with whole_file(self._folder / EXITS[status]) as temporary:
            temporary.write_text("".join(f"{one_line(line)}\n" for line in lines[:MOST_LINES]))


def relion_version(folder: Path) -> str:
    """Return by which RELION a job was started: `3.1`, `4`, `5`, or nothing where its job.star does not say."""
    try:
        text = (folder / JOB).read_text(errors="replace")
    except OSError:
        return ""
    if "_rlnJobTypeLabel" not in text:
        return "3.1" if "_rlnJobType" in text else ""
    return "5" if re.search(r"^# version 5", text, re.MULTILINE) else "4"
