"""Scripts by which bash and zsh complete what is typed after `cryoden`, made from the classes of `cryoden.config`.

They are text alone: no Python is started while somebody types.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Dict, List, Mapping, Tuple, Type, get_type_hints

from cryoden.config import Options
from cryoden.config.metavars import is_file, metavar_of
from cryoden.config.options import COMMON_METAVAR, COMMON_OPTIONS
from cryoden.errors import OptionError, option_name, option_problem


@dataclasses.dataclass(frozen=True)
class Completed:
    """What a shell knows of one option.

    Attributes
    ----------
    name
        As it is typed; empty where it stands without a name.
    help
        Its first sentence.
    metavar
        What stands for its value; empty of a flag.
    choices
        The words that the value may be.
    is_file
        Whether the value is a file or a folder.
    """

    name: str
    help: str
    metavar: str
    choices: Tuple[str, ...]
    is_file: bool


def completion_script(shell: str, commands: Mapping[str, Type[Options]], families: Mapping[str, str]) -> str:
    """Return what a shell must read to complete `cryoden`.

    Parameters
    ----------
    shell
        `bash` or `zsh`.
    commands
        What is typed for a command -> its options.
    families
        First words of commands that have two, and what they are for.

    Raises
    ------
    OptionError
        If the shell is another one.
    """
    if shell not in SHELLS:
        known = " or ".join(SHELLS)
        raise OptionError([option_problem("print_completion", f"is {shell!r}; it must be {known}.")])
    return SHELLS[shell](commands, families)


def _options_of(kind: Type[Options]) -> List[Completed]:
    """Return what a command can be given, in the order of its help."""
    hints = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    options = []
    for field in (fields[name] for group in kind.grouped().values() for name in group):
        metavar, choices = (
            metavar_of(field.name, hints[field.name]),
            field.metadata["choices"] or field.metadata["words"],
        )
        name = "" if field.metadata["positional"] else option_name(field.name)
        help = _first_sentence(field.metadata["help"])
        options.append(Completed(name, help, metavar, choices, is_file(metavar)))
    common = [Completed(option_name(n), help, COMMON_METAVAR, (), True) for n, help in COMMON_OPTIONS.items()]
    return [*options, *common, Completed("--help", "Show all options", "", (), False)]


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.;:]) ", text, maxsplit=1)[0].rstrip(".;:")


# ---------------------------------------------------------------------- bash
def _bash_script(commands: Mapping[str, Type[Options]], families: Mapping[str, str]) -> str:
    cases = []
    for command, kind in commands.items():
        options = [option for option in _options_of(kind) if option.name]
        branches = [f"            {o.name}) words={_quoted(' '.join(o.choices))};;" for o in options if o.choices]
        free = [o.name for o in options if o.metavar and not o.choices and not o.is_file]
        files = [o.name for o in options if o.is_file]
        branches += [f"            {'|'.join(files)}) is_file=1;;"] if files else []
        branches += [f"            {'|'.join(free)}) ;;"] if free else []
        names = " ".join(option.name for option in options)
        inner = "\n".join(branches)
        cases.append(
            f'    {_quoted(command)})\n        case "$previous" in\n{inner}\n'
            f"            *) words={_quoted(names)}; is_open=1;;\n        esac;;"
        )
    for first in families:
        seconds = [command.split()[1] for command in commands if command.startswith(f"{first} ")]
        cases.append(f"    {_quoted(first)}) words={_quoted(' '.join(seconds))};;")
    first_words = " ".join([*dict.fromkeys(command.split()[0] for command in commands), *GLOBAL_OPTIONS])
    return BASH.format(families="|".join(families), cases="\n".join(cases), first=_quoted(first_words))


GLOBAL_OPTIONS = {"--help": "Show all commands", "--version": "Which version this is"}
"""What is typed in place of a command."""

BASH = """\
_cryoden() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}"
    local command="" words="" is_file="" is_open=""

    # --name=value comes as three words
    if [[ "$current" == "=" ]]; then
        current=""
    elif [[ "$previous" == "=" ]]; then
        previous="${{COMP_WORDS[COMP_CWORD-2]}}"
    fi

    (( COMP_CWORD > 1 )) && command="${{COMP_WORDS[1]}}"
    case "$command" in
        {families}) (( COMP_CWORD > 2 )) && command="$command ${{COMP_WORDS[2]}}";;
    esac
    case "$command" in
    "") words={first};;
{cases}
    esac

    # Names of files are left to the shell: it knows how to quote them.
    COMPREPLY=()
    [[ -n "$is_file" || ( -n "$is_open" && "$current" != -* ) ]] && return
    compopt +o default +o bashdefault 2>/dev/null
    COMPREPLY=( $(compgen -W "$words" -- "$current") )
}}
complete -o bashdefault -o default -F _cryoden cryoden
"""


# ---------------------------------------------------------------------- zsh
def _zsh_script(commands: Mapping[str, Type[Options]], families: Mapping[str, str]) -> str:
    cases = []
    for command, kind in commands.items():
        specs = " \\\n        ".join(_zsh_spec(option) for option in _options_of(kind))
        cases.append(f"    {_quoted(command)})\n        _arguments -s -S \\\n        {specs};;")
    for first, what in families.items():
        seconds = {c.split()[1]: kind for c, kind in commands.items() if c.startswith(f"{first} ")}
        cases.append(
            f"    {_quoted(first)})\n        words_of=({_described(_docs(seconds))})\n"
            f"        _describe {_quoted(_first_sentence(what))} words_of;;"
        )
    first_words = {c: _first_sentence(kind.__doc__ or "") for c, kind in commands.items() if " " not in c}
    first_words.update(families)
    first_words.update(GLOBAL_OPTIONS)
    return ZSH.format(families="|".join(families), cases="\n".join(cases), first=_described(first_words))


def _docs(commands: Mapping[str, Type[Options]]) -> Dict[str, str]:
    return {word: _first_sentence(kind.__doc__ or "") for word, kind in commands.items()}


def _zsh_spec(option: Completed) -> str:
    """Return an option as zsh's `_arguments` wants it: name, explanation, kind of value, how it is completed."""
    value = ""
    if option.metavar:
        action = f"({' '.join(option.choices)})" if option.choices else "_files" if option.is_file else " "
        value = f":{_escaped(option.metavar)}:{action}"
    return _quoted(f"{option.name}[{_escaped(option.help)}]{value}" if option.name else f"*{value}")


def _described(words: Mapping[str, str]) -> str:
    return " ".join(_quoted(f"{word}:{_escaped(help)}") for word, help in words.items())


def _escaped(text: str) -> str:
    """Return a text in which nothing means something to `_arguments`."""
    return re.sub(r"([\[\]:\\])", r"\\\1", text)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


ZSH = """\
#compdef cryoden
_cryoden() {{
    local -a words_of
    local command="" n_words=0
    if (( CURRENT > 2 )); then
        command="$words[2]" n_words=1
    fi
    case "$command" in
        {families})
            if (( CURRENT > 3 )); then
                command="$command $words[3]" n_words=2
            fi;;
    esac

    # What comes after the command is completed as if the command were the program.
    shift $n_words words
    (( CURRENT -= n_words ))
    case "$command" in
    "")
        words_of=({first})
        _describe 'command' words_of;;
{cases}
    esac
}}
(( $+functions[compdef] )) || {{ autoload -Uz compinit && compinit -i }}
compdef _cryoden cryoden
"""

SHELLS = {"bash": _bash_script, "zsh": _zsh_script}
"""Shell -> what makes its script."""
