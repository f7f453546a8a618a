"""The flags of `qfleet train`: every field of every config, with the defaults of that very environment."""

from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, get_args

import tyro

from qfleet.choices import (
    ALGORITHM_CONFIGS,
    ENGINE_CONFIGS,
    TOPOLOGY_CONFIGS,
    Algorithm,
    Kind,
    TopologyName,
    kind_of,
)
from qfleet.cli.flags import Flag, GivenArguments, flags_of, take_apart
from qfleet.cli.parsing import convert, show_help, wants_help
from qfleet.environments.config import EnvironmentConfig
from qfleet.errors import QfleetError
from qfleet.experiment import read_settings, starting_settings, with_ranks
from qfleet.settings import RunConfig, Settings
from qfleet.states.config import StatesConfig
from qfleet.tuned import default_settings, owner_of

Switch = tyro.conf.FlagCreatePairsOff[bool]


@dataclass(frozen=True)
class EngineFlags(EnvironmentConfig):
    """How many environments step together, on what engine, and what is wrapped around each."""

    import_modules: Annotated[tuple[str, ...], tyro.conf.arg(name="import")] = ()


@dataclass(frozen=True)
class StatesFlags(StatesConfig):
    """How a table's environment is stepped, and which of its states is which row."""

    import_modules: Annotated[tuple[str, ...], tyro.conf.arg(name="import")] = ()


ENGINE_FLAGS: dict[Kind, type[EngineFlags] | type[StatesFlags]] = {
    "table": StatesFlags,
    "deep": EngineFlags,
    "policy": EngineFlags,
}


@dataclass(frozen=True)
class TrainFlags:
    """Teaches an agent in ENVIRONMENT (qfleet environments lists them).

    The flags and the defaults shown are those of the environment, the algorithm and the topology that stand
    beside --help.
    """

    environment: Annotated[
        tyro.conf.Positional[str], tyro.conf.arg(metavar="ENVIRONMENT", help_behavior_hint="")
    ]
    """What to train on: Gymnasium's id, a world (GridWorld-64) or module:NAME; with --config it may be left out."""
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
    first_look = take_apart("train", _all_flags(), plain)
    settings = with_ranks(_starting_settings(first_look), " ".join(first_look.values.get("backend", [])))
    kind, run = settings.kind, settings.run
    flags_class = _flags_class(kind, run.algorithm, run.topology)
    flags = list(flags_of(flags_class))
    _refuse_others(flags, plain, run)
    given = take_apart("train", flags, plain)
    default = flags_class(settings.environment, **_sections(settings))
    if wants_help(arguments):
        show_help("train", flags_class, default)
    if not settings.environment:
        raise QfleetError(
            "train needs an ENVIRONMENT: qfleet train CartPole-v1 (qfleet environments lists them)"
        )
    parsed = convert("train", flags_class, flags, given, default)
    return parsed, _settings_of(parsed)


def _all_flags() -> list[Flag]:
    """Of every algorithm and topology, each once: to look at a command line before it is known which are its own."""
    configs: list[type] = [TrainFlags, RunConfig, *ENGINE_FLAGS.values(), *ALGORITHM_CONFIGS.values()]
    configs += [config for known in TOPOLOGY_CONFIGS.values() for config in known.values()]
    return list({flag.name: flag for config in configs for flag in flags_of(config)}.values())


def _starting_settings(given: GivenArguments) -> Settings:
    """What the flags go on top of: a config's settings, or those that suit the environment."""
    asked = _asked(given)
    environment = next(iter(given.positionals), None)
    path = "".join(given.values.get("config", []))
    if path:
        return _from_config(read_settings(Path(path)), environment, asked)
    if environment is None:
        return default_settings("", **asked)
    return starting_settings(environment, asked | _asked_of_states(given))


def _asked(given: GivenArguments) -> dict[str, Any]:
    """The algorithm and the topology asked for; unknown ones are refused here."""
    asked: dict[str, Any] = {}
    flags = {flag.name: flag for flag in flags_of(RunConfig)}
    for name in ("algorithm", "topology"):
        value = " ".join(given.values.get(name, []))
        if value and value not in get_args(flags[name].type):
            raise QfleetError(f"--{name} {value}: it takes {flags[name].takes}")
        if value:
            asked[name] = value
    return asked


def _asked_of_states(given: GivenArguments) -> dict[str, Any]:
    """What else decides whether a table is learned, and of what."""
    flags = [flag for flag in flags_of(StatesFlags) if flag.name in given.values]
    values = {flag.name: given.values[flag.name] for flag in flags}
    parsed = convert("train", StatesFlags, flags, GivenArguments([], values))
    return {name: value for name, value in vars(parsed).items() if value != getattr(StatesConfig, name)}


def _from_config(base: Settings, environment: str | None, asked: dict[str, Any]) -> Settings:
    needed = [name for name in base.objects if name == "network" or environment is None]
    if needed:
        raise QfleetError(
            f"this config is of a run made from Python objects ({', '.join(needed)}); "
            "in Python, qfleet.train(environment, config=..., network=...) takes them again"
        )
    settings = base.with_algorithm(asked.get("algorithm", base.run.algorithm))
    settings = settings.with_topology(asked.get("topology", base.run.topology))
    return replace(settings, environment=environment or base.environment, objects=())


def _flags_class(kind: Kind, algorithm: Algorithm, topology: TopologyName) -> type[TrainFlags]:
    """TrainFlags with the four sections of settings, each of the class that this run has."""
    sections = {
        "run": RunConfig,
        "engine": ENGINE_FLAGS[kind],
        "algorithm": ALGORITHM_CONFIGS[algorithm],
        "topology": TOPOLOGY_CONFIGS[kind][topology],
    }
    fields = [(name, section, field(default_factory=section)) for name, section in sections.items()]
    made = make_dataclass("TrainFlags", fields, bases=(TrainFlags,), frozen=True)
    made.__doc__ = TrainFlags.__doc__
    return made


def _refuse_others(flags: Sequence[Flag], arguments: Sequence[str], run: RunConfig) -> None:
    """Raises QfleetError for a flag of another algorithm or topology."""
    own = {flag.name for flag in flags}
    for flag in _all_flags():
        if flag.name in own or not any(_spells(argument, flag) for argument in arguments):
            continue
        owner = owner_of(flag.name.replace("-", "_"), kind_of(run.algorithm))
        this = run.topology if owner.startswith("--topology") else run.algorithm
        raise QfleetError(f"--{flag.name} belongs to {owner}; this run's is {this}")


def _spells(argument: str, flag: Flag) -> bool:
    """Whether it is that flag, however it is typed."""
    typed = argument.partition("=")[0].replace("_", "-")
    return typed in (f"--{flag.name}", f"--no-{flag.name}")


def _sections(settings: Settings) -> dict[str, Any]:
    return {
        "run": settings.run,
        "engine": ENGINE_FLAGS[settings.kind](**vars(settings.engine)),
        "algorithm": settings.algorithm,
        "topology": settings.topology,
    }


def _settings_of(parsed: Any) -> Settings:
    engine = ENGINE_CONFIGS[kind_of(parsed.run.algorithm)](**vars(parsed.engine))
    return Settings(parsed.environment, parsed.run, engine, parsed.algorithm, parsed.topology)
