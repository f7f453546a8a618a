"""`qfleet doctor`: what this machine offers."""

from collections.abc import Sequence
from dataclasses import dataclass

from qfleet.cli.parsing import parse
from qfleet.doctor import OK, checks


@dataclass(frozen=True)
class DoctorFlags:
    """Checks what is installed and what this machine offers; exits with 1 if something needed is missing."""


def main(arguments: Sequence[str]) -> int:
    """Prints a line a check and returns the exit code."""
    parse("doctor", DoctorFlags, arguments)
    code = 0
    for check in checks():
        print(f"{check.state:<8} {check.name:<16} {check.text}", flush=True)
        code |= check.state != OK and check.needed
    return code
