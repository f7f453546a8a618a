"""The one time that a start is slow."""

import sys

from qfleet.kernel_cache import cache_folder


def announce_compilation(quiet: bool) -> None:
    """Says why nothing moves yet, where the kernels have never been compiled on this machine."""
    if not quiet and not any(cache_folder().iterdir()):
        print(
            "compiling kernels; only the first run on a machine does, for about 20 seconds", file=sys.stderr
        )
