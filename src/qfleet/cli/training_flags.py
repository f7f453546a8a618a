"""The flags of `qfleet train`: every field of every config, with the defaults of that very environment."""

from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, cast

import tyro

from qfleet.cli.flags import Flag, flags_of, take_apart
from qfleet.cli.parsing import convert, show_help, wants_help
from qfleet.environments.config import EnvironmentConfig
from qfleet.errors import QfleetError
from qfleet.experiment import make_settings, read_settings
from qfleet.settings import ALGORITHM_CONFIGS, TOPOLOGY_CONFIGS, RunConfig, Settings, TopologyName

Switch = tyro.conf.FlagCreatePairsOff[bool]


@dataclass(frozen=True)
class EngineFlags(EnvironmentConfig):
    """How many environments step together, on what engine, and what is wrapped around each."""

    import_modules: Annotated[tuple[str, ...], tyro.conf.arg(name="import")] = ()


@dataclass(frozen=True)
class TrainFlags:
    """Teaches an agent in ENVIRONMENT (qfleet environments lists them).

    The defaults shown are those of the environment and the topology that stand beside --help.
    """

    environment: Annotated[
        tyro.conf.Positional[str], tyro.conf.arg(metavar="ENVIRONMENT", help_behavior_hint="")
    ]
    """Gymnasium's id of what to train on; with --config it may be left out."""
    config: Annotated[str, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = ""
    """A config.json, or a run's folder, to take all settings from; flags go on top."""
    out: Annotated[str, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = ""
    """Folder of the run; else a new one in runs/."""
    seeds: Annotated[str, tyro.conf.arg(metavar="SEEDS", help_behavior_hint="")] = ""
    """Train once for each of these seeds, as 0-9 or 0,3,5, and report their mean and its interval."""
    json: Annotated[Switch, tyro.conf.arg(help_behavior_hint="")] = False
    """Print nothing but one JSON object, the summary, on standard output; all else goes to standard error."""
    quiet: Annotated[Switch, tyro.conf.arg(help_behavior_hint="")] = False
    """Show no progress."""


def read_train_flags(arguments: Sequence[str]) -> tuple[TrainFlags, Settings]:
    """The flags that are no settings, and the settings; SystemExit after help."""
    plain = [argument for argument in arguments if argument not in ("-h", "--help")]
    base = read_settings(Path(path)) if (path := _peek(plain, "config")) else None
    topology = _topology(_peek(plain, "topology"), base)
    flags_class = _flags_class(topology)
    flags = list(flags_of(flags_class))
    _refuse_other_topologies(flags, plain, topology)
    given = take_apart("train", flags, plain)
    settings = _starting_settings(next(iter(given.positionals), None), base, topology)
    default = flags_class(settings.environment, **_sections(settings))
    if wants_help(arguments):
        show_help("train", flags_class, default)
    if not settings.environment:
        raise QfleetError(
            "train needs an ENVIRONMENT: qfleet train CartPole-v1 (qfleet environments lists them)"
        )
    parsed = convert("train", flags_class, flags, given, default)
    return parsed, _settings_of(parsed)


def _peek(arguments: Sequence[str], name: str) -> str:
    """The value of one flag, before it is known which flags there are."""
    for index, argument in enumerate(arguments):
        typed, equals, value = argument.partition("=")
        if typed == f"--{name}":
            return value if equals else "".join(arguments[index + 1 : index + 2])
    return ""


def _topology(asked: str, base: Settings | None) -> TopologyName:
    """What was asked for; an unknown one is refused later, with all other values that do not fit."""
    if asked in TOPOLOGY_CONFIGS:
        return cast(TopologyName, asked)
    return RunConfig.topology if base is None else base.run.topology


def _flags_class(topology: TopologyName) -> type[TrainFlags]:
    """TrainFlags with the four sections of settings, the last one the topology's own."""
    sections = {
        "run": RunConfig,
        "engine": EngineFlags,
        "algorithm": ALGORITHM_CONFIGS[RunConfig.algorithm],
        "topology": TOPOLOGY_CONFIGS[topology],
    }
    fields = [(name, section, field(default_factory=section)) for name, section in sections.items()]
    made = make_dataclass("TrainFlags", fields, bases=(TrainFlags,), frozen=True)
    made.__doc__ = TrainFlags.__doc__
    return made


def _refuse_other_topologies(flags: Sequence[Flag], arguments: Sequence[str], topology: str) -> None:
    own, given = {flag.name for flag in flags}, {argument.partition("=")[0] for argument in arguments}
    for name, config_class in TOPOLOGY_CONFIGS.items():
        for flag in flags_of(config_class):
            if flag.name not in own and f"--{flag.name}" in given:
                raise QfleetError(f"--{flag.name} belongs to --topology {name}; this run's is {topology}")


def _starting_settings(environment: str | None, base: Settings | None, topology: TopologyName) -> Settings:
    """What the flags go on top of: a config's settings, or those tuned for the environment."""
    if base is None:
        return make_settings(environment or "", None, {"topology": topology})
    needed = [name for name in base.objects if name == "network" or environment is None]
    if needed:
        raise QfleetError(
            f"this config is of a run made from Python objects ({', '.join(needed)}); "
            "in Python, qfleet.train(environment, config=..., network=...) takes them again"
        )
    return replace(base.with_topology(topology), environment=environment or base.environment, objects=())


def _sections(settings: Settings) -> dict[str, Any]:
    engine = EngineFlags(**vars(settings.engine))
    return {
        "run": settings.run,
        "engine": engine,
        "algorithm": settings.algorithm,
        "topology": settings.topology,
    }


def _settings_of(parsed: Any) -> Settings:
    engine = EnvironmentConfig(**vars(parsed.engine))
    return Settings(parsed.environment, parsed.run, engine, parsed.algorithm, parsed.topology)
