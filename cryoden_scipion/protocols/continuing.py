"""What a run that is continued must have in common with what it has done before: its options and its input."""

from __future__ import annotations

import os
from typing import Any, Iterable, List, Mapping, Optional

from pwem.objects import SetOfImages

from cryoden.errors import ExistingResultsError, Remedy, Words
from cryoden.formats.files import mrc_name
from cryoden.formats.run_record import option_differences
from cryoden.formats.star import read_table
from cryoden_scipion import convert
from cryoden_scipion.protocols.words import RESTART_OR_COPY


def optionProblems(record: Mapping[str, Any], options: Mapping[str, Any], words: Words) -> List[str]:
    """Return in one sentence which fields have other values than when the run did what it has done.

    Parameters
    ----------
    record, options
        Option -> value as in JSON, then and now; what `record` lacks may change.
    words
        Of the form.
    """
    known = {name: value for name, value in options.items() if name in record}
    differences = option_differences(record, known)
    if not differences:
        return []
    problem = ExistingResultsError("", remedy=Remedy("overwrite"), differences=differences).problem
    return [problem.text(words)]


def itemProblems(label: Optional[str], inputSet: SetOfImages, outputSet: SetOfImages, star: str) -> List[str]:
    """Return whether the input is another set than the one from which the finished items were made.

    Parameters
    ----------
    label
        Of the input's field.
    inputSet, outputSet
        What is given now; what the run has made so far.
    star
        File with which the command was given its input.
    """
    given, made = convert.filesById(inputSet), convert.filesById(outputSet)
    known = set(read_table(star).paths)

    for objId, path in made.items():
        source = given.get(objId)
        if source not in known or mrc_name(source) != os.path.basename(path):
            what = f"*{label}* is another set: {os.path.basename(path)}, already made, comes from none of it."
            return [f"{what} {RESTART_OR_COPY}"]
    return []


def fileProblems(label: str, files: Iterable[str], star: str) -> List[str]:
    """Return whether files that the command was given before are not among those that would be given now."""
    gone = sorted(set(read_table(star).paths).difference(files))
    if not gone:
        return []
    return [f"*{label}* is another set: {gone[0]}, used so far, is not in it. {RESTART_OR_COPY}"]
