"""Starting programs under mpiexec, and seeing to it that nothing of them is left."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
MPIEXEC = [str(Path(sys.executable).parent / "mpiexec"), "--allow-run-as-root", "--oversubscribe"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}


def start(folder: Path, ranks: int, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """`python ARGUMENTS` on so many ranks."""
    command = [*MPIEXEC, "-n", str(ranks), sys.executable, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT | environment, text=True, stdout=pipe, stderr=pipe
    )


@contextmanager
def started(folder: Path, ranks: int, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """The same; what is still there at the end is killed."""
    process = start(folder, ranks, *arguments)
    try:
        yield process
    finally:
        for number in (*ranks_of(process), process.pid):
            if process.poll() is None:
                os.kill(number, 9)
        process.communicate(timeout=20)


def finish(process: subprocess.Popen[str], timeout_seconds: float = 200) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    try:
        out, err = process.communicate(timeout=timeout_seconds)
    except subprocess.TimeoutExpired:
        process.terminate()
        raise
    return process.returncode, out, err


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """Process ids, in the order of the ranks; empty once mpiexec has ended."""
    found: dict[int, int] = {}
    for path in Path(f"/proc/{process.pid}/task").glob("*/children"):
        for number in map(int, path.read_text().split()):
            variables = dict(
                line.split("=", 1)
                for line in Path(f"/proc/{number}/environ").read_text().split("\0")
                if "=" in line
            )
            if "OMPI_COMM_WORLD_RANK" in variables:
                found[int(variables["OMPI_COMM_WORLD_RANK"])] = number
    return [found[rank] for rank in sorted(found)]
