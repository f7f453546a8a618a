"""The same DQN on CartPole by Qfleet and by Stable-Baselines3, in turn: rl-zoo's settings, 50k steps, 24.7k updates.

Both sides train with two threads and evaluate nothing; the time is that of the training call. Run it by
`make bench-sb3`, which gives the peer an environment of its own.
"""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

FOLDER = Path(__file__).parent
OURS, THEIRS = FOLDER / "sb3_ours.py", FOLDER / "sb3_theirs.py"


def seconds(python: str, script: Path, seed: int) -> tuple[float, int]:
    """Seconds of the training call and the updates it made."""
    output = subprocess.run([python, script, str(seed)], check=True, capture_output=True, text=True).stdout
    answer = json.loads(output.splitlines()[-1])
    return answer["seconds"], answer["updates"]


def main(peer_python: str, num_rounds: int) -> int:
    seconds(sys.executable, OURS, 100)  # compiles the kernels, once per machine
    pairs = []
    for seed in range(num_rounds):
        ours, our_updates = seconds(sys.executable, OURS, seed)
        theirs, their_updates = seconds(peer_python, THEIRS, seed)
        pairs.append((ours, theirs))
        print(
            f"seed {seed}: Qfleet {ours:.2f} s ({our_updates:,} updates), "
            f"Stable-Baselines3 {theirs:.2f} s ({their_updates:,} updates), ratio {theirs / ours:.2f}",
            flush=True,
        )
        assert our_updates == their_updates, "the work must be the same"
    ratio = median(theirs / ours for ours, theirs in pairs)
    print(f"Qfleet is {ratio:.2f} times as fast (median of {num_rounds}; at least 3)")
    return 0 if ratio >= 3 else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], int(sys.argv[2])))
