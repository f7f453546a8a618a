"""What a race showed, in one sentence and in a few numbers."""

import math
from collections.abc import Callable

from qfleet.runs.formatting import short_number, three_digits
from qfleet.runs.page import tile
from qfleet.runs.race_record import RaceRecord, SchemeRecord

_SPACE = "\N{NO-BREAK SPACE}"
"""Between a number and its unit."""


def finding(record: RaceRecord) -> str:
    """Who was fastest, and who was first at the error that serial ended with."""
    parallel = parallel_schemes(record)
    if not parallel:
        return "Nothing was raced against serial."
    fastest = max(parallel, key=lambda scheme: scheme.speed_up)
    speed = (
        f"{_capital(fastest.name)} on {_workers(fastest)} made {ratio(fastest.speed_up)} serial’s steps per second "
        f"({percent(fastest.efficiency)} of ideal)"
    )
    serial = record.serial
    if serial is None or not is_number(serial.max_error):
        return f"{speed}; how far from the exact solution the tables are is not known."
    return f"{speed}{_first_at_error(serial, fastest, parallel)}."


def _first_at_error(serial: SchemeRecord, fastest: SchemeRecord, parallel: list[SchemeRecord]) -> str:
    goal = f"serial’s final error of {error_text(serial.max_error)}"
    first = smallest(parallel, lambda scheme: scheme.seconds_to_error)
    if first is None:
        nearest = smallest(parallel, lambda scheme: scheme.max_error)
        near = f"; {nearest.name} came nearest, to {error_text(nearest.max_error)}" if nearest else ""
        return f"; no parallel scheme reached {goal} in the same number of steps{near}"
    times = seconds_text(first.seconds_to_error)
    against = serial.seconds_to_error
    instead = "" if against is None else f" where serial took {seconds_text(against)}"
    if first is fastest:
        return f" and reached {goal} in {times}{instead}"
    return f"; {first.name} was first to reach {goal}, in {times}{instead}"


def tiles(record: RaceRecord) -> str:
    """The section of tiles at the head of the page."""
    parallel, serial = parallel_schemes(record), record.serial
    shown = []
    if parallel:
        fastest = max(parallel, key=lambda scheme: scheme.speed_up)
        shown.append(tile("Highest speed-up", ratio(fastest.speed_up), fastest.name))
    if first := smallest(parallel, lambda scheme: scheme.seconds_to_error):
        against = seconds_text(serial.seconds_to_error) if serial else "–"
        note = f"{first.name}; serial {against}"
        shown.append(tile("Soonest at serial’s error", seconds_text(first.seconds_to_error), note))
    if nearest := smallest(list(record.schemes), lambda scheme: scheme.max_error):
        shown.append(tile("Smallest final error", error_text(nearest.max_error), nearest.name))
    if best := smallest(list(record.schemes), _negative_return):
        known = record.optimal_return
        note = best.name if known is None else f"{best.name}; optimum {return_text(known)}"
        shown.append(tile("Best greedy return", return_text(best.mean_return), note))
    shown.append(tile("Steps, each", short_number(record.steps), f"seed {record.seed}"))
    return f'<section class="tiles">{"".join(shown)}</section>'


def _negative_return(scheme: SchemeRecord) -> float | None:
    return None if scheme.mean_return is None else -scheme.mean_return


def parallel_schemes(record: RaceRecord) -> list[SchemeRecord]:
    """All but serial."""
    return [scheme for scheme in record.schemes if scheme is not record.serial]


def smallest(
    schemes: list[SchemeRecord], quantity: Callable[[SchemeRecord], float | None]
) -> SchemeRecord | None:
    """The first scheme with the least `quantity`, of those where it is a finite number."""
    found = [(value, index) for index, scheme in enumerate(schemes) if is_number(value := quantity(scheme))]
    return schemes[min(found)[1]] if found else None


def is_number(value: float | None) -> bool:
    """Whether there is something to show."""
    return value is not None and math.isfinite(value)


def _workers(scheme: SchemeRecord) -> str:
    return "1 worker" if scheme.workers == 1 else f"{scheme.workers} workers"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def ratio(value: float) -> str:
    """1.96×."""
    return f"{three_digits(value)}×" if math.isfinite(value) else "–"


def percent(value: float | None) -> str:
    """97 %; 0.012 % where whole percents would say nothing."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{100 * value:.0f}{_SPACE}%" if value >= 0.1 or value == 0 else f"{100 * value:.2g}{_SPACE}%"


def error_text(value: float | None) -> str:
    """0.0131, 2.4e-06."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.3g}"


def seconds_text(seconds: float | None) -> str:
    """45 ms, 0.240 s, 12.3 s, 3 min 20 s."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds >= 120:
        return f"{int(seconds // 60)}{_SPACE}min {int(seconds % 60)}{_SPACE}s"
    if seconds >= 0.1:
        return f"{three_digits(seconds)}{_SPACE}s"
    return f"{three_digits(1000 * seconds)}{_SPACE}ms"


def return_text(value: float | None) -> str:
    """0.9830, 47.25, 12,345."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:#.4g}".rstrip(".") if abs(value) < 1e4 else f"{value:,.0f}"
