"""Arguments to a command's dataclass, by tyro, with every mistake said in one line."""

import contextlib
import io
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

from qfleet.cli.flags import Flag, GivenArguments, flags_of, take_apart
from qfleet.errors import QfleetError

Arguments = TypeVar("Arguments")


def wants_help(arguments: Sequence[str]) -> bool:
    """Whether the command's help is asked for."""
    return "-h" in arguments or "--help" in arguments


def parse(command: str, arguments_class: type[Arguments], arguments: Sequence[str]) -> Arguments:
    """What `qfleet command` was given; QfleetError for a mistake, SystemExit after help."""
    if wants_help(arguments):
        show_help(command, arguments_class)
    flags = list(flags_of(arguments_class))
    given = take_apart(command, flags, arguments)
    if missing := [flag for flag in flags if flag.positional][len(given.positionals) :]:
        raise QfleetError(f"{command} needs a {missing[0].name.upper()}; see qfleet {command} --help")
    return convert(command, arguments_class, flags, given)


def show_help(command: str, arguments_class: type, default: object = tyro.MISSING_NONPROP) -> None:
    """Prints a command's help and exits."""
    _tyro(command, arguments_class, ["--help"], default)


def convert(
    command: str,
    arguments_class: type[Arguments],
    flags: Sequence[Flag],
    given: GivenArguments,
    default: Arguments | None = None,
) -> Arguments:
    """Texts to values, on top of `default`; QfleetError names the flag whose value does not fit."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return _tyro(
                command,
                arguments_class,
                given.normalised(),
                tyro.MISSING_NONPROP if default is None else default,
            )
    except SystemExit:
        raise QfleetError(_explain(complaint.getvalue(), flags, given)) from None


def _tyro(command: str, arguments_class: type, arguments: list[str], default: object) -> Any:
    return tyro.cli(
        arguments_class,
        prog=f"qfleet {command}",
        args=arguments,
        default=default,
        config=(tyro.conf.OmitArgPrefixes,),
    )


def _explain(complaint: str, flags: Sequence[Flag], given: GivenArguments) -> str:
    """The flag that tyro's box is about, what it was given, and what it takes."""
    by_name = {flag.name: flag for flag in flags}
    for name in re.findall(r"--([a-z][a-z-]*)", complaint):
        if name in given.values and name in by_name:
            return f"--{name} {' '.join(given.values[name])}: it takes {by_name[name].takes}"
    return " ".join(re.sub(r"[^\x20-\x7e]|─", " ", complaint).split())
