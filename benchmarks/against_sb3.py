"""The same DQN on CartPole by Qfleet and by Stable-Baselines3, in turn: rl-zoo's settings, 50k steps, 24.7k updates.

Both sides train with two threads and evaluate nothing; the time is that of the training call. Run it by
`make bench-sb3`, which gives the peer an environment of its own.

Both sides leave the choice of their matrix kernels to their libraries: variables that force one (OPENBLAS_CORETYPE)
are taken out of the environment. Where the machine sets any, the ratio as it stands is measured and printed too.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

FOLDER = Path(__file__).parent
OURS, THEIRS = FOLDER / "sb3_ours.py", FOLDER / "sb3_theirs.py"


def own_choice() -> dict[str, str]:
    """The environment without what forces a kernel or a number of threads on a numerical library."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OPENBLAS_", "MKL_", "OMP_"))
    }


def seconds(python: str, script: Path, seed: int, environment: dict[str, str]) -> tuple[float, int]:
    """Seconds of the training call and the updates it made."""
    command = [python, script, str(seed)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    answer = json.loads(output.splitlines()[-1])
    return answer["seconds"], answer["updates"]


def ratio(peer_python: str, num_rounds: int, environment: dict[str, str]) -> float:
    """Median of the peer's time over ours, pair by pair."""
    seconds(sys.executable, OURS, 100, environment)  # compiles the kernels, once per machine
    ratios = []
    for seed in range(num_rounds):
        ours, our_updates = seconds(sys.executable, OURS, seed, environment)
        theirs, their_updates = seconds(peer_python, THEIRS, seed, environment)
        ratios.append(theirs / ours)
        print(
            f"seed {seed}: Qfleet {ours:.2f} s ({our_updates:,} updates), "
            f"Stable-Baselines3 {theirs:.2f} s ({their_updates:,} updates), ratio {theirs / ours:.2f}",
            flush=True,
        )
        assert our_updates == their_updates, "the work must be the same"
    return median(ratios)


def main(peer_python: str, num_rounds: int) -> int:
    forced = sorted(set(os.environ) - set(own_choice()))
    if forced:
        said = ", ".join(f"{name}={os.environ[name]}" for name in forced)
        print(f"as this machine is set up ({said}):", flush=True)
        print(f"Qfleet is {ratio(peer_python, num_rounds, dict(os.environ)):.2f} times as fast")
        print("with the libraries' own choice of kernels:", flush=True)
    figure = ratio(peer_python, num_rounds, own_choice())
    print(f"Qfleet is {figure:.2f} times as fast (median of {num_rounds}; at least 3)")
    return 0 if figure >= 3 else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], int(sys.argv[2])))
