"""The worlds that have a name: `GridWorld-64`, `Garnet-1000x4x5`; the part after the dash is their size."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from qfleet.errors import QfleetError
from qfleet.memory import available_memory_bytes, readable_bytes
from qfleet.worlds import chain, garnet, grid, inventory, queueing
from qfleet.worlds.options import WorldOptions, parse_options
from qfleet.worlds.world import World

Sizes = tuple[int, ...]

MOST_STATES = 2**31 - 1
"""States are numbered by int32 wherever many of them are stored."""


@dataclass(frozen=True)
class Family:
    """Worlds that differ in their size and options."""

    example: str
    summary: str
    """What it is, in one line."""
    size_text: str
    """How the size is written."""
    least: int
    """Of the first number."""
    options: type[WorldOptions]
    read: Callable[[Sizes], Sizes | None]
    """From the numbers that were written to all of them; None where they are too many or too few."""
    extent: Callable[[Sizes], tuple[int, int]]
    """(states, actions)."""
    num_bytes: Callable[[Sizes], int]
    """Memory that the world takes while it is made, without the table."""
    make: Callable[[Sizes, Any, str], World]


def _one(sizes: Sizes) -> Sizes | None:
    return sizes if len(sizes) == 1 else None


def _rows_and_columns(sizes: Sizes) -> Sizes | None:
    return {1: sizes * 2, 2: sizes}.get(len(sizes))


def _garnet_sizes(sizes: Sizes) -> Sizes | None:
    defaults = (garnet.NUM_ACTIONS, min(garnet.BRANCHING, sizes[0]))
    return {1: (*sizes, *defaults), 3: sizes}.get(len(sizes))


FAMILIES = {
    "GridWorld": Family(
        "GridWorld-64",
        "grid of N x N or RxC cells, 1 on entering the last one; slip and walls as options",
        "GridWorld-N or GridWorld-RxC",
        1,
        grid.GridOptions,
        _rows_and_columns,
        lambda sizes: (sizes[0] * sizes[1], 4),
        lambda sizes: 10 * sizes[0] * sizes[1],
        lambda sizes, options, name: grid.make_grid(sizes[0], sizes[1], options, name),
    ),
    "Chain": Family(
        "Chain-20",
        "N states, 1 at the far end, every step back leads to the start; hard to explore",
        "Chain-N",
        2,
        chain.ChainOptions,
        _one,
        lambda sizes: (sizes[0], 2),
        lambda sizes: 0,
        lambda sizes, options, name: chain.make_chain(sizes[0], options, name),
    ),
    "Queue": Family(
        "Queue-50",
        "speed of service of a queue of at most N customers",
        "Queue-N",
        1,
        queueing.QueueOptions,
        _one,
        lambda sizes: (sizes[0] + 1, 3),
        lambda sizes: 0,
        lambda sizes, options, name: queueing.make_queue(sizes[0], options, name),
    ),
    "Inventory": Family(
        "Inventory-20",
        "how much to order, with room for N units and random demand; masked actions",
        "Inventory-N",
        1,
        inventory.InventoryOptions,
        _one,
        lambda sizes: (sizes[0] + 1, sizes[0] + 1),
        lambda sizes: 8 * sizes[0],
        lambda sizes, options, name: inventory.make_inventory(sizes[0], options, name),
    ),
    "Garnet": Family(
        "Garnet-1000",
        "random MDP of S states; SxAxB: with A actions and B next states of each",
        "Garnet-S or Garnet-SxAxB",
        1,
        garnet.GarnetOptions,
        _garnet_sizes,
        lambda sizes: (sizes[0], sizes[1]),
        lambda sizes: sizes[0] * sizes[1] * (8 + 28 * sizes[2]),
        lambda sizes, options, name: garnet.make_garnet(sizes[0], sizes[1], sizes[2], options, name),
    ),
}

WORLD_NAMES: dict[str, str] = {family.example: family.summary for family in FAMILIES.values()}
"""An example of every family, and what it is."""


def make_world(name: str, options: Mapping[str, str]) -> World | None:
    """The world of a name such as GridWorld-64; None if no family of worlds has that name.

    Raises QfleetError for a size or option that the family does not have, and for what memory would not hold.
    """
    written, dash, size = name.partition("-")
    family_name = {known.casefold(): known for known in FAMILIES}.get(written.casefold())
    if family_name is None or re.fullmatch(r"v\d+", size):  # Chain-v0 is somebody's Gymnasium id
        return None
    family = FAMILIES[family_name]
    if family_name != written:
        example = f"{family_name}{dash}{size}" if size else family.example
        raise QfleetError(f"world {name!r} is unknown; did you mean {example}?")
    sizes = _sizes(family, name, size)
    parsed = parse_options(family.options, options, name)
    _refuse_too_large(family, name, sizes)
    return family.make(sizes, parsed, name)


def _sizes(family: Family, name: str, text: str) -> Sizes:
    wrong = QfleetError(f"{name!r} has no size that can be read; {family.size_text}: {family.example}")
    if not re.fullmatch(r"[0-9]+(x[0-9]+)*", text):
        raise wrong
    sizes = family.read(tuple(int(number) for number in text.split("x")))
    if sizes is None:
        raise wrong
    if min(sizes) < 1 or sizes[0] < family.least:
        least = f"at least {family.least}" if sizes[0] < family.least else "at least 1"
        raise QfleetError(f"{name}: sizes must be {least}, as in {family.example}")
    if family.extent(sizes)[0] < 2 and family.options is grid.GridOptions:
        raise QfleetError(f"{name}: a grid needs at least 2 cells, as in {family.example}")
    return sizes


def _refuse_too_large(family: Family, name: str, sizes: Sizes) -> None:
    """Raises QfleetError if the world and one table of float32 would not fit."""
    num_states, num_actions = family.extent(sizes)
    if num_states > MOST_STATES:
        raise QfleetError(f"{name} has {num_states:,} states; at most {MOST_STATES:,} can be numbered")
    needed = family.num_bytes(sizes) + 4 * num_states * num_actions
    available = available_memory_bytes()
    if needed > available:
        raise QfleetError(
            f"{name} and its table ({num_states:,} states x {num_actions:,} actions) need at least "
            f"{readable_bytes(needed)}; {readable_bytes(available)} are available; choose a smaller size"
        )
