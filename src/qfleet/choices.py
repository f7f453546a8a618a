"""What can be chosen by name: algorithms, topologies and backends, each with the class of its settings."""

from typing import Literal, TypeGuard, get_args

from qfleet.deep.dqn import DQNConfig
from qfleet.deep.reinforce import ReinforceConfig
from qfleet.environments.config import EnvironmentConfig
from qfleet.states.config import StatesConfig
from qfleet.tabular.config import TabularConfig
from qfleet.tabular.program import Rule
from qfleet.topologies.ape_x_config import ApeXConfig
from qfleet.topologies.async_n_step import AsyncNStepConfig
from qfleet.topologies.asynchronous import AsynchronousConfig
from qfleet.topologies.averaged import AveragedConfig
from qfleet.topologies.data_parallel import DataParallelConfig
from qfleet.topologies.data_parallel_episodes import EpisodesConfig
from qfleet.topologies.model_parallel import ModelParallelConfig
from qfleet.topologies.overlapped import OverlappedConfig
from qfleet.topologies.parameter_server import ParameterServerConfig, ServerConfig
from qfleet.topologies.partitioned import PartitionedConfig
from qfleet.topologies.pooled import PooledConfig
from qfleet.topologies.serial import SerialConfig, TableSerialConfig
from qfleet.topologies.shared import SharedConfig
from qfleet.topologies.table_agent import TableAsynchronousConfig
from qfleet.topologies.table_source import TableServerConfig

DeepAlgorithm = Literal["dqn"]
PolicyAlgorithm = Literal["reinforce"]
Algorithm = Literal[Rule, DeepAlgorithm, PolicyAlgorithm]
Kind = Literal["table", "deep", "policy"]
"""What the values are: a table, a network of action values, or one of a policy."""
TopologyName = Literal[
    "serial",
    "shared",
    "averaged",
    "partitioned",
    "overlapped",
    "data-parallel",
    "model-parallel",
    "pooled",
    "asynchronous",
    "async-n-step",
    "parameter-server",
    "ape-x",
]
Device = Literal["auto", "cpu", "cuda"]
Exact = Literal["auto", "yes", "no"]
DeepTopologyConfig = (
    OverlappedConfig
    | SerialConfig
    | AveragedConfig
    | DataParallelConfig
    | ModelParallelConfig
    | PooledConfig
    | AsynchronousConfig
    | AsyncNStepConfig
    | ParameterServerConfig
    | ApeXConfig
)
TableTopologyConfig = (
    TableSerialConfig
    | SharedConfig
    | AveragedConfig
    | PartitionedConfig
    | TableServerConfig
    | TableAsynchronousConfig
)
TopologyConfig = DeepTopologyConfig | TableTopologyConfig | EpisodesConfig | ServerConfig

ALGORITHM_CONFIGS: dict[Algorithm, type[DQNConfig] | type[TabularConfig] | type[ReinforceConfig]] = {
    **dict.fromkeys(get_args(Rule), TabularConfig),
    "dqn": DQNConfig,
    "reinforce": ReinforceConfig,
}
TOPOLOGY_CONFIGS: dict[Kind, dict[TopologyName, type[TopologyConfig]]] = {
    "table": {
        "serial": TableSerialConfig,
        "shared": SharedConfig,
        "averaged": AveragedConfig,
        "partitioned": PartitionedConfig,
        "parameter-server": TableServerConfig,
        "asynchronous": TableAsynchronousConfig,
    },
    "deep": {
        "overlapped": OverlappedConfig,
        "serial": SerialConfig,
        "averaged": AveragedConfig,
        "data-parallel": DataParallelConfig,
        "model-parallel": ModelParallelConfig,
        "pooled": PooledConfig,
        "asynchronous": AsynchronousConfig,
        "async-n-step": AsyncNStepConfig,
        "parameter-server": ParameterServerConfig,
        "ape-x": ApeXConfig,
    },
    "policy": {"serial": EpisodesConfig, "data-parallel": EpisodesConfig, "parameter-server": ServerConfig},
}
"""By name, the default first."""
ENGINE_CONFIGS: dict[Kind, type[EnvironmentConfig] | type[StatesConfig]] = {
    "table": StatesConfig,
    "deep": EnvironmentConfig,
    "policy": EnvironmentConfig,
}


def is_rule(algorithm: Algorithm) -> TypeGuard[Rule]:
    """Whether it improves a table."""
    return algorithm in get_args(Rule)


def kind_of(algorithm: Algorithm) -> Kind:
    """What an algorithm improves."""
    if algorithm in get_args(PolicyAlgorithm):
        return "policy"
    return "table" if is_rule(algorithm) else "deep"


def default_topology(kind: Kind) -> TopologyName:
    """What a run has if it is not told otherwise."""
    return next(iter(TOPOLOGY_CONFIGS[kind]))
