"""MinAtar Breakout: a million steps, an update of batch 32 every 4 steps, from process start to exit."""

from defaults import train
from timing import verdict

if __name__ == "__main__":
    seconds, mean_return = train("MinAtar/Breakout-v1", 0)
    reached = verdict("MinAtar Breakout, a million steps", seconds / 60, "minutes", at_most=6)
    raise SystemExit(0 if verdict("greedy return", mean_return, "", at_least=8) and reached else 1)
