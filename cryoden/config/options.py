"""What all commands have in common: options with their rules, to and from JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import sys
from typing import (
    Any,
    ClassVar,
    Dict,
    Iterator,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Type,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

from cryoden.errors import FileError, OptionError, Problem, option_problem

C = TypeVar("C", bound="Options")

Groups = Mapping[str, Tuple[str, ...]]
"""Word for a group of options -> their fields, in the order of the help."""

ADVANCED = "advanced"
"""Group of the options that are in no other."""

COMMON_OPTIONS = {
    "config": "Read the options from this file; those that are given beside it win.",
    "save_config": "Write the options into this file, and end.",
    "outcome": "Write into this file how the command ended.",
}
"""What every command has, beside its own."""

COMMON_METAVAR = "FILE.json"


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Where a number must lie: `above` and `below` exclude the bound itself."""

    at_least: float = -math.inf
    above: float = -math.inf
    at_most: float = math.inf
    below: float = math.inf

    def hold(self, value: float) -> bool:
        """Return whether a number lies within; one that is not finite never does."""
        is_high_enough = value >= self.at_least and value > self.above
        is_finite = abs(value) <= sys.float_info.max  # whole numbers may be too large for `math.isfinite`
        return is_finite and is_high_enough and value <= self.at_most and value < self.below

    def __str__(self) -> str:
        if math.isfinite(self.at_least) and math.isfinite(self.at_most):
            return f"between {self.at_least:g} and {self.at_most:g}"
        parts = (("at least", self.at_least), ("above", self.above), ("at most", self.at_most), ("below", self.below))
        return " and ".join(f"{words} {bound:g}" for words, bound in parts if math.isfinite(bound))


def option(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    choices: Sequence[str] = (),
    words: Sequence[str] = (),
    form: Tuple[str, str] = ("", ""),
    at_least: float = -math.inf,
    above: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
    positional: bool = False,
    name: str = "",
    before: Any = dataclasses.MISSING,
) -> Any:
    """Declare an option: a field with its help text and its rule.

    Parameters
    ----------
    default
        Its value where nothing is said; without it, the option must be given.
    help
        One or two sentences for people.
    choices
        The words that it may be.
    words
        The words that an option of type `Union[float, str]` may be instead of a number.
    form
        A regular expression that a text must match, and the same in words.
    at_least, above, at_most, below
        Bounds of a number.
    positional
        Whether it stands on the command line without its name.
    name
        On the command line, where it cannot be that of the field.
    before
        What the command did before it had this option, as a value of it: records of older versions (checkpoints, model
        cards, run records) that lack the option, or have nothing as its value where today there is a word for it, were
        made so. Without it, that is the default.
    """
    bounds = Bounds(at_least, above, at_most, below)
    metadata: Dict[str, Any] = {"help": help, "choices": tuple(choices), "form": form, "bounds": bounds}
    metadata.update(words=tuple(words), positional=positional, name=name, before=before)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Options:
    """Base of all commands: checks its rules when made, travels as JSON.

    Attributes
    ----------
    groups
        Under which words the help lists the options; those that are in none are the advanced ones.
    """

    groups: ClassVar[Groups] = {}

    def __post_init__(self) -> None:
        problems = [*self._option_problems(), *self._problems()]
        if problems:
            raise OptionError(problems)

    def _option_problems(self) -> Iterator[Problem]:
        """Yield one problem for each option that breaks the rule it was declared with; None is no value."""
        for field in dataclasses.fields(self):
            value, choices = getattr(self, field.name), field.metadata["choices"]
            bounds, (pattern, form) = field.metadata["bounds"], field.metadata["form"]
            if choices and value not in choices:
                yield option_problem(field.name, f"is {value!r}; it must be one of {', '.join(choices)}.")
            words = field.metadata["words"]
            if words and not _is_number(value) and value not in words:
                yield option_problem(field.name, f"is {value!r}; it must be {', '.join(words)} or a number.")
            if field.name == "output" and not value.strip():
                yield option_problem(field.name, "is empty; it must name a folder.")
            for word in value if isinstance(value, tuple) else [value]:
                if isinstance(word, str) and not can_be_a_name(word):
                    yield option_problem(field.name, f"is {word!r}; no name has such characters.")
            if pattern and value is not None and not re.fullmatch(pattern, value):
                yield option_problem(field.name, f"is {value!r}; it must be {form}.")
            if _is_number(value) and not bounds.hold(value):
                is_open = isinstance(value, float) and min(bounds.at_most, bounds.below) == math.inf
                yield option_problem(field.name, f"is {value}; it must be {bounds}{' and finite' if is_open else ''}.")

    def _problems(self) -> Iterator[Problem]:
        """Yield one problem for each broken rule that concerns several options, or one in a way of its own."""
        return iter(())

    @property
    def filled_folder(self) -> Optional[str]:
        """Folder in which everything lands that is written; None where nothing is."""
        return None

    def to_dict(self) -> Dict[str, Any]:
        """Return the options as JSON types."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls: Type[C], values: Dict[str, Any]) -> C:
        """Make a configuration from what `to_dict` returned.

        Raises
        ------
        OptionError
            If an option is unknown, missing, or breaks a rule.
        """
        if not isinstance(values, dict):
            raise FileError(f"Options are {shortened(values)}; they must be a JSON object.")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(fields))
        if unknown:
            raise OptionError([option_problem(name, f"is unknown; known are {', '.join(fields)}.") for name in unknown])
        missing = [n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in values]
        if missing:
            raise OptionError([option_problem(name, "is missing and has no default; give it.") for name in missing])
        values = cls.with_words(values)
        arguments: Dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
        hints = get_type_hints(cls)
        wrong = [
            option_problem(name, f"is {shortened(value)}; it must be {_describe(hints[name])}.")
            for name, value in arguments.items()
            if not _is_of(value, hints[name])
        ]
        if wrong:
            raise OptionError(wrong)
        return cls(**arguments)

    @classmethod
    def completed(cls, recorded: Mapping[str, Any]) -> Dict[str, Any]:
        """Return the options of an older version's record, with the values of those that it did not know.

        Parameters
        ----------
        recorded
            Option -> value, JSON types.
        """
        return {**cls._values_before(), **cls.with_words(recorded)}

    @classmethod
    def with_words(cls, recorded: Mapping[str, Any]) -> Dict[str, Any]:
        """Return options with the word of today where an older version had nothing."""
        hints = get_type_hints(cls)
        before = {
            field.name: field.metadata["before"]
            for field in dataclasses.fields(cls)
            if field.metadata["before"] is not dataclasses.MISSING and not _is_of(None, hints[field.name])
        }
        return {name: before[name] if value is None and name in before else value for name, value in recorded.items()}

    @classmethod
    def _values_before(cls) -> Dict[str, Any]:
        """Return, for each option that need not be given, what records that lack it were made with, JSON types."""
        values = {}
        for field in dataclasses.fields(cls):
            before = field.metadata["before"]
            value = field.default if before is dataclasses.MISSING else before
            if value is not dataclasses.MISSING:
                values[field.name] = value
        return json.loads(json.dumps(values))

    @classmethod
    def grouped(cls) -> Dict[str, Tuple[str, ...]]:
        """Return group -> fields of all options, the advanced ones last; a group without options is left out."""
        names = [field.name for field in dataclasses.fields(cls)]
        listed = {name for group in cls.groups.values() for name in group}
        rest = tuple(name for name in names if name not in listed)
        return {**cls.groups, **({ADVANCED: rest} if rest else {})}

    @classmethod
    def help_of(cls, name: str) -> str:
        """Return the help text of one option."""
        return cls._field(name).metadata["help"]

    @classmethod
    def choices_of(cls, name: str) -> Tuple[str, ...]:
        """Return the words that an option may have."""
        return cls._field(name).metadata["choices"]

    @classmethod
    def words_of(cls, name: str) -> Tuple[str, ...]:
        """Return the words that an option may be instead of a number."""
        return cls._field(name).metadata["words"]

    @classmethod
    def default_of(cls, name: str) -> Any:
        """Return the default of one option."""
        return cls._field(name).default

    @classmethod
    def declared(cls, name: str) -> Any:
        """Return an option's declaration, for a command that has the same one."""
        field = cls._field(name)
        return dataclasses.field(default=field.default, metadata=field.metadata)

    @classmethod
    def _field(cls, name: str) -> dataclasses.Field[Any]:
        return next(field for field in dataclasses.fields(cls) if field.name == name)


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """Base of the commands that must be told a folder to fill."""

    output: str = option(help="Folder for everything that is written.")

    @property
    def filled_folder(self) -> str:
        """The output folder."""
        return self.output


_KINDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def can_be_a_name(word: str) -> bool:
    """Return whether a file system could know this text: without NUL, of characters that can be encoded."""
    try:
        return b"\0" not in os.fsencode(word)
    except UnicodeEncodeError:
        return False


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_of(value: Any, hint: Any) -> bool:
    """Return whether a JSON value has the type of a field: text, number, flag, a tuple of one of them, or nothing."""
    inner = get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_is_of(item, inner[0]) for item in value)
    if inner:
        return any(_is_of(value, kind) for kind in inner)
    if hint is float:
        return _is_number(value)
    return isinstance(value, hint) and not (hint is int and isinstance(value, bool))


def _describe(hint: Any) -> str:
    inner = get_args(hint)
    if get_origin(hint) is tuple:
        return f"a list, each {_KINDS[inner[0]]}"
    return " or ".join(_KINDS[kind] for kind in inner or (hint,) if kind in _KINDS)


def shortened(value: Any, most: int = 80) -> str:
    """Return a value as Python writes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."
