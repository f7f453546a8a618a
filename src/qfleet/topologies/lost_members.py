"""Who is lost: services that are gone, and those that hang, told from others that only wait for them."""

import queue
import time
from collections.abc import Mapping, Sequence
from functools import partial

from qfleet.errors import FleetError
from qfleet.fleet import Future
from qfleet.topologies.crew import CallUnderWay, Crew

Member = tuple[Crew, int]
"""A service, by its number in its crew."""
_QUIET_SECONDS = 3.0
"""How long a service may take to answer that it is there, with nothing else to do."""
_GONE_SECONDS = 1.0
"""After a loss was noticed it is known so soon who is gone."""
_ALSO_GONE_SECONDS = 0.1
"""So soon after the first, others that were lost with it are known too."""


def failed(crew: Crew, number: int, error: Exception) -> FleetError:
    """That a service's environments have raised something."""
    said = " ".join(f"{type(error).__name__}: {error}".split())
    return FleetError(f"{crew.role} {number} failed with {said}")


def find_gone(crews: Sequence[Crew], broken: Mapping[Member, FleetError]) -> dict[Member, FleetError]:
    """Services that are known to be gone, each with how; others may be busy, or wait for what these were to give.

    Once one is found, the others are not waited for: nobody is told of a loss before.
    """
    answers, gone = _asked(crews, broken), dict[Member, FleetError]()
    done: queue.SimpleQueue[Member] = queue.SimpleQueue()
    for member, answer in answers.items():
        answer.when_done(partial(done.put, member))
    deadline = time.monotonic() + _GONE_SECONDS
    for _ in answers:
        try:
            member = done.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        if (error := _failure(answers[member])) is not None:
            gone[member] = error
            deadline = min(deadline, time.monotonic() + _ALSO_GONE_SECONDS)
    return gone


def _asked(crews: Sequence[Crew], broken: Mapping[Member, FleetError]) -> dict[Member, Future]:
    members = [
        (crew, number) for crew in crews for number in range(len(crew)) if (crew, number) not in broken
    ]
    return {member: member[0].call(member[1], "answer") for member in members}


def find_lost(
    crews: Sequence[Crew], broken: Mapping[Member, FleetError], stall_timeout_seconds: float
) -> dict[Member, FleetError]:
    """Services that do not answer, each with what is wrong; all chains of calls are over, or late.

    One that waits for what a lost one was to give is not lost itself: it fails once that one has been ended, which
    is for the caller to do. `broken` are lost anyhow.
    """
    lost, silent = dict(broken), dict[Member, FleetError]()
    answers = _asked(crews, lost)
    deadline = time.monotonic() + _QUIET_SECONDS
    for member, answer in answers.items():
        try:
            answer.result(max(0.0, deadline - time.monotonic()))
        except FleetError as error:
            silent[member] = error
    under_way = [call.future for crew, number in answers for call in crew.under_way(number)]
    for member, error in silent.items():
        calls = member[0].under_way(member[1])
        if not calls:
            lost |= {member: error} if _failure(answers[member]) is not None else {}
        elif not _waits(calls[0], under_way):
            lost[member] = _hangs(member, calls[0], stall_timeout_seconds)
    return lost


def _failure(answer: Future) -> FleetError | None:
    """What an answer that is over has failed with; None if it has not."""
    try:
        answer.result(0.0)
    except FleetError as error:
        return error
    return None


def _waits(call: CallUnderWay, under_way: Sequence[Future]) -> bool:
    """Whether it is for others to give what a call was given."""
    return any(given is future for given in call.given for future in under_way)


def _hangs(member: Member, call: CallUnderWay, seconds: float) -> FleetError:
    crew, number = member
    return FleetError(
        f"{crew.role} {number} has not finished {call.method} within {seconds:g} s; "
        "a slow environment needs a longer --stall-timeout-seconds"
    )
