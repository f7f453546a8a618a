"""Settings of partitioned: every worker owns some of the states, and their rows of the table are nowhere else."""

from dataclasses import dataclass
from typing import Literal, get_args

from qfleet.errors import QfleetError
from qfleet.tabular.learner import Task
from qfleet.tabular.program import Rule
from qfleet.topologies.checks import refuse_no_patience
from qfleet.topologies.sync_period import SyncEvery

CutName = Literal["blocks", "graph", "owners"]
Balance = Literal["counts", "measured", "none"]

_ROUND_STEPS = 2**20


@dataclass(frozen=True)
class PartitionedConfig:
    """Who owns what, and when workers tell one another."""

    sync_every_steps: int = 0
    """Most steps of each worker between two exchanges; 0: 1048576, and fewer in runs of fewer than 20 such rounds."""
    cut: CutName = "blocks"
    """blocks of states in their order; graph: few transitions across borders (METIS); owners: the file --owners."""
    owners: str = ""
    """A .npy file with the worker of each state, for the cut owners."""
    balance: Balance = "counts"
    """counts: borders move to where visits are even; measured: by how fast each worker is; none: they stay."""
    sync_every: SyncEvery = "steps"
    """steps: as --sync-every-steps says; auto: from there to where exchanges take under a tenth of the time."""
    overlap: bool = False
    """Exchange while the next round is computed: what is told across borders is then exactly one round older."""
    keep_shards: bool = False
    """Never put the table together: it is saved in shards, and looked up where it is needed."""
    stall_timeout_seconds: float = 60.0
    """A worker that is silent for longer ends the run with an error."""

    def __post_init__(self) -> None:
        if self.sync_every_steps < 0:
            raise QfleetError(f"sync_every_steps is {self.sync_every_steps}; it must not be negative")
        choices = (
            ("cut", get_args(CutName)),
            ("balance", get_args(Balance)),
            ("sync_every", get_args(SyncEvery)),
        )
        for name, known in choices:
            if getattr(self, name) not in known:
                raise QfleetError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}")
        if (self.cut == "owners") != bool(self.owners):
            raise QfleetError("--cut owners and --owners FILE go together: give both or neither")
        refuse_no_patience(self)

    def refuse_for(self, rule: Rule) -> None:
        """Raises QfleetError for what does not work with a rule."""
        if self.overlap and rule == "sarsa":
            raise QfleetError(
                "--overlap does not work with --algorithm sarsa, whose steps across a border wait for an answer "
                "before the next round; without --overlap it does, and expected-sarsa works with it"
            )

    def round_steps(self, task: Task) -> int:
        """Most steps of each worker in a round, to begin with."""
        if self.sync_every_steps:
            return self.sync_every_steps
        return max(1, min(_ROUND_STEPS, task.total_steps // (20 * task.num_workers)))
