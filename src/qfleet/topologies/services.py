"""What topologies of services have in common: chains of calls under way, turns, and going on after a loss."""

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from qfleet.errors import FleetError, QfleetError
from qfleet.fleet import Future
from qfleet.fleet_view import FleetView
from qfleet.topologies.account import Account, Done
from qfleet.topologies.crew import START_SECONDS, Completions, Crew
from qfleet.topologies.lost_members import Member, failed, find_gone, find_lost
from qfleet.topologies.topology import Topology, Turn, merged

_CLOSE_SECONDS = 2.0

Found = TypeVar("Found")


@dataclass(frozen=True)
class _Question:
    """Tag of what a member was asked, among the chains."""

    number: int


class ServicesTopology(Topology):
    """The driver keeps a chain of calls under way for every member that has something to do.

    When a service is lost, all chains are let come to their ends, lost services are replaced by new ones, and the
    subclass gives these what they need.
    """

    _driver = "driver"
    """The role of what the driver does itself."""

    def __init__(self, crews: Sequence[Crew], total_steps: int, stall_timeout_seconds: float) -> None:
        self._crews, self._total_steps = crews, total_steps
        self._timeout_seconds = stall_timeout_seconds
        self._chains: Completions[Any] = Completions(stall_timeout_seconds)
        self._num_chains = 0
        """That have come to their ends."""
        self._told: dict[int, Any] = {}
        """What members have answered to the question that is under way."""
        self._left_turns: list[Turn] = []
        """Of chains that ended while nobody asked for a turn."""
        self._broken: dict[Member, FleetError] = {}
        """Whose environments have raised something."""
        self._begun = False
        self._account: Account | None = None
        """Of what all roles do, from the first turn on."""

    @abstractmethod
    def _done(self) -> Done:
        """What every role has done so far."""

    @abstractmethod
    def _start_idle(self) -> None:
        """Starts a chain for every member that has none and something to do."""

    @abstractmethod
    def _finish(self, tag: Any, future: Future) -> Turn | None:
        """What a chain has brought, if that is worth a turn; FleetError if a service of it was lost."""

    @abstractmethod
    def _take_in(self, lost: Sequence[Member]) -> None:
        """Gives new services, and those who work with them, what they need to go on; all chains are over."""

    def prepare(self) -> None:
        """Lets all services begin, if they have not."""
        if not self._begun:
            for crew in self._crews:
                crew.all("start", timeout_seconds=START_SECONDS)
            self._begun = True

    def turns(self) -> Iterator[Turn]:
        """A turn ends whenever a chain has brought something; the last one, when the updates owed are made too."""
        self.prepare()
        self._account = Account(self._driver, self._crews, self._done)
        while self._go_on(self._account):
            if self._left_turns and self.num_steps < self._total_steps:
                yield self._taken_turn()
        if self.num_steps < self._total_steps:
            raise FleetError(f"nothing is under way at step {self.num_steps:,}, and nobody can go on")
        yield self._taken_turn()

    def _go_on(self, account: Account) -> bool:
        """Starts and finishes chains; False if there is nothing left to do."""
        with account.working():
            try:
                self._start_idle()
                account.sample()
            except FleetError as error:
                self._recover(error)
                return True
            if not len(self._chains):
                return False
            self._take_next()
        return True

    def _take_next(self) -> None:
        """Whatever the next chain has brought is left for the next turn."""
        try:
            with self._account.waiting() if self._account else nullcontext():
                tag, future = self._chains.next()
            self._num_chains += 1
            self._take(tag, future)
        except FleetError as error:
            self._recover(error)

    def _take(self, tag: Any, future: Future) -> None:
        """An answer is kept for who asked, and a turn for who takes the next one."""
        if isinstance(tag, _Question):
            self._told[tag.number] = future.result(self._timeout_seconds)
        elif (turn := self._finish(tag, future)) is not None:
            self._left_turns.append(turn)

    def _ask(self, crew: Crew, method: str, numbers: Sequence[int]) -> list[Any]:
        """What these members say, while chains are under way; those who are lost are replaced, and asked again.

        A member answers after its part in chains, for which it may wait for others: if one of them is lost, the chain
        says so at once, and the member's own answer would not.
        """
        self._told = {}
        while left := [number for number in numbers if number not in self._told]:
            for number in left:
                if _Question(number) not in self._chains:
                    asked = self._lasting(partial(crew.call, number, method))
                    self._chains.watch(_Question(number), asked)
            self._take_next()
        return [self._told[number] for number in numbers]

    def _taken_turn(self) -> Turn:
        turns, self._left_turns = self._left_turns, []
        return merged(turns)

    def _note_staleness(self, role: str, num_updates: int) -> None:
        """A member of that role worked with parameters so many updates old."""
        if self._account:
            self._account.looks.note_staleness(role, num_updates)

    def view(self) -> FleetView | None:
        """None before the first turn."""
        return self._account.looks.view() if self._account else None

    def role_metrics(self) -> dict[str, float]:
        """Rate, load, queue, staleness and restarts of every role."""
        return self._account.looks.metrics() if self._account else {}

    def come_to_rest(self) -> None:
        """Lets all chains come to their ends; lost services are replaced."""
        while len(self._chains):
            self._take_next()

    # Faults

    def _acted(self, crew: Crew, number: int, future: Future) -> Any:
        """What one came to that has environments; whatever these raise, it is lost, if it can be replaced."""
        try:
            return future.result(self._timeout_seconds)
        except FleetError:
            raise
        except Exception as error:
            if not crew.is_replaceable:
                raise
            self._broken[crew, number] = failed(crew, number, error)
            raise self._broken[crew, number] from error

    def _lasting(self, ask: Callable[[], Found]) -> Found:
        """What is asked of services, asked again when lost ones have been replaced."""
        while True:
            try:
                return ask()
            except FleetError as error:
                self._recover(error)

    def _recover(self, error: FleetError) -> None:
        """Finds out who is lost, replaces them, and goes on with the others; raises the error if nobody is."""
        replaced: list[Member] = []
        while True:
            lost = self._end_gone()
            self._drain()
            known, self._broken = lost | self._broken, {}
            found = find_lost(self._crews, known, self._timeout_seconds)
            self._end({member: why for member, why in found.items() if member not in lost})
            lost = found
            if not lost:
                raise error
            replaced += [member for member in lost if member not in replaced]
            for crew, number in lost:
                crew.start_another(number)
            try:
                self._begin(list(lost))
                self._take_in(replaced)
                return
            except FleetError as another:  # lost meanwhile, and found now
                error = another

    def _end_gone(self) -> dict[Member, FleetError]:
        """Whoever waits for them would else do so until it is late."""
        gone = self._broken | find_gone(self._crews, self._broken)
        self._broken = {}
        self._end(gone)
        return gone

    def _end(self, lost: Mapping[Member, FleetError]) -> None:
        for (crew, number), why in lost.items():
            crew.end(number, why, self.num_steps)

    def _drain(self) -> None:
        """All chains are over, one way or the other."""
        while len(self._chains):
            with suppress(FleetError):  # a consequence of the same loss, or another one, which is found later
                self._take(*self._chains.next())

    @staticmethod
    def _begin(lost: Sequence[Member]) -> None:
        started = [crew.call(number, "start") for crew, number in lost]
        deadline = time.monotonic() + START_SECONDS
        for future in started:
            future.result(max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        """Lets the services free what they hold, all at the same time."""
        closing = []
        with suppress(QfleetError):
            closing = [crew.call(number, "close") for crew in self._crews for number in range(len(crew))]
        deadline = time.monotonic() + _CLOSE_SECONDS
        for future in closing:
            with suppress(QfleetError):
                future.result(max(0.0, deadline - time.monotonic()))
