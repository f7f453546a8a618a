"""Parallel and distributed Q-learning.

A learner improves values of an environment; a topology says who learns and what they tell one another; a
backend says where they run.
"""

from qfleet.agent import Agent
from qfleet.errors import DamagedError, FleetError, NonFiniteError, QfleetError
from qfleet.experiment import resume, train
from qfleet.run import Run, load, load_run
from qfleet.training import Status, Training

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "DamagedError",
    "FleetError",
    "NonFiniteError",
    "QfleetError",
    "Run",
    "Status",
    "Training",
    "load",
    "load_run",
    "resume",
    "train",
]
