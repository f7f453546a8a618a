"""What `qfleet --help` says: every command in a line."""

COMMANDS = {
    "train": "teach an agent in an environment: qfleet train CartPole-v1",
    "race": "all parallel schemes on one world, against the exact solution: qfleet race GridWorld-64",
    "resume": "go on with a run from its newest checkpoint",
    "evaluate": "play greedy episodes that training never saw, and say what they return",
    "play": "watch a run's agent in a window, or write a video",
    "export": "write a table and its greedy policy as CSV or npz",
    "report": "draw runs side by side in one HTML page",
    "environments": "list the environments that can be trained on here",
    "algorithms": "list what can improve the values",
    "topologies": "list who can learn and what they tell one another",
    "doctor": "check what this machine offers, and what is missing",
}
"""Each is a module of the same name beside this one, with a `main`."""


def overview() -> str:
    """The help of the whole program."""
    lines = [f"  {name:<13} {line}" for name, line in COMMANDS.items()]
    return "\n".join(
        [
            "Parallel and distributed Q-learning.",
            "",
            "usage: qfleet COMMAND ...",
            "",
            *lines,
            "",
            "qfleet COMMAND --help lists a command's flags; qfleet --version says which version this is.",
        ]
    )
