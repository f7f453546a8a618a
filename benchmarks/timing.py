"""How the benchmarks time and print."""

import time
from collections.abc import Callable


def best_seconds(function: Callable[[int], object], num_calls: int, num_rounds: int = 15) -> float:
    """Seconds a call of the fastest of several rounds of `function(num_calls)`: noise only ever adds."""
    function(1)
    seconds = []
    for _ in range(num_rounds):
        start = time.perf_counter()
        function(num_calls)
        seconds.append((time.perf_counter() - start) / num_calls)
    return min(seconds)


def verdict(
    name: str, figure: float, unit: str, *, at_most: float | None = None, at_least: float | None = None
):
    """Prints one figure beside what it should be; returns whether it is reached."""
    reached = (at_most is None or figure <= at_most) and (at_least is None or figure >= at_least)
    wanted = f"at most {at_most:g}" if at_most is not None else f"at least {at_least:g}"
    print(f"{'reached' if reached else 'MISSED '}  {name}: {figure:.3g} {unit} ({wanted})", flush=True)
    return reached
