"""What a service's method came to, as bytes for the process that called it."""

import pickle
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import cloudpickle

from qfleet.backends.futures import one_line
from qfleet.errors import FleetError


def dump_result(value: Any, keep: Callable[[pickle.PickleBuffer], bool] | None = None) -> bytes:
    """For `load_reply`: the method's return value; `keep` says which arrays are to be among the bytes, else all are."""
    return cloudpickle.dumps((True, value), protocol=5, buffer_callback=keep)


def dump_failure(error: BaseException) -> bytes:
    """For `load_reply`: the exception where it can travel, its line and its traceback."""
    line, text = one_line(error), "".join(traceback.format_exception(error))
    try:
        data = cloudpickle.dumps(error, protocol=5)
        copy = pickle.loads(data)  # noqa: S301 - just written; some exceptions cannot be read again
    except Exception:
        return cloudpickle.dumps((False, (None, line, text)), protocol=5)
    return cloudpickle.dumps((False, (data if str(copy) == str(error) else None, line, text)), protocol=5)


def load_reply(reply: bytes, who: str, buffers: Sequence[memoryview] = ()) -> Any:
    """The value, from a process of this run; raises what `who` raised, a FleetError where it could not travel.

    `buffers` are the arrays that are not among the bytes, in their order.
    """
    is_result, value = pickle.loads(reply, buffers=buffers)  # noqa: S301 - from within the run
    if is_result:
        return value
    data, line, text = value
    error: BaseException = FleetError(f"{who} failed with {line}")
    if data is not None:
        error = pickle.loads(data)  # noqa: S301 - from within the run
    error.add_note(f"In {who}:\n{text}")
    raise error
