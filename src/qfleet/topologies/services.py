"""What topologies of services have in common: chains of calls under way, turns, and going on after a loss."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from qfleet.errors import FleetError
from qfleet.fleet import Future
from qfleet.topologies.crew import START_SECONDS, Completions, Crew
from qfleet.topologies.topology import Topology, Turn

_QUIET_SECONDS = 5.0
"""How long a service may take to answer that it is there, with nothing else to do."""


class ServicesTopology(Topology):
    """The driver keeps a chain of calls under way for every member that has something to do.

    When a service is lost, all chains are let come to their ends, lost services are replaced by new ones, and the
    subclass gives these what they need.
    """

    def __init__(self, crews: Sequence[Crew], stall_timeout_seconds: float) -> None:
        self._crews = crews
        self._timeout_seconds = stall_timeout_seconds
        self._chains: Completions[Any] = Completions(stall_timeout_seconds)
        self._left_turns: list[Turn] = []
        """Of chains that ended while nobody asked for a turn."""
        self._begun = False

    @abstractmethod
    def _start_idle(self) -> None:
        """Starts a chain for every member that has none and something to do."""

    @abstractmethod
    def _finish(self, tag: Any, future: Future) -> Turn | None:
        """What a chain has brought, if that is worth a turn; FleetError if a service of it was lost."""

    @abstractmethod
    def _take_in(self, lost: Sequence[tuple[Crew, int]]) -> None:
        """Gives new services, and those who work with them, what they need to go on."""

    def prepare(self) -> None:
        """Lets all services begin, if they have not."""
        if not self._begun:
            for crew in self._crews:
                crew.all("start", timeout_seconds=START_SECONDS)
            self._begun = True

    def turns(self) -> Iterator[Turn]:
        """A turn ends whenever a chain has brought something."""
        self.prepare()
        while True:
            self._start_idle()
            if not len(self._chains):
                return
            turn = self._next()
            yield from self._taken_left_turns()
            if turn is not None:
                yield turn

    def _next(self) -> Turn | None:
        tag, future = self._chains.next()
        try:
            return self._finish(tag, future)
        except FleetError as error:
            self._recover(error)
            return None

    def _taken_left_turns(self) -> list[Turn]:
        turns, self._left_turns = self._left_turns, []
        return turns

    def _come_to_rest(self) -> None:
        """Lets all chains come to their ends; lost services are replaced."""
        while len(self._chains):
            turn = self._next()
            if turn is not None:
                self._left_turns.append(turn)

    def _recover(self, error: FleetError) -> None:
        """Finds out who is lost, replaces them, and goes on with the others; raises the error if nobody is."""
        while len(self._chains):
            tag, future = self._chains.next()
            try:
                turn = self._finish(tag, future)
            except FleetError:
                continue  # a consequence of the same loss, or another one, which is found below
            if turn is not None:
                self._left_turns.append(turn)
        lost = [
            (crew, number)
            for crew in self._crews
            for number in range(len(crew))
            if not _answers(crew, number)
        ]
        if not lost:
            raise error
        for crew, number in lost:
            crew.replace(number, error, self.num_steps)
            crew.one(number, "start", timeout_seconds=START_SECONDS)
        self._take_in(lost)

    def close(self) -> None:
        """Lets the services free what they hold."""
        for crew in self._crews:
            crew.close()


def _answers(crew: Crew, number: int) -> bool:
    try:
        crew.one(number, "answer", timeout_seconds=_QUIET_SECONDS)
    except FleetError:
        return False
    return True
