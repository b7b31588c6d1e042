"""What the command line says, in the words of Scipion's window: fields and buttons instead of options."""

import re

PHRASES = (
    ("choose another --output folder, or give --overwrite", "set them back, Restart the run, or run a copy of it"),
    ("choose another --output folder", "Restart the run, or run a copy of it"),
    ("give --topaz no to go on without it, or --overwrite to measure everything with it",
     "say no to --topaz to go on without it, or Restart to measure everything with it"),
    ("leave out --odd and --even", "denoise the micrographs themselves"),
    ("go on with --resume", "press Continue"),
    ("with --overwrite", "with Restart"),
    ("free or change the folder", "free some space and Continue"),
    ("or --device auto", "or the CPU"),
)  # fmt: skip
"""What stands for itself on a command line only, and how Scipion's user does the same."""

OPTION = re.compile(r"(?:\bOptions? )?--([a-z]+(?:-[a-z]+)*)")


def inFormWords(line, labelOf):
    """Return a sentence of the command line as the user of a form understands it.

    Parameters
    ----------
    line : str
        What the command said.
    labelOf : callable
        Returns the label of the field for an option (with underscores), None where the form has no such field.
    """
    for words, ours in PHRASES:
        line = line.replace(words, ours)

    def called(found):
        label = labelOf(found.group(1).replace("-", "_"))
        return f"*{label}*" if label else found.group(1).replace("-", " ")

    return OPTION.sub(called, line)
