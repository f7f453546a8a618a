"""What the configs of topologies refuse alike."""

from typing import Any

from qfleet.errors import QfleetError


def refuse_below(config: Any, least: int, *names: str) -> None:
    """Raises QfleetError if one of these fields is less."""
    for name in names:
        if getattr(config, name) < least:
            raise QfleetError(f"{name} is {getattr(config, name)}; it must be at least {least}")


def refuse_no_patience(config: Any) -> None:
    """Raises QfleetError if silent members are not waited for at all."""
    if not config.stall_timeout_seconds > 0:
        raise QfleetError(f"stall_timeout_seconds is {config.stall_timeout_seconds}; it must be above 0")
