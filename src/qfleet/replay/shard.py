"""A replay that many actors write to and learners draw from as if it were one.

A Replay belongs to one recorder, as transitions refer to frames by the recorder's numbers. So each writer gets a
pool of its own, of an equal share of the capacity, and a draw first chooses the pool in proportion to what there is
in it: together that is a draw from the union, exactly.
"""

from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.environments.vector import ObservationLayout
from qfleet.errors import NonFiniteError, QfleetError
from qfleet.replay.drawing import pools_of, prioritized_masses, rows_at, take_rows, uniform_masses
from qfleet.replay.recorder import Block
from qfleet.replay.replay import Replay, ReplayConfig, update_priorities
from qfleet.replay.ring import Ring
from qfleet.replay.sample import Drawn, Sample
from qfleet.replay.sum_tree import tree_total


@final
@dataclass(frozen=True)
class ShardReport:
    """What there is in a shard and what has been done with it."""

    num_alive: int
    """Transitions that can be drawn."""
    total: float
    """Their total priority; where all are alike, their number."""
    inserted: int
    """Transitions ever appended."""
    sampled: int
    """Transitions ever drawn."""
    late_priorities: int
    """Priorities dropped because their transitions were gone."""


@final
class ReplayShard:
    """The newest transitions of `num_writers` recorders, `replay_capacity` in all, uniform or prioritized."""

    def __init__(
        self,
        config: ReplayConfig,
        layout: ObservationLayout,
        *,
        num_writers: int,
        frame_stack: int,
        num_mask_actions: int,
        num_envs: int,
        n_step: int,
        max_steps_per_block: int,
        seed: int,
        shard: int = 0,
        incarnation: int = 0,
    ) -> None:
        """Takes all its memory at once; raises QfleetError if a writer's share is too small or the machine too full.

        `num_envs`, `n_step` and `max_steps_per_block` are of each writer's recorder. Shards that are drawn from
        together need seeds of their own, and one that replaces another the next `incarnation`.
        """
        capacity = config.replay_capacity // num_writers
        _refuse_if_too_small(config.replay_capacity, num_writers, num_envs * (max_steps_per_block + n_step))
        self.config, self._layout, self._num_mask_actions = config, layout, num_mask_actions
        self._seed, self._shard, self._incarnation = seed, shard, incarnation
        self._pools = [
            Replay(
                replace(config, replay_capacity=capacity),
                layout,
                frame_stack=frame_stack,
                num_mask_actions=num_mask_actions,
                num_envs=num_envs,
                n_step=n_step,
                max_steps_per_block=max_steps_per_block,
                num_replays=num_writers - number,
            )
            for number in range(num_writers)
        ]
        for pool in self._pools:
            pool.running = self._pools[0].running  # new transitions get the largest of all pools
        self._offsets = np.zeros(num_writers, np.int64)
        """Number in the pool of what its writer calls frame 0."""
        self._inserted, self._sampled, self._late_priorities = 0, 0, 0

    def __len__(self) -> int:
        """Transitions that can be drawn."""
        return sum(len(pool) for pool in self._pools)

    @property
    def memory_bytes(self) -> int:
        """Memory taken."""
        return sum(pool.memory_bytes for pool in self._pools)

    def report(self) -> ShardReport:
        """What there is, and what has been done."""
        total = float(self._amounts().sum())
        return ShardReport(len(self), total, self._inserted, self._sampled, self._late_priorities)

    def append(self, writer: int, block: Block) -> ShardReport:
        """Adds what `writer`'s recorder gathered; raises QfleetError if a block before it is missing."""
        pool, offset = self._pools[writer], int(self._offsets[writer])
        if block.first_frame is not None and block.first_frame + offset != pool.frames.num_rows:
            raise QfleetError(
                f"writer {writer} sent frames from number {block.first_frame} on where "
                f"{pool.frames.num_rows - offset} was to come; every block must come once and in order, "
                "and a new writer be made known by restart_writer"
            )
        pool.append(_renumbered(block, offset))
        self._inserted += len(block.transitions["frame"])
        return self.report()

    def restart_writer(self, writer: int, first_frame: int = 0) -> None:
        """Another recorder, whose next frame has the number `first_frame`, writes to this pool from now on.

        What the one before has written can still be drawn: its frames keep their numbers in the pool, and the new
        ones' are counted on from there.
        """
        self._offsets[writer] = self._pools[writer].frames.num_rows - first_frame

    def sample(self, num_batches: int, batch_size: int, counter: int) -> Sample:
        """Draws minibatches number `counter` and following; raises QfleetError if there is nothing to draw.

        Uniformly, or in proportion to priority and stratified within each batch, from all pools as one. What is
        drawn depends on the seed, the counter and the contents alone.
        """
        amounts = self._amounts()
        ends = np.cumsum(amounts)
        if not ends[-1] > 0:
            raise QfleetError("there is nothing to draw in this shard yet; append transitions first")
        masses = np.empty((num_batches, batch_size), np.float64)
        choose = prioritized_masses if self.config.priority_exponent > 0 else uniform_masses
        choose(ends[-1], self._seed, counter, masses)
        pools, masses = pools_of(masses.ravel(), ends)
        rows, sample = self._room(pools.reshape(num_batches, batch_size), float(ends[-1]))
        for number, places in _by_pool(pools):
            self._take(self._pools[number], masses, places, rows, sample)
        self._sampled += num_batches * batch_size
        return sample

    def _room(self, pools: NDArray[np.int32], total: float) -> tuple[NDArray[np.int64], Sample]:
        """The rows to be drawn (num,), and the Sample they belong to, both still to be filled."""
        num_batches, batch_size = pools.shape
        layout, shape = self._layout, pools.shape
        rows = np.empty(shape, np.int64)
        drawn = Drawn(self._shard, self._incarnation, pools, rows, total, len(self))
        num_inputs = self._pools[0].frame_stack * layout.size
        return rows.reshape(-1), Sample(
            np.empty((num_batches, 2 * batch_size, num_inputs), layout.dtype),
            np.empty((num_batches, batch_size, self._num_mask_actions), np.bool_),
            np.empty(shape, np.int32),
            np.empty(shape, np.float32),
            np.empty(shape, np.float32),
            np.empty(shape, np.float64),
            (drawn,),
        )

    @staticmethod
    def _take(
        pool: Replay,
        masses: NDArray[np.float64],
        places: NDArray[np.int64],
        rows: NDArray[np.int64],
        sample: Sample,
    ) -> None:
        """Draws from one pool what belongs at `places` of the batches laid end to end."""
        view = pool.view()
        own_rows, own_priorities = np.empty(len(places), np.int64), np.empty(len(places), np.float64)
        rows_at(view, masses[places], own_rows, own_priorities)
        rows[places] = own_rows
        sample.priorities.reshape(-1)[places] = own_priorities
        take_rows(
            view,
            own_rows,
            places,
            sample.observations,
            sample.next_action_masks,
            sample.actions,
            sample.rewards,
            sample.discounts,
        )

    def update_priorities(self, drawn: Drawn, td_errors: NDArray[np.float32]) -> int:
        """Gives what was `drawn` the priorities of its `td_errors` (num_batches, part); returns how many came too late.

        Those whose transition has been overwritten since, or which another incarnation of this shard gave, are
        dropped. Raises NonFiniteError if a TD error is not finite.
        """
        if not np.isfinite(td_errors).all():
            raise NonFiniteError("a TD error is not finite, so no priority can be made of it")
        errors, rows, late = np.ascontiguousarray(td_errors).reshape(-1), drawn.rows.reshape(-1), 0
        if drawn.incarnation != self._incarnation:
            late = len(rows)
        else:
            for number, places in _by_pool(drawn.pools.reshape(-1)):
                pool = self._pools[number]
                alive = places[rows[places] >= pool.first]
                late += len(places) - len(alive)
                exponent, floor = self.config.priority_exponent, self.config.priority_floor
                update_priorities(pool.view(), rows[alive], errors[alive], exponent, floor)
        self._late_priorities += late
        return late

    def _amounts(self) -> NDArray[np.float64]:
        """(num_writers,): what each pool counts for in a draw."""
        if self.config.priority_exponent > 0:
            return np.array([tree_total(pool.tree) for pool in self._pools])
        return np.array([len(pool) for pool in self._pools], np.float64)

    def streams(self) -> dict[str, tuple[int, int]]:
        """The rings, whose rows never change once written: name to (oldest row held, next row's number)."""
        return {
            f"{number}/{name}": (ring.first_row, ring.num_rows)
            for number, pool in enumerate(self._pools)
            for name, ring in (("frames", pool.frames), ("transitions", pool.transitions))
        }

    def read(self, stream: str, first: int, last: int) -> dict[str, NDArray]:
        """Rows [first, last) of a stream as columns; raises QfleetError if they are no longer, or not yet, there."""
        ring = self._ring(stream)
        if not ring.first_row <= first <= last <= ring.num_rows:
            raise QfleetError(
                f"rows {first} to {last} of stream {stream} are asked for; "
                f"{ring.first_row} to {ring.num_rows} are held"
            )
        return ring.read(first, last)

    def refill(self, stream: str, first: int, rows: dict[str, NDArray]) -> None:
        """Puts back rows that `read` returned, from number `first` on, in order; `load_state` has to follow."""
        ring = self._ring(stream)
        if ring.num_rows == 0:
            ring.num_rows = first
        if ring.num_rows != first:
            raise QfleetError(
                f"stream {stream} goes on with row {ring.num_rows}, not {first}; rows are put back in order"
            )
        ring.append(rows)

    def _ring(self, stream: str) -> Ring:
        number, name = stream.split("/")
        pool = self._pools[int(number)]
        return pool.frames if name == "frames" else pool.transitions

    def save_state(self) -> dict[str, Any]:
        """All that the streams do not hold."""
        return {
            "pools": {str(number): pool.save_priorities() for number, pool in enumerate(self._pools)},
            "offsets": self._offsets.copy(),
            "counts": np.array([self._inserted, self._sampled, self._late_priorities], np.int64),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Puts back what `save_state` returned, after the streams were refilled."""
        for number, pool in enumerate(self._pools):
            pool.load_priorities(state["pools"][str(number)])
        self._offsets[:] = state["offsets"]
        self._inserted, self._sampled, self._late_priorities = (int(count) for count in state["counts"])


def save_shard(shard: ReplayShard) -> dict[str, Any]:
    """All of it, in memory."""
    streams = {
        name.replace("/", "."): {"first": first, "rows": shard.read(name, first, last)}
        for name, (first, last) in shard.streams().items()
    }
    return {"streams": streams, **shard.save_state()}


def load_shard(shard: ReplayShard, state: dict[str, Any]) -> None:
    """Puts back what `save_shard` returned."""
    for name, stream in state["streams"].items():
        shard.refill(name.replace(".", "/"), stream["first"], stream["rows"])
    shard.load_state(state)


def _by_pool(pools: NDArray[np.int32]) -> list[tuple[int, NDArray[np.int64]]]:
    """Each pool that occurs in `pools` (num,), and the places where it does, in order."""
    order = np.argsort(pools, kind="stable")
    numbers, starts = np.unique(pools[order], return_index=True)
    return list(zip(numbers.tolist(), np.split(order, starts[1:]), strict=True))


def _renumbered(block: Block, offset: int) -> Block:
    """The block with its frames' numbers counted from `offset` on."""
    if offset == 0:
        return block
    moved = {name: block.transitions[name] + offset for name in ("frame", "next_frame")}
    return replace(block, transitions=block.transitions | moved)


def _refuse_if_too_small(capacity: int, num_writers: int, largest_block: int) -> None:
    if capacity // num_writers < largest_block:
        raise QfleetError(
            f"replay_capacity is {capacity}, {capacity // num_writers} for each of {num_writers} actors; one block of "
            f"steps can bring {largest_block} transitions: it must be at least {largest_block * num_writers}"
        )
