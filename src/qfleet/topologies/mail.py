"""The messages of a worker's rounds, between being sent and being heard."""

from collections.abc import Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from qfleet.fleet import Exchange, Group

Messages = Sequence[NDArray[np.int64]]


@final
class Mail:
    """One message for each worker, sent once and heard once; in between it may travel, or lie here."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._travelling: Exchange | None = None
        self._lying: Messages = ()
        self.sent: Messages = ()
        """What this worker sent last."""

    def send(self, messages: Messages) -> None:
        """Sends one to every worker; what was sent before must have been taken."""
        assert self._travelling is None and not self._lying, "messages are lost unless they are taken first"
        self.sent = messages
        self._travelling = self._group.start_exchange(messages)

    def hold(self) -> Messages:
        """Waits for what travels, so that the group can be called; it lies here until it is taken, and may be read."""
        if self._travelling is not None:
            self._lying = [message.copy() for message in self._arrived(self._travelling)]
        return self._lying

    def take(self) -> Messages:
        """What all workers sent, in the order of their ranks, valid until the group's next call; () if nothing was."""
        taken = self._lying if self._travelling is None else self._arrived(self._travelling)
        self._lying = ()
        return taken

    def _arrived(self, travelling: Exchange) -> Messages:
        self._travelling = None
        return travelling.finish()

    def save_state(self) -> dict[str, Any]:
        """What lies here; nothing may travel."""
        assert self._travelling is None, "hold what travels before a worker's state is saved"
        return {str(rank): message for rank, message in enumerate(self._lying)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on with it."""
        self._lying = [state[str(rank)].copy() for rank in range(len(state))]
