"""Small, fast runs that use everything whose state a checkpoint has to hold."""

import json
from pathlib import Path
from typing import Any

import qfleet

TINY: dict[str, Any] = {
    "algorithm": "dqn",
    "steps": 3000,
    "num_envs": 4,
    "block_steps": 32,
    "learning_starts_steps": 200,
    "updates_per_step": 0.25,
    "batch_size": 16,
    "hidden_sizes": (16,),
    "dueling": True,
    "n_step": 3,
    "priority_exponent": 0.6,
    "replay_capacity": 1500,
    "target_update_every_updates": 50,
    "exploration_steps": 1500,
    "checkpoint_every_steps": 700,
    "evaluate_every_steps": 1100,
    "evaluation_episodes": 2,
    "final_episodes": 3,
    "max_evaluation_steps": 60,
    "until_return": float("inf"),
    "seed": 5,
}
ENVIRONMENTS = ["CartPole-v1", "LunarLander-v3", "MinAtar/Breakout-v1"]
TOPOLOGIES = ["serial", "overlapped"]


def train_tiny(environment: Any, out: Path, **changes: Any) -> qfleet.Run:
    on_status = changes.pop("on_status", lambda status: None)
    network = changes.pop("network", None)
    return qfleet.train(environment, out=out, on_status=on_status, network=network, **(TINY | changes))


def final_checkpoint(run: Path) -> Path:
    return sorted(path for path in (run / "checkpoints").iterdir() if path.name.isdigit())[-1]


def files_of(checkpoint: Path) -> dict[str, Any]:
    """Every file's bytes; of those that hold a clock's reading, the content without it."""
    files: dict[str, Any] = {
        str(path.relative_to(checkpoint)): path.read_bytes() for path in checkpoint.rglob("*")
    }
    files["state.json"] = json.loads(files["state.json"])
    assert files["state.json"]["run"]["counters"].pop("seconds") > 0
    files["manifest.json"] = json.loads(files["manifest.json"])["streams"]
    return files


def assert_same_bits(first: Path, second: Path) -> None:
    """The final checkpoints of two runs are equal, and so are their best ones."""
    one, two = final_checkpoint(first), final_checkpoint(second)
    assert one.name == two.name
    assert_equal_files(files_of(one), files_of(two))
    best = [sorted((run / "checkpoints/best").iterdir())[-1] for run in (first, second)]
    assert best[0].name == best[1].name
    arrays = [(path / "arrays.safetensors").read_bytes() for path in best]
    assert arrays[0] == arrays[1]


def assert_equal_files(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert set(one) == set(two)
    for name in one:
        assert one[name] == two[name], name
