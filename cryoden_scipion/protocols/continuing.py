"""What a run that is continued must have in common with what it has done before: its options and its input."""

import os

from cryoden.errors import ExistingResultsError, Remedy
from cryoden.formats.files import mrc_name
from cryoden.formats.run_record import option_differences
from cryoden.formats.star import read_table
from cryoden_scipion import convert
from cryoden_scipion.protocols.words import WAYS_ON


def optionProblems(record, options, words):
    """Return in one sentence which fields have other values than when the run did what it has done.

    Parameters
    ----------
    record, options : dict
        Option -> value as in JSON, then and now; what `record` lacks may change.
    words : cryoden.errors.Words
        Of the form.
    """
    known = {name: value for name, value in options.items() if name in record}
    differing = option_differences(record, known)
    if not differing:
        return []
    return [ExistingResultsError("", remedy=Remedy("overwrite"), differences=differing).problem.text(words).strip()]


def itemProblems(label, inputSet, outputSet, star):
    """Return whether the input is another set than the one from which the finished items were made.

    Parameters
    ----------
    label : str
        Of the input's field.
    inputSet, outputSet : pwem.objects.SetOfImages
        What is given now; what the run has made so far.
    star : str
        File with which the command was given its input.
    """
    given, made = convert.filesById(inputSet), convert.filesById(outputSet)
    known = set(read_table(star).paths)
    for objId, path in made.items():
        source = given.get(objId)
        if source not in known or mrc_name(source) != os.path.basename(path):
            return [
                f"*{label}* is another set: {os.path.basename(path)}, already made, comes from none of it. {WAYS_ON}"
            ]
    return []


def fileProblems(label, files, star):
    """Return whether files that the command was given before are not among those that would be given now."""
    gone = sorted(set(read_table(star).paths).difference(files))
    return [f"*{label}* is another set: {gone[0]}, used so far, is not in it. {WAYS_ON}"] if gone else []
