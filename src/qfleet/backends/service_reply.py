"""What a service in another process answers, as bytes: what a method returned, or what it raised."""

import pickle
import traceback
from typing import Any

import cloudpickle

from qfleet.backends.futures import one_line
from qfleet.errors import FleetError


def dump_result(value: Any) -> bytes:
    """What a method returned."""
    return cloudpickle.dumps((True, value), protocol=5)


def dump_failure(error: BaseException) -> bytes:
    """The exception where it can travel, its line and its traceback."""
    line, text = one_line(error), "".join(traceback.format_exception(error))
    try:
        data = cloudpickle.dumps(error, protocol=5)
        copy = pickle.loads(data)  # noqa: S301 - just written; some exceptions cannot be read again
    except Exception:
        return _dumped(None, line, text)
    return _dumped(data if str(copy) == str(error) else None, line, text)


def _dumped(data: bytes | None, line: str, text: str) -> bytes:
    return cloudpickle.dumps((False, (data, line, text)), protocol=5)


def load_reply(who: str, reply: bytes) -> Any:
    """What the method returned; raises what it raised, a FleetError that tells of it where it could not travel."""
    # The bytes come from a process of this run, through a connection that nobody else holds.
    is_result, value = pickle.loads(reply)  # noqa: S301
    if is_result:
        return value
    data, line, text = value
    error = FleetError(f"{who} failed with {line}")
    if data is not None:
        error = pickle.loads(data)  # noqa: S301
    error.add_note(f"In {who}:\n{text}")
    raise error
