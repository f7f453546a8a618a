"""From the arguments to the sub-command, and from whatever comes out of it to an exit code."""

import difflib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module

from qfleet.cli.job import are_copies, is_of_job, refuse_copies, run_in_job
from qfleet.cli.overview import COMMANDS, overview
from qfleet.errors import FleetError, QfleetError
from qfleet.interruption import Interrupted

_MISTAKE, _BUG, _SIGNALLED = 2, 1, 128


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    0: done; 1: a bug of ours, with its traceback; 2: a mistake, in one line on standard error; 130 and 143:
    ended by SIGINT and SIGTERM.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if is_of_job(given):
        return _explained(lambda: run_in_job(lambda: _explained(lambda: _run(given))))
    if are_copies(given):
        return _explained(refuse_copies)
    return _explained(lambda: _run(given))


def _explained(run: Callable[[], int]) -> int:
    """The exit code, with a word on standard error about whatever came out of it."""
    try:
        code = run()
        sys.stdout.flush()
        return code
    except QfleetError as error:
        return _complain(_line_of(error), _MISTAKE)
    except Interrupted as interruption:
        return _complain("interrupted before its first step", _SIGNALLED + interruption.signal_number)
    except KeyboardInterrupt:
        return _complain("interrupted", _SIGNALLED + signal.SIGINT)
    except BrokenPipeError:
        # Whoever read our output has gone; what is still buffered would fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _SIGNALLED + signal.SIGPIPE
    except Exception:
        traceback.print_exc()
        return _BUG


def _line_of(error: QfleetError) -> str:
    """What it says, and in which worker that was, if it has made a note of it; a FleetError names it by itself."""
    line = " ".join(str(error).split())
    notes = [note for note in getattr(error, "__notes__", []) if note.startswith("In ")]
    if isinstance(error, FleetError) or not notes:
        return line
    return f"{line} (in {notes[0].splitlines()[0].removeprefix('In ').rstrip(':')})"


def _complain(line: str, code: int) -> int:
    print(f"qfleet: {line}", file=sys.stderr)
    return code


def _run(arguments: list[str]) -> int:
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if name in ("-h", "--help", "help"):
        print(overview())
    elif name == "--version":
        from qfleet.version import __version__

        print(f"qfleet {__version__}")
    elif name in COMMANDS:
        return import_module(f"qfleet.cli.{name}").main(rest)
    else:
        raise QfleetError(_unknown(name))
    return 0


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, COMMANDS, 2)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(COMMANDS)}"
    return f"there is no command {name!r}; {hint}"
