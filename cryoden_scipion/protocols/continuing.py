"""What a run that is continued must have in common with what it has done before: its options and its input."""

import os

from cryoden.formats.files import mrc_name
from cryoden.formats.star import read_table
from cryoden_scipion import convert

WAYS_ON = (
    "Set it back and Continue; or choose Restart, which deletes what this run has made and makes all again; or run a "
    "copy of it, which keeps both."
)


def optionProblems(record, options, labelOf):
    """Return in one sentence which fields have other values than when the run did what it has done.

    Parameters
    ----------
    record, options : dict
        Option -> value as in JSON, then and now; what `record` lacks may change.
    labelOf : callable
        Returns the label of an option's field, None where the form has none.
    """
    changed = {}
    for name, now in options.items():
        if name in record and record[name] != now:
            values = [_said(record[name]), _said(now)]
            isReadable = not any(os.sep in value for value in values)
            label = labelOf(name) or name
            changed[label] = f"*{label}*" + (f" (was {values[0]}, is now {values[1]})" if isReadable else "")
    if not changed:
        return []
    return [f"What this run has made so far was made with another value of {' and '.join(changed.values())}. {WAYS_ON}"]


def _said(value):
    """Return an option's value as a form shows it; of what has many parts, that it has."""
    if value is None or isinstance(value, bool):
        return {None: "empty", True: "Yes", False: "No"}[value]
    if isinstance(value, list):
        return " ".join(map(str, value))
    return os.sep if isinstance(value, dict) else str(value)


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
