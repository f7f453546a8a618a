"""Under mpiexec: rank 0 runs the tests of groups, with all ranks as the members.

Arguments are pytest's. A service of rank 0 runs only when its result is asked for: tests that wait for it beside
another one are of other backends.
"""

import sys

import pytest

from qfleet.backends.mpi_job import run_job

if __name__ == "__main__":
    sys.exit(run_job(lambda: pytest.main(["-q", "-p", "no:cacheprovider", "--timeout=100", *sys.argv[1:]])))
