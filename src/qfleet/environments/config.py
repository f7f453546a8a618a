"""The settings of the environments, each one a flag of the command line."""

from dataclasses import dataclass
from typing import Literal, get_args

from qfleet.errors import QfleetError

Engine = Literal["auto", "registered", "in-process", "processes", "envpool", "ale"]


@dataclass(frozen=True)
class EnvironmentConfig:
    """How many environments step together, on what engine, and what is wrapped around each."""

    num_envs: int = 8
    """Environments that step together."""
    engine: Engine = "auto"
    """What steps them; auto picks the environment's own vector version, this process, or processes."""
    wrappers: tuple[str, ...] = ()
    """Gymnasium wrappers, innermost first: Name, Name=value or Name=key:value,key:value (TimeLimit=200)."""
    environment_options: tuple[str, ...] = ()
    """Options of the environment itself, as key=value (is_slippery=False)."""
    import_modules: tuple[str, ...] = ()
    """Modules to import first, because they register environments; the current folder is searched too."""
    num_processes: int = 0
    """Processes of the engine `processes`; 0 takes one a core."""
    step_timeout_seconds: float = 60
    """How long one step may take in the engine `processes` before it is reported as hanging."""

    def __post_init__(self) -> None:
        if self.num_envs < 1:
            raise QfleetError(f"num_envs is {self.num_envs}, it should be at least 1")
        if self.engine not in get_args(Engine):
            raise QfleetError(f"engine {self.engine!r} is unknown; {', '.join(get_args(Engine))} are known")
        if self.num_processes < 0:
            raise QfleetError(f"num_processes is {self.num_processes}, it should be 0 (one a core) or more")
        if not self.step_timeout_seconds > 0:
            raise QfleetError(f"step_timeout_seconds is {self.step_timeout_seconds}, it should be above 0")
        for option in self.environment_options:
            if not option.partition("=")[0].isidentifier() or "=" not in option:
                raise QfleetError(f"environment option {option!r} should read key=value")
