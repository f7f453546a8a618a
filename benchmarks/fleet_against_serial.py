"""Every topology of two workers against serial: how much faster the same steps are made, and learned from.

Acting, on processes: an environment that computes for 1 ms a step in Python, and a small network that learns from
every eighth step. Learning, on threads (model-parallel on processes, as it has to be): CartPole, whose steps cost
nothing, and two layers of 2,048 units that learn from minibatches of 512 at every twentieth. Workers that average
gradients make half as many updates, of twice the minibatch. Steps a second are those of the run's metrics after its
start; async-n-step learns from its rollouts, which no other does, so it is measured by acting alone, and
model-parallel, which has one environment loop, by learning alone.
Run as `python benchmarks/fleet_against_serial.py [SECONDS [TOPOLOGY ...]]`.
"""

import sys
from functools import partial
from typing import Any

from acting_runs import run_rate
from cart_pole_seeds import TOPOLOGIES
from slow_environments import BurningEnv, burn
from timing import best_seconds, verdict

STEP_SECONDS, MANY_TURNS = 1e-3, 100_000
LEARNED_STEPS_A_SECOND = 130
"""By serial, about."""
ACTING: dict[str, Any] = {"hidden_sizes": (64, 64), "batch_size": 64, "updates_per_step": 0.125}
LEARNING: dict[str, Any] = {"hidden_sizes": (2048, 2048), "batch_size": 512, "updates_per_step": 0.05}
REPLAY: dict[str, Any] = {"learning_starts_steps": 600, "replay_capacity": 50_000, "priority_exponent": 0.0}
OWN: dict[str, dict[str, Any]] = {"ape-x": {"learner_threads": 2}}


def rate(environment: Any, steps: int, kind: dict[str, Any], topology: str, backend: str) -> float:
    workers = {"workers": 2, "backend": backend} if topology != "serial" else {}
    settings = {"hidden_sizes": kind["hidden_sizes"]} if topology == "async-n-step" else kind | REPLAY
    learning = OWN.get(topology, {}) if kind is LEARNING else {}
    return run_rate(environment, steps, topology=topology, num_envs=8, **workers, **settings, **learning)


def compare(
    what: str, environment: Any, steps: int, kind: dict[str, Any], backend: str, names: list[str]
) -> list[bool]:
    """Whether each is faster than serial."""
    serial = rate(environment, steps, kind, "serial", backend)
    print(f"         {what}: serial {serial:.0f} steps/s", flush=True)
    return [
        verdict(
            f"{what}, {name} on {on}, of serial",
            rate(environment, steps, kind, name, on) / serial,
            "times",
            at_least=1.0,
        )
        for name in names
        for on in ["processes" if name == "model-parallel" else backend]
    ]


def main(seconds: float, topologies: list[str]) -> bool:
    turns = round(MANY_TURNS * STEP_SECONDS / best_seconds(lambda calls: burn(calls * MANY_TURNS), 1))
    slow = partial(BurningEnv, turns)
    acting = [name for name in topologies if name != "model-parallel"]
    learning = [name for name in topologies if name != "async-n-step"]
    steps = round(seconds / STEP_SECONDS), round(seconds * LEARNED_STEPS_A_SECOND)
    reached = compare("acting", slow, steps[0], ACTING, "processes", acting)
    return all(reached + compare("learning", "CartPole-v1", steps[1], LEARNING, "threads", learning))


if __name__ == "__main__":
    asked = sys.argv[1:]
    raise SystemExit(0 if main(float([*asked, 20][0]), asked[1:] or list(TOPOLOGIES)) else 1)
