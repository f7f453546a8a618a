"""Dataclasses of settings from JSON: every value of the type that its field says."""

import dataclasses
import types
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from qfleet.errors import QfleetError

Config = TypeVar("Config")


def dataclass_from_json(config_class: type[Config], values: Any, section: str) -> Config:
    """Raises QfleetError for a key that no field has, and for a value that is not of its field's type."""
    if not isinstance(values, dict):
        raise QfleetError(f"config: section {section!r} must be an object")
    fields = {item.name: item for item in dataclasses.fields(config_class)}  # pyright: ignore[reportArgumentType]
    if unknown := sorted(set(values) - set(fields)):
        raise QfleetError(f"config: {section} has no setting {unknown[0]!r}; known are {', '.join(fields)}")
    return config_class(**{name: _checked(fields[name], value, section) for name, value in values.items()})


def _checked(item: dataclasses.Field, value: Any, section: str) -> Any:
    """The value of one field; lists become tuples."""
    if isinstance(value, list):
        value = tuple(value)
    if not _fits(value, item.type):
        raise QfleetError(f"config: {section}.{item.name} is {value!r}; it must be {_in_words(item.type)}")
    return value


def _fits(value: Any, wanted: Any) -> bool:
    if get_origin(wanted) in (Union, types.UnionType):
        return any(_fits(value, part) for part in get_args(wanted))
    if get_origin(wanted) is Literal:
        return value in get_args(wanted)
    if get_origin(wanted) is tuple:
        return isinstance(value, tuple) and all(_fits(element, get_args(wanted)[0]) for element in value)
    if wanted is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is (type(None) if wanted is None else wanted)


def _in_words(wanted: Any) -> str:
    if get_origin(wanted) in (Union, types.UnionType):
        return " or ".join("nothing" if part is type(None) else _in_words(part) for part in get_args(wanted))
    if get_origin(wanted) is Literal:
        return ", ".join(map(repr, get_args(wanted)))
    return getattr(wanted, "__name__", str(wanted))
