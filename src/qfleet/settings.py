"""Everything a run was asked to do, as frozen dataclasses, and its way to JSON and back."""

import dataclasses
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from qfleet.deep.dqn import DQNConfig
from qfleet.environments.config import EnvironmentConfig
from qfleet.errors import QfleetError
from qfleet.topologies.overlapped import OverlappedConfig
from qfleet.topologies.serial import SerialConfig

Algorithm = Literal["dqn"]
TopologyName = Literal["overlapped", "serial"]
Backend = Literal["threads"]
Device = Literal["auto", "cpu", "cuda"]
TopologyConfig = OverlappedConfig | SerialConfig

ALGORITHM_CONFIGS: dict[Algorithm, type[DQNConfig]] = {"dqn": DQNConfig}
TOPOLOGY_CONFIGS: dict[TopologyName, type[TopologyConfig]] = {
    "overlapped": OverlappedConfig,
    "serial": SerialConfig,
}


@dataclass(frozen=True)
class RunConfig:
    """What to train, for how long, and what to keep."""

    algorithm: Algorithm = "dqn"
    """What improves the values."""
    topology: TopologyName = "overlapped"
    """Who learns and what they tell one another."""
    backend: Backend = "threads"
    """Where workers run."""
    workers: int = 1
    """Members of the topology that learn."""
    steps: int = 100_000
    """Environment steps after which the run stops."""
    episodes: int = 0
    """Episodes after which the run stops; 0: no limit."""
    until_return: float | None = None
    """Mean greedy return at which the run stops; unset: the environment's own threshold; inf: never."""
    seed: int = 0
    """Seed of everything random."""
    device: Device = "auto"
    """Where PyTorch runs networks; auto keeps small networks on the CPU and takes CUDA, if there is one, for others."""
    evaluate_every_steps: int = 0
    """Steps between greedy evaluations, the best of which is kept; 0: a twentieth of --steps."""
    evaluation_episodes: int = 20
    """Episodes of each of them."""
    final_episodes: int = 100
    """Greedy episodes of the evaluation in the summary, and of the one that confirms until_return."""
    max_evaluation_steps: int = 27_000
    """Steps after which an evaluation's episode is cut off."""
    checkpoint_every_steps: int = 0
    """Steps between checkpoints; 0: a tenth of --steps, at most 250000."""
    keep_checkpoints: int = 3
    """Newest checkpoints kept."""
    warm_start: str = ""
    """Run folder whose values to begin from; it must have the same network."""

    def __post_init__(self) -> None:
        for name, known in (
            ("algorithm", get_args(Algorithm)),
            ("topology", get_args(TopologyName)),
            ("backend", get_args(Backend)),
            ("device", get_args(Device)),
        ):
            if getattr(self, name) not in known:
                raise QfleetError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}")
        for name in (
            "steps",
            "evaluation_episodes",
            "final_episodes",
            "max_evaluation_steps",
            "keep_checkpoints",
        ):
            if getattr(self, name) < 1:
                raise QfleetError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("episodes", "evaluate_every_steps", "checkpoint_every_steps", "seed"):
            if getattr(self, name) < 0:
                raise QfleetError(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.workers != 1:
            raise QfleetError(
                f"--workers {self.workers} with --topology {self.topology}: serial and overlapped have 1 worker"
            )

    @property
    def evaluation_interval(self) -> int:
        """Steps between evaluations."""
        return self.evaluate_every_steps or max(1, self.steps // 20)

    @property
    def checkpoint_interval(self) -> int:
        """Steps between checkpoints."""
        return self.checkpoint_every_steps or max(1, min(self.steps // 10, 250_000))


@dataclass(frozen=True)
class Settings:
    """A whole run's settings."""

    environment: str
    """The environment's id, or the name of the object it was made from."""
    run: RunConfig = field(default_factory=RunConfig)
    engine: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    algorithm: DQNConfig = field(default_factory=DQNConfig)
    topology: TopologyConfig = field(default_factory=OverlappedConfig)
    objects: tuple[str, ...] = ()
    """What was handed in as Python objects, and so has to be again: environment, network."""

    def __post_init__(self) -> None:
        expected = TOPOLOGY_CONFIGS[self.run.topology]
        if not isinstance(self.topology, expected):
            raise QfleetError(f"topology {self.run.topology} takes {expected.__name__}")

    def with_topology(self, name: TopologyName) -> "Settings":
        """Under another topology, which keeps the settings that both have."""
        if name == self.run.topology:
            return self
        chosen = TOPOLOGY_CONFIGS[name]
        shared = {item.name for item in fields(chosen)} & {item.name for item in fields(self.topology)}
        topology = chosen(**{key: getattr(self.topology, key) for key in shared})
        return replace(self, run=replace(self.run, topology=name), topology=topology)

    def to_json(self) -> dict[str, Any]:
        """As config.json holds them."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> "Settings":
        """The reverse; raises QfleetError for a key that is unknown, so that none is silently ignored."""
        known = {"environment", "run", "engine", "algorithm", "topology", "objects"}
        if unknown := sorted(set(value) - known):
            raise QfleetError(f"config: unknown section {unknown[0]!r}; known are {', '.join(sorted(known))}")
        if not isinstance(value.get("environment"), str):
            raise QfleetError("config: 'environment' is missing; it names what to train on")
        objects = value.get("objects", [])
        if not isinstance(objects, list) or any(name not in ("environment", "network") for name in objects):
            raise QfleetError(f"config: objects is {objects!r}; it may list 'environment' and 'network'")
        run = _from_json(RunConfig, value.get("run", {}), "run")
        return Settings(
            value["environment"],
            run,
            _from_json(EnvironmentConfig, value.get("engine", {}), "engine"),
            _from_json(ALGORITHM_CONFIGS[run.algorithm], value.get("algorithm", {}), "algorithm"),
            _from_json(TOPOLOGY_CONFIGS[run.topology], value.get("topology", {}), "topology"),
            tuple(objects),
        )


def _from_json(config_class: type, values: Any, section: str) -> Any:
    if not isinstance(values, dict):
        raise QfleetError(f"config: section {section!r} must be an object")
    fields = {item.name: item for item in dataclasses.fields(config_class)}
    if unknown := sorted(set(values) - set(fields)):
        raise QfleetError(f"config: {section} has no setting {unknown[0]!r}; known are {', '.join(fields)}")
    return config_class(**{name: _checked(fields[name], value, section) for name, value in values.items()})


def _checked(item: dataclasses.Field, value: Any, section: str) -> Any:
    """The value of one field from JSON; lists become tuples, and the type must fit."""
    if isinstance(value, list):
        value = tuple(value)
    choices = get_args(item.type)
    if choices and all(isinstance(choice, str) for choice in choices):
        fits = value in choices
    elif item.type == float | None:
        fits = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    elif item.type is float:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
    elif item.type is int:
        fits = isinstance(value, int) and not isinstance(value, bool)
    elif item.type in (bool, str):
        fits = isinstance(value, item.type)
    else:
        fits = isinstance(value, tuple) and all(type(element) is choices[0] for element in value)
    if not fits:
        named = choices and all(isinstance(choice, str) for choice in choices)
        wanted = ", ".join(map(repr, choices)) if named else getattr(item.type, "__name__", item.type)
        raise QfleetError(f"config: {section}.{item.name} is {value!r}; it must be {wanted}")
    return value
