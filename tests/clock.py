"""Bounds by the clock: what is promised, and what is let pass while other tests run on the same two cores."""

import os

HAS_THE_MACHINE = "PYTEST_XDIST_WORKER" not in os.environ


def seconds(promised: float, beside_others: float) -> float:
    """The promise itself where this process has the machine for itself, as in the last stage of `make soak`."""
    return promised if HAS_THE_MACHINE else beside_others
