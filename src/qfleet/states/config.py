"""How the states of a table are made from an environment's observations."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from qfleet.environments.config import EnvironmentConfig
from qfleet.errors import QfleetError
from qfleet.tabular.support import Stepping

ChosenStepping = Literal["auto", "compiled", "python"]


@dataclass(frozen=True)
class StatesConfig:
    """How a table's environment is stepped, and which of its states is which row."""

    stepping: ChosenStepping = "auto"
    """compiled: in the learning kernel, which takes worlds and environments with a table; python; auto: what works."""
    discretize: int = 0
    """Bins of every dimension of Box observations; 0: only whole numbers are states."""
    tilings: int = 0
    """Overlapping grids of --discretize bins each (tile coding); 0: one grid, whose cells are states."""
    bounds: tuple[float, ...] = ()
    """Lowest and highest value of each dimension, in turn: low high low high; empty: quantiles of random play."""
    max_episode_steps: int = 0
    """Steps after which an episode is truncated; 0: as the environment says."""
    wrappers: tuple[str, ...] = ()
    """Gymnasium wrappers, innermost first: Name, Name=value or Name=key:value,key:value; steps in Python."""
    environment_options: tuple[str, ...] = ()
    """Options of the environment itself, as key=value (is_slippery=False)."""
    import_modules: tuple[str, ...] = ()
    """Modules to import first, because they register environments; the current folder is searched too."""

    def __post_init__(self) -> None:
        if self.stepping not in get_args(ChosenStepping):
            raise QfleetError(
                f"stepping is {self.stepping!r}; it must be one of {', '.join(get_args(ChosenStepping))}"
            )
        for name in ("discretize", "tilings", "max_episode_steps"):
            if getattr(self, name) < 0:
                raise QfleetError(f"{name} is {getattr(self, name)}; it must not be negative")
        self._check_bins()
        for option in self.environment_options:
            if not option.partition("=")[0].isidentifier() or "=" not in option:
                raise QfleetError(f"environment option {option!r} should read key=value")

    def _check_bins(self) -> None:
        if self.discretize == 1:
            raise QfleetError("discretize is 1; at least 2 bins tell states apart")
        if self.tilings and not self.discretize:
            raise QfleetError(
                f"tilings {self.tilings} needs the bins of each tiling too: --discretize 8 --tilings {self.tilings}"
            )
        if self.bounds and not self.discretize:
            raise QfleetError("bounds have an effect only with --discretize")
        pairs = list(zip(self.bounds[::2], self.bounds[1::2], strict=False))
        if len(self.bounds) % 2 or not all(math.isfinite(high - low) and low < high for low, high in pairs):
            raise QfleetError(
                f"bounds are {' '.join(f'{bound:g}' for bound in self.bounds)}; give a finite low and a higher "
                "high for every dimension, in turn: --bounds -4.8 4.8 -3 3"
            )
        if self.stepping == "compiled" and (self.discretize or self.wrappers):
            given = "discretize" if self.discretize else "wrappers"
            raise QfleetError(f"{given} and stepping compiled: what is {given} for is stepped in Python")

    @property
    def known_stepping(self) -> Stepping | None:
        """How the environment is surely stepped, whichever it is; None where that depends on it."""
        if self.tilings:
            return "tiles"
        if self.discretize or self.wrappers or self.stepping == "python":
            return "python"
        return "compiled" if self.stepping == "compiled" else None

    def environments(self) -> EnvironmentConfig:
        """How one of them is made."""
        return EnvironmentConfig(
            num_envs=1,
            wrappers=self.wrappers,
            environment_options=self.environment_options,
            import_modules=self.import_modules,
        )
