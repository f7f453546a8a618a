"""How every compiled kernel is compiled, and the random numbers that kernels draw.

Random numbers are functions of (seed, stream, counter, lane) rather than of a hidden state: a run resumed
at counter c draws what the uninterrupted run draws, whichever thread or process does the drawing.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np

Function = TypeVar("Function", bound=Callable[..., Any])

STREAM_EXPLORATION = 1
STREAM_SAMPLING = 2

# Sums may be reordered for vector units, but NaN and infinity keep their meaning: losses are checked for them.
_FASTMATH = {"reassoc", "contract", "arcp", "nsz"}


def kernel(function: Function) -> Function:
    """Compiles `function` with numba: no interpreter lock, cached on disk, IEEE division."""
    compiled: Any = numba.njit(nogil=True, cache=True, fastmath=_FASTMATH, error_model="numpy")(function)
    return compiled


@kernel
def mix(bits):
    """One round of the splitmix64 finaliser (Steele et al. 2014): uint64 to well-mixed uint64."""
    bits = np.uint64(bits)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


@kernel
def uniform(seed, stream, counter, lane):
    """A uniform float64 in [0, 1) that depends on nothing but its four arguments (integers)."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    bits = mix(np.uint64(seed) + golden)
    bits = mix(bits + np.uint64(stream) * golden)
    bits = mix(bits + np.uint64(counter) * golden)
    bits = mix(bits + np.uint64(lane) * golden)
    return np.float64(bits >> np.uint64(11)) * (1.0 / 9007199254740992.0)
