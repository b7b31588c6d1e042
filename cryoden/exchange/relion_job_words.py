"""What RELION says to the program of an External job, and the options that it means.

RELION calls `EXE --o External/job002/ --in_mics FILE --LABEL VALUE ... --j N`, with the labels and values of its
window. A label is an option of ours; values are not quoted, so that one with blanks comes as several words.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Type, get_args, get_origin, get_type_hints

from cryoden.config import Options
from cryoden.errors import CryodenError, OptionError, Problem, option_problem

FOLDER, MICROGRAPHS, MOVIES, THREADS, CONTROL = "o", "in_mics", "in_movies", "j", "pipeline_control"
"""Words of RELION's own, after two dashes."""

OTHER_INPUTS = {
    "in_parts": "particles",
    "in_coords": "coordinates",
    "in_3dref": "a 3D reference",
    "in_mask": "a mask",
}
"""Inputs that RELION's window offers and that no job of ours takes, and what they are."""

YES, NO = ("yes", "true", "1"), ("no", "false", "0")

OTHER_LABELS = {"from": "from_model"}
"""Labels that are not called like their option's field."""


@dataclass(frozen=True)
class JobWords:
    """What RELION says to a job.

    Attributes
    ----------
    folder
        Of the job, as RELION writes it: with a slash at its end.
    micrographs, movies
        STAR files, where given.
    n_threads
        Number of threads.
    labels
        Label -> words of its value.
    """

    folder: str
    micrographs: Optional[str]
    movies: Optional[str]
    n_threads: int
    labels: Mapping[str, Tuple[str, ...]]

    def path(self, name: str) -> str:
        """Return the path of a file in the job's folder, as RELION would write it."""
        return os.path.join(self.folder, name)


def read_words(words: Sequence[str]) -> JobWords:
    """Read what RELION says.

    Raises
    ------
    CryodenError
        If it is not what RELION says to an External job of ours.
    """
    values: Dict[str, List[str]] = {}
    label = ""
    for word in words:
        if word.startswith("--") and len(word) > 2:
            label = word[2:].replace("-", "_")
            values[label] = []
        elif label:
            values[label].append(word)
        else:
            raise CryodenError(f"{word!r} stands before the first label; start this program as an External job.")

    folder, control = " ".join(values.pop(FOLDER, [])), " ".join(values.pop(CONTROL, []))
    if not folder and not control:
        raise CryodenError("No folder of a job is given; start this program as an External job of RELION.")
    threads = " ".join(values.pop(THREADS, [])) or "1"
    given = {name: " ".join(values.pop(name, [])) or None for name in (MICROGRAPHS, MOVIES)}
    labels = {OTHER_LABELS.get(name, name): tuple(said) for name, said in values.items()}
    n_threads = int(threads) if threads.isdecimal() and int(threads) else 1
    return JobWords(folder or control, given[MICROGRAPHS], given[MOVIES], n_threads, labels)


def options_of(kind: Type[Options], words: JobWords, given: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the options that labels and values mean, as JSON types.

    Parameters
    ----------
    kind
        The command's options.
    words
        What RELION says.
    given
        Options that are known without the labels; a label wins.

    Raises
    ------
    OptionError
        If a value cannot be one of its option. Whether the option is known and the value fits is for
        `Options.from_dict` to say.
    """
    hints = get_type_hints(kind)
    values, problems = dict(given), []
    for label, said in words.labels.items():
        if label in OTHER_INPUTS:
            problems.append(
                option_problem(label, f"gives {OTHER_INPUTS[label]}; this job takes micrographs or movies.")
            )
            continue
        value = _value(label, said, hints.get(label, str))
        if isinstance(value, Problem):
            problems.append(value)
        else:
            values[label] = value
    if problems:
        raise OptionError(problems)
    return values


def _value(label: str, said: Tuple[str, ...], hint: Any) -> Any:
    """Return a value as a JSON type, or what is wrong with it."""
    if get_origin(hint) is tuple:
        (kind, *_) = get_args(hint)
        return [_number(part, kind) for word in said for part in word.split(",") if part]
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]
    if bool in kinds:
        text = " ".join(said).lower() or YES[0]
        if text in (*YES, *NO):
            return text in YES
        return option_problem(label, f"is {text!r}; it must be yes or no.")
    if not said:
        return option_problem(label, "has no value; RELION's window has a field for it beside the label.")
    text = " ".join(said)
    if len(said) > 1 and not (str in kinds and os.path.exists(text)):
        return option_problem(
            label, f"is {text!r}: RELION passes on a value with blanks in several words. Use one without blanks."
        )
    return _number(text, kinds[0])


def _number(text: str, kind: Any) -> Any:
    """Return a number where one is wanted and it is one, else the text."""
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            return text
    return text
