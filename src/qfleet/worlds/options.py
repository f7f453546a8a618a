"""The options of the worlds by name: typed by their dataclasses, read from text, and checked."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar, get_type_hints

from qfleet.errors import QfleetError


@dataclass(frozen=True)
class WorldOptions:
    """What every world by name can be told."""

    max_episode_steps: int = 0
    """Steps after which an episode is truncated; 0: the world's own default."""

    def __post_init__(self) -> None:
        self.require_at_least("max_episode_steps", 0)

    def require_at_least(self, name: str, lowest: float) -> None:
        """Raises QfleetError for an option that is too small, or no finite number."""
        value = getattr(self, name)
        if not (math.isfinite(value) and value >= lowest):
            raise QfleetError(f"{name} is {value}; it must be at least {lowest:g}")

    def require_probability(self, name: str, *, below_one: bool = False) -> None:
        """Raises QfleetError for an option outside [0, 1], or [0, 1)."""
        value = getattr(self, name)
        if not 0 <= value <= 1 or (below_one and value == 1):
            raise QfleetError(f"{name} is {value}; it must be from 0 to {'less than ' * below_one}1")


Options = TypeVar("Options", bound=WorldOptions)


def parse_options(kind: type[Options], texts: Mapping[str, str], world: str) -> Options:
    """Options from `key=value` texts; QfleetError in one line, with the known ones, for whatever does not fit."""
    known = [item.name for item in fields(kind)]
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, text in texts.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            nearest = f"did you mean {near[0]}? " if near else ""
            raise QfleetError(f"{world} has no option {key!r}; {nearest}it has {', '.join(known)}")
        values[key] = _parse_value(hints[key], text, f"{world}: {key}")
    try:
        return kind(**values)
    except QfleetError as error:
        raise QfleetError(f"{world}: {error}") from None


def _parse_value(kind: type, text: str, what: str) -> Any:
    try:
        return kind(text.strip())
    except ValueError:
        wanted = {int: "a whole number", float: "a number"}[kind]
        raise QfleetError(f"{what} is {text!r}; it must be {wanted}") from None
