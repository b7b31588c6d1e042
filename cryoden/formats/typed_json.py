"""Dataclasses to JSON types and back: a file that a program reads has the names and types that its writer says."""

from __future__ import annotations

import dataclasses
import math
from collections import abc
from typing import Any, Type, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """Return JSON types of dataclasses, arrays, dictionaries, sequences and numbers.

    What is not a number becomes null. A field that is None, and is None where nobody says otherwise, is left out.
    """
    if dataclasses.is_dataclass(value):
        fields = [(field, getattr(value, field.name)) for field in dataclasses.fields(value)]
        return {field.name: to_json(part) for field, part in fields if part is not None or field.default is not None}
    if isinstance(value, dict):
        return {key: to_json(part) for key, part in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [to_json(part) for part in value]
    if isinstance(value, np.generic):
        return to_json(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def of_json(kind: Type[T], content: Any) -> T:
    """Return the dataclass that `to_json` made `content` of.

    Parameters
    ----------
    kind
        The dataclass. Its fields are numbers, texts, flags, arrays, dataclasses, or lists, tuples and dictionaries of
        these; what is None may be missing where that is the field's default, and unknown names are left out.
    content
        What was read.

    Raises
    ------
    ValueError
        If a name is missing or a value has another type, named with its place.
    """
    return _of(kind, content, "")


def _of(hint: Any, content: Any, place: str) -> Any:
    """Return a value of a type hint; `place` is where it stands, such as `rows.0.label`."""
    if hint is Any:
        return content
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Union:  # Optional is the only one in use
        return None if content is None else _of(inner[0], content, place)
    if dataclasses.is_dataclass(hint):
        return _of_dataclass(hint, content, place)
    if hint is np.ndarray:
        return np.array([math.nan if part is None else part for part in _as(list, content, place)], np.float64)
    if origin in (list, tuple):
        parts = [_of(inner[0], part, f"{place}.{number}") for number, part in enumerate(_as(list, content, place))]
        return parts if origin is list else tuple(parts)
    if origin in (dict, abc.Mapping):
        return {key: _of(inner[1], part, f"{place}.{key}") for key, part in _as(dict, content, place).items()}
    if hint is float:
        return float(_as((int, float), content, place))
    return _as(hint, content, place)


def _of_dataclass(kind: Any, content: Any, place: str) -> Any:
    content = _as(dict, content, place)
    hints, arguments = get_type_hints(kind), {}
    for field in dataclasses.fields(kind):
        where = f"{place}.{field.name}".lstrip(".")
        if field.name in content:
            arguments[field.name] = _of(hints[field.name], content[field.name], where)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{where} is missing")
    return kind(**arguments)


def _as(kind: Any, content: Any, place: str) -> Any:
    is_flag_for_number = isinstance(content, bool) and kind is not bool
    if not isinstance(content, kind) or is_flag_for_number:
        raise ValueError(f"{place or 'the whole'} is {str(content)[:40]!r}")
    return content
