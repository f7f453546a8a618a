"""Numbers as people read them."""

import math
from collections.abc import Sequence

_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def short_number(number: float) -> str:
    """Three digits and a unit: 0.25, 950, 12.3k, 1M."""
    for scale, unit in _UNITS:
        if abs(number) >= 0.9995 * scale:
            return f"{number / scale:.3g}{unit}"
    return f"{number:.3g}"


def short_duration(seconds: float) -> str:
    """0:42, 12:05, 3:07:09."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` multiples of 1, 2 or 5 times a power of ten, within [low, high]; low < high."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(
        power * factor for factor in (1, 2, 5, 10, 20) if (high - low) / (power * factor) <= most - 1 + 1e-9
    )
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """One unit for all of an axis, and as many decimals as tell neighbours apart."""
    largest = max(map(abs, ticks), default=0.0)
    scale, unit = next(((scale, unit) for scale, unit in _UNITS if largest >= scale), (1.0, ""))
    step = (ticks[1] - ticks[0]) / scale if len(ticks) > 1 else largest / scale or 1.0
    if largest and largest < 1e-3:
        return [f"{tick:.3g}" for tick in ticks]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return ["0" if abs(tick) < 1e-12 * scale else f"{tick / scale:.{decimals}f}{unit}" for tick in ticks]
