"""Everything a run was asked to do, as frozen dataclasses, and its way to JSON and back."""

import dataclasses
from dataclasses import dataclass, field, fields, replace
from typing import Any, get_args

from qfleet.choices import (
    ALGORITHM_CONFIGS,
    ENGINE_CONFIGS,
    TOPOLOGY_CONFIGS,
    Algorithm,
    Device,
    Exact,
    Kind,
    TopologyConfig,
    TopologyName,
    is_rule,
    kind_of,
)
from qfleet.deep.dqn import DQNConfig
from qfleet.deep.reinforce import ReinforceConfig
from qfleet.deep.support import BACKENDS, Backend, is_of_services, refuse_unsupported_backend
from qfleet.environments.config import EnvironmentConfig
from qfleet.errors import QfleetError
from qfleet.json_fields import dataclass_from_json
from qfleet.states.config import StatesConfig
from qfleet.tabular.config import TabularConfig
from qfleet.tabular.program import Rule
from qfleet.tabular.support import SERVICES, refuse_unsupported
from qfleet.topologies.averaged import AveragedConfig
from qfleet.topologies.overlapped import OverlappedConfig
from qfleet.topologies.partitioned import PartitionedConfig

_ONE_WORKER = ("serial", "overlapped")
_ALONE: dict[str, Any] = {
    "workers": 1,
    "backend": "threads",
    "address": "",
    "interface": "",
    "max_workers": 0,
    "restarts": None,
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
    address: str = ""
    """Ray: HOST:PORT of the cluster that runs, or auto for this machine's; else one is started here for the run."""
    interface: str = ""
    """Ray: the network interface on which workers speak to one another; else that of their node's address."""
    workers: int = 1
    """Members of the topology that learn."""
    max_workers: int = 0
    """Ray: as many workers as the cluster has CPUs, up to so many, also when nodes come and go; 0: --workers."""
    restarts: int | None = None
    """Times that lost workers are replaced; left out: 3 on Ray, and for services on processes; else 0."""
    steps: int = 100_000
    """Environment steps, of all workers together, after which the run stops."""
    episodes: int = 0
    """Episodes after which the run stops; 0: no limit."""
    until_return: float | None = None
    """Mean greedy return at which the run stops; unset: the environment's own threshold; inf: never."""
    until_change: float | None = None
    """Tables: the run stops once no value has changed by more than this in a round."""
    until_error: float | None = None
    """Tables: the run stops once no value is further than this from the exact one, where that is known."""
    exact: Exact = "auto"
    """Tables: whether to solve the environment exactly, to know that error; auto: up to 5 million pairs."""
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
    """Steps between checkpoints; 0: a tenth of --steps, for networks at most 250000."""
    keep_checkpoints: int = 3
    """Newest checkpoints kept."""
    warm_start: str = ""
    """Run folder whose values to begin from, of the same network or of a table of the same shape."""

    def __post_init__(self) -> None:
        for name, known in (
            ("algorithm", get_args(Algorithm)),
            ("topology", get_args(TopologyName)),
            ("backend", get_args(Backend)),
            ("device", get_args(Device)),
            ("exact", get_args(Exact)),
        ):
            if getattr(self, name) not in known:
                raise QfleetError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}")
        for name in (
            "steps",
            "workers",
            "evaluation_episodes",
            "final_episodes",
            "max_evaluation_steps",
            "keep_checkpoints",
        ):
            if getattr(self, name) < 1:
                raise QfleetError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("episodes", "evaluate_every_steps", "checkpoint_every_steps", "seed", "max_workers"):
            if getattr(self, name) < 0:
                raise QfleetError(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.restarts is not None and self.restarts < 0:
            raise QfleetError(f"restarts is {self.restarts}; it must not be negative")
        for name in ("until_change", "until_error"):
            limit = getattr(self, name)
            if limit is not None and not limit >= 0:
                raise QfleetError(f"{name} is {limit}; it must not be negative")
        _refuse_in_run(self)

    @property
    def allowed_restarts(self) -> int:
        """Times that lost workers are replaced; left out: 3 on Ray, and for services on processes; else 0."""
        if self.restarts is not None:
            return self.restarts
        # Elsewhere on processes it costs a second table in memory.
        is_cheap = self.backend == "processes" and is_of_services(self.topology)
        return 3 if self.backend == "ray" or is_cheap else 0

    @property
    def evaluation_interval(self) -> int:
        """Steps between evaluations."""
        return self.evaluate_every_steps or max(1, self.steps // 20)

    @property
    def checkpoint_interval(self) -> int:
        """Steps between checkpoints."""
        most = self.steps if is_rule(self.algorithm) else 250_000
        return self.checkpoint_every_steps or max(1, min(self.steps // 10, most))


def _refuse_in_run(run: RunConfig) -> None:
    """Raises QfleetError for settings of a run that cannot be together."""
    known = TOPOLOGY_CONFIGS[kind_of(run.algorithm)]
    if run.topology not in known:
        raise QfleetError(
            f"--topology {run.topology} does not work with --algorithm {run.algorithm}; {', '.join(known)} do"
        )
    if run.workers != 1 and run.topology in _ONE_WORKER:
        others = [name for name in known if name not in _ONE_WORKER]
        raise QfleetError(
            f"--workers {run.workers}: --topology {run.topology} has 1 worker; {', '.join(others)} have more"
        )
    for name in ("address", "interface"):
        if getattr(run, name) and run.backend != "ray":
            given = f"--{name} {getattr(run, name)}"
            raise QfleetError(f"{given} is for --backend ray; this run's backend is {run.backend}")
    _refuse_to_replace(run)
    if is_rule(run.algorithm):
        _refuse_for_tables(run)
    else:
        _refuse_for_networks(run)


def _refuse_to_replace(run: RunConfig) -> None:
    """Raises QfleetError where workers cannot be replaced, or made more."""
    if run.restarts and run.backend not in ("processes", "ray"):
        why = (
            "a rank that dies ends its job" if run.backend == "mpi" else "a thread that hangs cannot be ended"
        )
        raise QfleetError(
            f"--restarts {run.restarts}: --backend {run.backend} cannot replace workers, as {why}; ray and processes "
            "can, and qfleet resume goes on from the last checkpoint"
        )
    if run.max_workers and run.backend != "ray":
        raise QfleetError(f"--max-workers is for --backend ray; this run's backend is {run.backend}")
    if 0 < run.max_workers < run.workers:
        raise QfleetError(f"--max-workers {run.max_workers} is less than --workers {run.workers}")


def _refuse_for_tables(run: RunConfig) -> None:
    if run.device != "auto":
        raise QfleetError(
            f"--device {run.device} is for networks; --algorithm {run.algorithm} learns a table"
        )
    if run.until_error is not None and run.exact == "no":
        raise QfleetError("--until-error needs the exact solution; leave out --exact no")
    if run.topology not in SERVICES:
        return
    if run.until_change is not None:
        raise QfleetError(
            f"--until-change is of a round, and --topology {run.topology} has none; --until-error works where the "
            "exact solution is known"
        )
    if run.max_workers:
        raise QfleetError(
            f"--max-workers: --topology {run.topology} keeps as many workers as it has; averaged works"
        )


def _refuse_for_networks(run: RunConfig) -> None:
    for name in ("until_change", "until_error"):
        if getattr(run, name) is not None:
            flag = f"--{name.replace('_', '-')}"
            raise QfleetError(f"{flag} is for tables; --algorithm {run.algorithm} learns a network")
    if run.exact != "auto":
        raise QfleetError(f"--exact is for tables; --algorithm {run.algorithm} learns a network")
    refuse_unsupported_backend(run.topology, run.backend, tuple(TOPOLOGY_CONFIGS[kind_of(run.algorithm)]))
    if run.max_workers:
        raise QfleetError("--max-workers is for tables; the workers of networks stay as many as they are")


@dataclass(frozen=True)
class Settings:
    """A whole run's settings."""

    environment: str
    """The environment's id, or the name of the object it was made from."""
    run: RunConfig = field(default_factory=RunConfig)
    engine: EnvironmentConfig | StatesConfig = field(default_factory=EnvironmentConfig)
    algorithm: DQNConfig | TabularConfig | ReinforceConfig = field(default_factory=DQNConfig)
    topology: TopologyConfig = field(default_factory=OverlappedConfig)
    objects: tuple[str, ...] = ()
    """What was handed in as Python objects, and so has to be again: environment, network."""

    def __post_init__(self) -> None:
        kind = kind_of(self.run.algorithm)
        for name, config, expected in (
            (f"algorithm {self.run.algorithm}", self.algorithm, ALGORITHM_CONFIGS[self.run.algorithm]),
            (f"algorithm {self.run.algorithm}", self.engine, ENGINE_CONFIGS[kind]),
            (f"topology {self.run.topology}", self.topology, TOPOLOGY_CONFIGS[kind][self.run.topology]),
        ):
            if not isinstance(config, expected):
                raise QfleetError(f"{name} takes {expected.__name__}, not {type(config).__name__}")
        if is_rule(self.run.algorithm):
            self._refuse_for_rule(self.run.algorithm)
        elif isinstance(self.topology, AveragedConfig):
            self.topology.refuse_for_networks()

    def _refuse_for_rule(self, rule: Rule) -> None:
        self.tabular.refuse_for(rule)
        if isinstance(self.topology, PartitionedConfig):
            self.topology.refuse_for(rule)
        stepping = self.states.known_stepping
        if stepping is not None:
            refuse_unsupported(rule, self.run.topology, self.run.backend, stepping)
        elif self.run.topology == "serial":
            refuse_unsupported(rule, "serial", self.run.backend, "compiled")

    @property
    def kind(self) -> Kind:
        """What the run's values are."""
        return kind_of(self.run.algorithm)

    @property
    def rule(self) -> Rule:
        """By which a table learns."""
        assert is_rule(self.run.algorithm)
        return self.run.algorithm

    @property
    def tabular(self) -> TabularConfig:
        """What a table learns by."""
        assert isinstance(self.algorithm, TabularConfig)
        return self.algorithm

    @property
    def states(self) -> StatesConfig:
        """How a table's states are made."""
        assert isinstance(self.engine, StatesConfig)
        return self.engine

    @property
    def dqn(self) -> DQNConfig:
        """What a network learns by."""
        assert isinstance(self.algorithm, DQNConfig)
        return self.algorithm

    @property
    def reinforce(self) -> ReinforceConfig:
        """What a policy learns by."""
        assert isinstance(self.algorithm, ReinforceConfig)
        return self.algorithm

    @property
    def network(self) -> DQNConfig | ReinforceConfig:
        """What a network of either kind learns by."""
        assert not isinstance(self.algorithm, TabularConfig)
        return self.algorithm

    @property
    def environments(self) -> EnvironmentConfig:
        """How a network's environments are stepped, or one of those that a table's states come from is made."""
        return self.engine if isinstance(self.engine, EnvironmentConfig) else self.engine.environments()

    def with_topology(self, name: TopologyName) -> "Settings":
        """Under another topology, which keeps the settings that both have."""
        known = TOPOLOGY_CONFIGS[self.kind]
        if name not in known:
            return replace(self, run=replace(self.run, topology=name))  # which says what works
        if name == self.run.topology:
            return self
        alone: dict[str, Any] = _ALONE if name in _ONE_WORKER else {}
        backend = self.run.backend
        if self.kind != "table" and not alone and backend not in BACKENDS[name]:
            backend = BACKENDS[name][0]
        run = replace(self.run, **{"topology": name, "backend": backend} | alone)
        return replace(self, run=run, topology=_carried_over(self.topology, known[name]))

    def with_algorithm(self, name: Algorithm) -> "Settings":
        """By another algorithm; of the same kind of values, it keeps all settings that have an effect on it too."""
        if kind_of(name) != self.kind:
            raise QfleetError(
                f"this config is of a run by {self.run.algorithm}; --algorithm {name} cannot take its settings, "
                f"since it learns a {'table' if is_rule(name) else 'network'}"
            )
        return replace(self, run=replace(self.run, algorithm=name))

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
        run = dataclass_from_json(RunConfig, value.get("run", {}), "run")
        kind = kind_of(run.algorithm)
        return Settings(
            value["environment"],
            run,
            dataclass_from_json(ENGINE_CONFIGS[kind], value.get("engine", {}), "engine"),
            dataclass_from_json(ALGORITHM_CONFIGS[run.algorithm], value.get("algorithm", {}), "algorithm"),
            dataclass_from_json(TOPOLOGY_CONFIGS[kind][run.topology], value.get("topology", {}), "topology"),
            tuple(objects),
        )


def _carried_over(config: Any, chosen: Any) -> Any:
    """Another config with the values of the fields that both have."""
    common = {item.name for item in fields(chosen)} & {item.name for item in fields(config)}
    return chosen(**{key: getattr(config, key) for key in common})
