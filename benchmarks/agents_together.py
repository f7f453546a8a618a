"""Networks of K agents in one process, 8 observations each: one after another, against all in one batched product.

Compiled networks against a batched matrix product; modules of the user's against torch.func.vmap over their stacked
parameters. There is no figure to reach: it is what the decision in docs/asynchronous.md rests on.
Run as `python benchmarks/agents_together.py`.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from timing import best_seconds
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from qfleet.deep.compiled.learner import CompiledPolicy
from qfleet.deep.networks import NetworkShape, compiled_plan
from qfleet.deep.parameters import Parameters, initial_parameters
from qfleet.environments.vector import ObservationLayout

NUM_OBSERVATIONS, NUM_FEATURES, NUM_UNITS, NUM_ACTIONS = 8, 4, 256, 2
NUM_AGENTS = (2, 4, 8)


def microseconds(call: Callable[[], object], num_calls: int) -> float:
    def calls(number: int) -> None:
        for _ in range(number):
            call()

    return 1e6 * best_seconds(calls, num_calls)


def compiled(num_agents: int) -> tuple[float, float]:
    """Each by itself, all together."""
    layout = ObservationLayout((NUM_FEATURES,), np.dtype(np.float32), is_image=False)
    shape = NetworkShape("mlp", (NUM_UNITS, NUM_UNITS), False, False, layout, 1, NUM_ACTIONS)
    plan, slots = compiled_plan(shape)
    policies = [CompiledPolicy(plan, NUM_FEATURES) for _ in range(num_agents)]
    for number, policy in enumerate(policies):
        policy.load(Parameters(0, initial_parameters(slots, number)))
    observations = np.random.default_rng(0).normal(size=(NUM_OBSERVATIONS, NUM_FEATURES)).astype(np.float32)
    sizes = (NUM_FEATURES, NUM_UNITS, NUM_UNITS, NUM_ACTIONS)
    first, second, third = (torch.randn(num_agents, *pair) for pair in pairwise(sizes))
    stacked = torch.from_numpy(np.stack([observations] * num_agents))

    def together() -> torch.Tensor:
        with torch.inference_mode():
            return torch.bmm(torch.bmm(torch.bmm(stacked, first).relu_(), second).relu_(), third)

    each = microseconds(lambda: [policy.values(observations) for policy in policies], 500)
    return each, microseconds(together, 500)


def modules(make: Callable[[], nn.Module], size: tuple[int, ...], num_agents: int) -> tuple[float, float]:
    """Likewise."""
    networks = [make() for _ in range(num_agents)]
    parameters, buffers = stack_module_state(networks)
    bare = make().to("meta")
    batched = vmap(lambda own, kept, given: functional_call(bare, (own, kept), (given,)))
    observations = torch.randn(num_agents, NUM_OBSERVATIONS, *size)
    with torch.no_grad():
        each = microseconds(lambda: [one(seen) for one, seen in zip(networks, observations, strict=True)], 50)
        return each, microseconds(lambda: batched(parameters, buffers, observations), 50)


def dense() -> nn.Module:
    hidden = nn.Linear(NUM_FEATURES, NUM_UNITS), nn.ReLU(), nn.Linear(NUM_UNITS, NUM_UNITS), nn.ReLU()
    return nn.Sequential(*hidden, nn.Linear(NUM_UNITS, NUM_ACTIONS))


def for_minatar() -> nn.Module:
    hidden = nn.Conv2d(4, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 64, 128), nn.ReLU()
    return nn.Sequential(*hidden, nn.Linear(128, 6))


def for_atari() -> nn.Module:
    first = nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3)
    last = nn.Linear(64 * 7 * 7, 512), nn.ReLU(), nn.Linear(512, 6)
    return nn.Sequential(*first, nn.ReLU(), nn.Flatten(), *last)


def main() -> None:
    torch.set_num_threads(1)
    measures = {
        "2 x 256 units, compiled": compiled,
        "2 x 256 units, a module": lambda num: modules(dense, (NUM_FEATURES,), num),
        "MinAtar's, a module": lambda num: modules(for_minatar, (4, 10, 10), num),
        "Atari's, a module": lambda num: modules(for_atari, (4, 84, 84), num),
    }
    for name, measure in measures.items():
        for num_agents in NUM_AGENTS:
            each, together = measure(num_agents)
            print(
                f"{name}, {num_agents} agents: each by itself {each:.0f} us, together {together:.0f} us",
                flush=True,
            )


if __name__ == "__main__":
    main()
