"""Named shared memory, which ours must not be."""

from pathlib import Path

_OF_OTHERS = ("sm_segment", "vader_segment", "plasma", "ray")
"""Open MPI's and Ray's, which other tests may be using."""


def segments() -> set[Path]:
    """What lies in /dev/shm."""
    return {path for path in Path("/dev/shm").iterdir() if not path.name.startswith(_OF_OTHERS)}
