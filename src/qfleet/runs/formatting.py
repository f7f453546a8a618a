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


def three_digits(number: float) -> str:
    """1.00, 12.3, 123: trailing zeros too, so that numbers below one another can be compared."""
    return f"{number:#.3g}".rstrip(".") if abs(number) < 999.5 else f"{number:.0f}"


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


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` + 1 round numbers of a logarithmic axis within [low, high]; 0 < low < high.

    Powers of ten, every n-th where they are many; also their multiples by 2 and 5 where they are few.
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    stride = max(1, math.ceil((last - first) / most))
    powers = [power for power in range(first, last + 1) if power % stride == 0]
    for factors in ((1,), (1, 2, 5), tuple(range(1, 10))):
        ticks = [factor * 10.0**power for power in powers for factor in factors]
        found = [tick for tick in ticks if low <= tick * (1 + 1e-9) and tick * (1 - 1e-9) <= high]
        if len(found) >= 3:
            return found
    return nice_ticks(low, high, most)


def log_tick_labels(ticks: Sequence[float]) -> list[str]:
    """Plain decimals where three of them will do, powers of ten otherwise."""
    if all(1e-3 * (1 - 1e-9) <= tick < 1e4 for tick in ticks):
        return [f"{tick:.4g}" for tick in ticks]
    return [_scientific(tick) for tick in ticks]


def _scientific(number: float) -> str:
    """10⁻⁴, 2·10⁻⁴."""
    power = math.floor(math.log10(number) + 1e-9)
    factor = round(number / 10.0**power, 3)
    superscript = str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{superscript}" if factor == 1 else f"{factor:g}·10{superscript}"
