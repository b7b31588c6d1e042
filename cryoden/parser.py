"""The words of the command line become options: tyro makes parser and help from the classes of `cryoden.config`."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, Dict, List, Literal, Mapping, Optional, Tuple, Type, Union, cast, get_args, get_origin

import tyro
from typing_extensions import Annotated, get_type_hints

from cryoden.config import Options
from cryoden.config.metavars import metavar_of
from cryoden.config.options import COMMON_METAVAR, COMMON_OPTIONS

COMMON = "common"
"""Heading of the options that every command has."""


def parse(
    argv: List[str],
    commands: Mapping[str, Type[Options]],
    families: Mapping[str, str],
    about: str,
    start: Optional[Options] = None,
) -> Options:
    """Return the options that a command line asks for.

    Parameters
    ----------
    argv
        Words after `cryoden`.
    commands
        What is typed for a command -> its options.
    families
        First words of commands that have two, and what the help says of them.
    about
        What the help says first.
    start
        Options that hold where the words say nothing.

    Raises
    ------
    OptionError
        If an option breaks its rule.
    SystemExit
        From tyro, for unknown words (2) and for help (0).
    """
    n_words = 2 if argv and argv[0] in families else 1
    return tyro.cli(
        _command_tree(commands, families, start),
        prog="cryoden",
        description=about,
        args=argv if len(argv) >= n_words else [*argv, "--help"],
        registry=_registry(),
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def _command_tree(commands: Mapping[str, Type[Options]], families: Mapping[str, str], start: Optional[Options]) -> Any:
    """Return the type that tyro makes the command line from; the command of `start` begins with these values."""
    grouped: Dict[str, List[Any]] = {}
    for command, kind in commands.items():
        first, last = command.split()[0], command.split()[-1]
        default = start if type(start) is kind else tyro.MISSING
        shown = tyro.conf.subcommand(last, default=default, description=kind.__doc__, prefix_name=False)
        leaf = Annotated[kind, shown]  # type: ignore[valid-type]
        grouped.setdefault(first, []).append(leaf)
    for leaves in grouped.values():
        leaves.append(_HIDDEN)

    branches = tuple(
        Annotated[
            Union[tuple(leaves)],
            tyro.conf.subcommand(first, description=families[first], prefix_name=False),
        ]
        if first in families
        else leaves[0]
        for first, leaves in grouped.items()
    )
    return cast(Any, Union[branches])


_HIDDEN = Annotated[None, tyro.conf.Suppress]
"""Not to be chosen: tyro makes sub-commands of a union only, and a family may have one command."""


class _Group:
    """Base of the types by which tyro is told which options stand under one heading."""

    fields: Tuple[tyro.constructors.StructFieldSpec, ...] = ()


def _registry() -> tyro.constructors.ConstructorRegistry:
    """Teach tyro to read groups, help texts, choices and positional arguments from the fields of `Options`."""
    registry = tyro.constructors.ConstructorRegistry()

    @registry.struct_rule
    def _(info: tyro.constructors.StructTypeInfo) -> Optional[tyro.constructors.StructConstructorSpec]:
        if not isinstance(info.type, type):
            return None
        if issubclass(info.type, _Group):
            return tyro.constructors.StructConstructorSpec(dict, info.type.fields)
        if issubclass(info.type, Options):
            start = info.default if isinstance(info.default, Options) else None
            groups = [*_groups_of(info.type, start), _common_group()]
            specs = tuple(tyro.constructors.StructFieldSpec(group.__name__, group, tyro.MISSING) for group in groups)
            return tyro.constructors.StructConstructorSpec(partial(_from_groups, info.type), specs)
        return None

    return registry


def _from_groups(kind: Type[Options], **groups: Dict[str, Any]) -> Options:
    """Return options from their values by groups; those that every command has were taken before."""
    return kind(**{name: value for title, group in groups.items() if title != COMMON for name, value in group.items()})


def _groups_of(kind: Type[Options], start: Optional[Options]) -> List[Type[_Group]]:
    """Return the types of a command's groups; their defaults are the values of `start`, if there is one."""
    hints = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    groups = []
    for title, names in kind.grouped().items():
        specs = []
        for field in (fields[name] for name in names):
            default = tyro.MISSING if field.default is dataclasses.MISSING else field.default
            value = default if start is None else getattr(start, field.name)
            hint = _shown(field, hints[field.name])
            specs.append(tyro.constructors.StructFieldSpec(field.name, hint, value, helptext=field.metadata["help"]))
        groups.append(type(title, (_Group,), {"fields": tuple(specs)}))
    return groups


def _common_group() -> Type[_Group]:
    """Return the type of the options that every command has: only its help is ever used."""
    hint: Any = Annotated[
        Optional[str], tyro.conf.arg(metavar=COMMON_METAVAR, help_behavior_hint="(optional)", prefix_name=False)
    ]
    specs = [
        tyro.constructors.StructFieldSpec(name, hint, None, helptext=help) for name, help in COMMON_OPTIONS.items()
    ]
    return type(COMMON, (_Group,), {"fields": tuple(specs)})


def _shown(field: dataclasses.Field[Any], hint: Any) -> Any:
    """Return the type of an option with what the help is to show of it."""
    is_list = get_origin(hint) is tuple
    behaviour = None
    if field.default is None:  # say what to give, not that None is possible
        behaviour = "(optional)"
    elif field.default is False:
        behaviour = ""
    elif is_list and field.default in ((), dataclasses.MISSING):  # tyro would say "(default: )"
        behaviour = "(optional)" if field.default == () else "(required)"

    choices = field.metadata["choices"]
    argument = tyro.conf.arg(
        name=field.metadata["name"] or None,
        metavar=None if choices else _metavar(field, hint),
        help_behavior_hint=behaviour,
        prefix_name=False,  # a group is a heading, no part of the option's name
    )
    kind: Any = Annotated[Literal[choices] if choices else hint, argument]
    return Annotated[kind, tyro.conf.Positional] if field.metadata["positional"] else kind


def _metavar(field: dataclasses.Field[Any], hint: Any) -> Optional[str]:
    """Return what stands for all values of an option; None of a flag, which has none."""
    word = metavar_of(field.name, hint)
    if get_origin(hint) is not tuple or not word:
        return word or None
    values = get_args(hint)
    if values[-1] is not Ellipsis:
        return " ".join([word] * len(values))
    is_needed = field.default != () or not field.metadata["positional"]
    return f"{word} [{word} ...]" if is_needed else f"[{word} ...]"
