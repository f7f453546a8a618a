"""What one worker's rounds told and left: counted for the reports."""

from collections.abc import Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.tabular.border import Arrived, num_told_of, walkers_of


@final
class Traffic:
    """Sums over rounds, of one worker."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._sent_bytes = self._sent_walkers = self._told_values = 0
        self._round_imbalance = 1.0
        self.parked = 0
        """Walkers that waited at a border, each round of theirs."""

    def note(self, messages: Sequence[NDArray[np.int64]]) -> None:
        """What is sent, (num_workers,) messages; that to itself is none."""
        others = [message for rank, message in enumerate(messages) if rank != self._rank]
        self._sent_bytes += sum(message.nbytes for message in others)
        self._sent_walkers += sum(walkers_of(message).size for message in others)
        self._told_values += sum(num_told_of(message) for message in others)

    def note_round(self, arrived: Sequence[Arrived]) -> None:
        """What all workers did in a round: the time they took, where that is measured, else their steps."""
        work = [part.nanoseconds for part in arrived]
        work = work if all(work) else [part.steps for part in arrived]
        if sum(work):
            self._round_imbalance = max(work) * len(work) / sum(work)

    def measured(self, num_rounds: int) -> dict[str, float]:
        """As reports name them."""
        rounds = max(1, num_rounds)
        return {
            "round_imbalance": self._round_imbalance,
            "sent_bytes_per_round": self._sent_bytes / rounds,
            "sent_walkers_per_round": self._sent_walkers / rounds,
            "told_values_per_round": self._told_values / rounds,
        }

    def save_state(self) -> dict[str, Any]:
        """All sums."""
        sums = [self._sent_bytes, self._sent_walkers, self._told_values, self.parked]
        return {"sums": np.array(sums), "round_imbalance": self._round_imbalance}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on with them."""
        self._sent_bytes, self._sent_walkers, self._told_values, self.parked = state["sums"].tolist()
        self._round_imbalance = state["round_imbalance"]
