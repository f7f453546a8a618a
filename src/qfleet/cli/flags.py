"""Which flags a command has, taken from its dataclass, and what of them a command line gives."""

import dataclasses
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro

from qfleet.errors import QfleetError

_TAKES = {int: "a whole number", float: "a number", str: "a text"}


@dataclass(frozen=True)
class Flag:
    """One flag, or one positional argument."""

    name: str
    """As it is typed, without hyphens in front."""
    type: Any
    """Of its field, without annotations."""
    positional: bool
    negatable: bool
    """Whether --no-name switches it off."""

    @property
    def is_switch(self) -> bool:
        """Whether it takes no value."""
        return self.type is bool

    @property
    def takes_many(self) -> bool:
        """Whether it takes any number of values."""
        return get_origin(self.type) is tuple

    @property
    def takes(self) -> str:
        """What its value must be, for people."""
        if get_origin(self.type) is Literal:
            return f"one of {', '.join(map(str, get_args(self.type)))}"
        if self.takes_many:
            return {int: "whole numbers", float: "numbers"}.get(get_args(self.type)[0], "texts")
        kinds = [kind for kind in get_args(self.type) or (self.type,) if kind is not NoneType]
        return " or ".join(_TAKES[kind] for kind in kinds)


def flags_of(config_class: type) -> Iterator[Flag]:
    """The flags that tyro makes of a dataclass, those of the dataclasses in it included, all without prefix."""
    hints = get_type_hints(config_class, include_extras=True)
    for item in dataclasses.fields(config_class):
        hint, notes = hints[item.name], ()
        if get_origin(hint) is Annotated:
            hint, *notes = get_args(hint)
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from flags_of(hint)
            continue
        given = next((name for note in notes if (name := getattr(note, "name", None))), item.name)
        yield Flag(
            given.replace("_", "-"),
            hint,
            positional=tyro.conf.Positional in notes,
            negatable=tyro.conf.FlagCreatePairsOff not in notes,
        )


@dataclass
class GivenArguments:
    """A command line, taken apart."""

    positionals: list[str]
    values: dict[str, list[str]]
    """By flag; `no-` in front of a name where a switch is switched off; switches have no values."""

    def normalised(self) -> list[str]:
        """The same for tyro, so that a value which looks like a flag is still a value."""
        arguments = list(self.positionals)
        for name, values in self.values.items():
            if len(values) == 1:
                arguments.append(f"--{name}={values[0]}")
            else:
                arguments += [f"--{name}", *values]
        return arguments


def take_apart(command: str, flags: Sequence[Flag], arguments: Sequence[str]) -> GivenArguments:
    """Splits arguments into positionals and flags.

    Raises QfleetError for a flag that is unknown, abbreviated, given twice or left without its value, and for
    one positional argument too many.
    """
    spellings = {flag.name: flag for flag in flags if not flag.positional}
    spellings |= {f"no-{flag.name}": flag for flag in flags if flag.is_switch and flag.negatable}
    given, left = GivenArguments([], {}), list(arguments)
    while left:
        token = left.pop(0)
        if not _is_flag(token):
            given.positionals.append(token)
            continue
        typed, equals, value = token.partition("=")
        name = typed.lstrip("-").replace("_", "-")
        flag = spellings.get(name) if typed.startswith("--") else None
        if flag is None:
            raise QfleetError(_unknown(command, typed, spellings))
        _add(given, flag, name, [value] if equals else _values(flag, left), bool(equals))
    most = [flag for flag in flags if flag.positional]
    if len(given.positionals) > len(most) and not any(flag.takes_many for flag in most):
        extra = given.positionals[len(most)]
        raise QfleetError(f"{command} does not know what to do with {extra!r}; flags begin with --")
    return given


def _is_flag(token: str) -> bool:
    if not token.startswith("-") or token == "-":
        return False
    try:
        float(token)
    except ValueError:
        return True
    return False


def _values(flag: Flag, left: list[str]) -> list[str]:
    """Takes the values that follow a flag off `left`."""
    most = 0 if flag.is_switch else len(left) if flag.takes_many else 1
    values = []
    while left and len(values) < most and not _is_flag(left[0]):
        values.append(left.pop(0))
    return values


def _add(given: GivenArguments, flag: Flag, name: str, values: list[str], with_equals: bool) -> None:
    if flag.is_switch:
        if with_equals:
            off = f"; --no-{flag.name} switches it off" if flag.negatable else ""
            raise QfleetError(f"--{name} takes no value{off}")
        if {flag.name, f"no-{flag.name}"} & given.values.keys():
            raise QfleetError(f"--{flag.name} is given twice")
    elif not values:
        raise QfleetError(f"--{name} needs a value: {flag.takes}")
    elif flag.takes_many:
        values = given.values.get(name, []) + values
    elif name in given.values:
        raise QfleetError(f"--{name} is given twice: {given.values[name][0]} and {values[0]}")
    given.values[name] = values


def _unknown(command: str, typed: str, spellings: dict[str, Flag]) -> str:
    name = typed.lstrip("-")
    longer = [known for known in spellings if known.startswith(name)]
    near = longer[:3] or difflib.get_close_matches(name, spellings, 3)
    hint = f"; the nearest are {', '.join(f'--{known}' for known in near)}" if near else ""
    return f"{command} has no flag {typed}{hint} (all: qfleet {command} --help)"
