"""What a replay has to hold, computed by a plain loop over one environment's transitions at a time."""

from typing import NamedTuple

import numpy as np

from qfleet.environments.vector import ObservationLayout, VectorEnvironment
from qfleet.replay.recorder import Block, Recorder
from qfleet.replay.replay import Replay, draw, empty_batch
from tests.environments.scripted import SEED, Transition, scalar_transitions, scripted_actions

DISCOUNT = 0.9
LAYOUT = ObservationLayout((4,), np.dtype(np.float32), is_image=False)


class Stored(NamedTuple):
    """One n-step transition with stacked observations; the next one's is empty after a terminal state."""

    observation: tuple[float, ...]
    action: int
    reward: float
    discount: float
    next_observation: tuple[float, ...]


def episodes_of(transitions: list[Transition]) -> list[list[Transition]]:
    episodes: list[list[Transition]] = [[]]
    for transition in transitions:
        episodes[-1].append(transition)
        if transition.terminated or transition.truncated:
            episodes.append([])
    return [episode for episode in episodes if episode]


def stored_of_episode(episode: list[Transition], n_step: int, frame_stack: int, limit: float) -> list[Stored]:
    frames = [episode[0].observation, *(transition.next_observation for transition in episode)]
    ended = episode[-1].terminated or episode[-1].truncated
    stored = []
    for start in range(len(episode)):
        end = min(start + n_step, len(episode))
        if end - start < n_step and not ended:
            break
        rewards = [max(-limit, min(limit, transition.reward)) for transition in episode[start:end]]
        total = sum(DISCOUNT**k * reward for k, reward in enumerate(rewards))
        terminal = end == len(episode) and episode[-1].terminated
        discount = 0.0 if terminal else DISCOUNT ** (end - start)
        following = () if terminal else stack(frames, end, frame_stack)
        stored.append(
            Stored(
                stack(frames, start, frame_stack),
                episode[start].action,
                float(np.float32(total)),
                float(np.float32(discount)),
                following,
            )
        )
    return stored


def stack(frames: list[tuple[float, ...]], position: int, depth: int) -> tuple[float, ...]:
    """The `depth` frames up to `position`, oldest first; the first repeated where there are no more."""
    chosen = [frames[max(0, position - back)] for back in range(depth - 1, -1, -1)]
    return tuple(float(number) for frame in chosen for number in frame)


def truth(num_taken: list[int], n_step: int, frame_stack: int, limit: float = np.inf) -> list[Stored]:
    """Everything that environments 0, 1, … give in their first `num_taken` steps, sorted."""
    return sorted(
        stored
        for index, num in enumerate(num_taken)
        for episode in episodes_of(scalar_transitions(index, num))
        for stored in stored_of_episode(episode, n_step, frame_stack, limit)
    )


def drive(vector: VectorEnvironment, recorder: Recorder, num_steps: int, block_steps: int):
    """Records until every environment was stepped `num_steps` times; yields (block, steps of each so far)."""
    actions = scripted_actions(4 * num_steps + 20, vector.num_envs)
    taken = np.zeros(vector.num_envs, np.int64)
    recorder.start(*vector.reset(SEED))
    while taken.min() < num_steps:
        for _ in range(block_steps):
            chosen = actions[taken, np.arange(vector.num_envs)]
            step = vector.step(chosen)
            recorder.record(chosen, step)
            taken += step.stepped
        block: Block = recorder.take()
        yield block, taken.tolist()


def decoded(replay: Replay, row: int) -> Stored:
    """Transition `row` as a draw that can give no other presents it."""
    layout_size = replay.frames.columns["observation"].shape[1]
    layout = ObservationLayout((layout_size,), np.dtype(np.float32), is_image=False)
    batch = empty_batch(1, layout, replay.frame_stack, replay.frames.columns["action_mask"].shape[1])
    view = replay.view()._replace(first=row, end=row + 1, tree=np.zeros(0))
    draw(view, 0, 0, 1.0, batch)
    assert batch.rows[0] == row
    discount = float(batch.discounts[0])
    return Stored(
        tuple(batch.observations[0].tolist()),
        int(batch.actions[0]),
        float(batch.rewards[0]),
        discount,
        tuple(batch.observations[1].tolist()) if discount else (),
    )


def drawable(replay: Replay) -> list[Stored]:
    """Everything that can be drawn, sorted."""
    return sorted(decoded(replay, row) for row in range(replay.first, replay.transitions.num_rows))
