"""Under mpiexec: rank 0 runs tests, with all ranks as the members of their groups.

Arguments are pytest's. A service of rank 0 runs only when its result is asked for, and then in the main thread.
"""

import sys

import pytest

from qfleet.backends.mpi_job import run_job

if __name__ == "__main__":
    sys.exit(run_job(lambda: pytest.main(["-q", "-p", "no:cacheprovider", "--timeout=100", *sys.argv[1:]])))
