"""Train at your own pace: look at every block, and stop when you have seen enough."""

import qfleet

with qfleet.begin("CartPole-v1", steps=20_000, seed=0) as training:
    for status in training:
        if status.evaluation is not None:
            print(
                f"{status.steps:6,} steps, {status.updates:6,} updates, greedy {status.evaluation.mean:.1f}"
            )
        if status.mean_return is not None and status.mean_return > 300:
            training.stop("seen enough")

print(training.summary(None))
