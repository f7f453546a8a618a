"""A state is a nested dict; here it is taken apart into what each kind of file holds, and put together."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qfleet.runs.durable import STORABLE_DTYPES
from qfleet.runs.streams import LoadedStream, Stream

State: TypeAlias = dict[str, Any]
"""Nested dicts with string keys; leaves are JSON values (int, float, str, bool, None, lists of them), NumPy
arrays of any shape, or a `Stream`."""

LoadedState: TypeAlias = dict[str, Any]
"""The same tree as saved, with a `LoadedStream` for every `Stream`."""

_KEY = re.compile(r"[\w-][\w.-]*", re.ASCII)


@dataclass
class Parts:
    """A state taken apart; arrays and streams are named by their path in the tree, joined with slashes."""

    tree: dict[str, Any]
    """The JSON part; `{"$array": path}` and `{"$stream": path}` stand for the rest."""
    arrays: dict[str, NDArray] = field(default_factory=dict)
    """By path."""
    streams: dict[str, Stream] = field(default_factory=dict)
    """By path."""


def take_apart(state: State) -> Parts:
    """Splits `state` by kind of leaf; raises TypeError or ValueError naming what cannot be stored."""
    parts = Parts({})
    parts.tree = _split(state, "", parts)
    return parts


def put_together(
    tree: dict[str, Any], arrays: dict[str, NDArray], streams: dict[str, LoadedStream]
) -> LoadedState:
    """The inverse of `take_apart`; raises KeyError where an array or stream is missing."""
    return {key: _join(value, arrays, streams) for key, value in tree.items()}


def _split(node: dict[str, Any], prefix: str, parts: Parts) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in node.items():
        path = f"{prefix}{key}"
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise ValueError(f"key {path!r} of a state: use letters, digits, '_', '-' and '.' alone")
        if isinstance(value, dict):
            tree[key] = _split(value, f"{path}/", parts)
        elif isinstance(value, np.ndarray):
            if value.dtype not in STORABLE_DTYPES:
                raise TypeError(f"array {path!r} of a state: dtype {value.dtype} cannot be stored")
            parts.arrays[path] = value
            tree[key] = {"$array": path}
        elif isinstance(value, Stream):
            parts.streams[path] = value
            tree[key] = {"$stream": path}
        else:
            _require_json(value, path)
            tree[key] = value
    return tree


def _require_json(value: object, path: str) -> None:
    if isinstance(value, list):
        for item in value:
            _require_json(item, path)
    elif value is not None and not isinstance(value, bool | int | float | str):
        raise TypeError(
            f"leaf {path!r} of a state is a {type(value).__name__}; arrays and JSON values can be"
        )


def _join(value: Any, arrays: dict[str, NDArray], streams: dict[str, LoadedStream]) -> Any:
    if not isinstance(value, dict):
        return value
    sources: dict[str, Callable[[str], Any]] = {"$array": arrays.__getitem__, "$stream": streams.__getitem__}
    for marker, source in sources.items():
        if marker in value:
            return source(value[marker])
    return {key: _join(child, arrays, streams) for key, child in value.items()}
