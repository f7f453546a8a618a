"""How many threads numerical libraries may start, set once, so that they and ours do not fight for the cores."""

import os
import sys

from threadpoolctl import threadpool_limits


def num_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def set_thread_budget(num_own_threads: int) -> None:
    """Leaves the cores that `num_own_threads` busy threads do not take to PyTorch, and one thread to each BLAS call.

    BLAS is called from our own threads, on matrices too small to be worth sharing.
    """
    threadpool_limits(limits=1, user_api="blas")
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(max(1, num_cores() - num_own_threads + 1))
