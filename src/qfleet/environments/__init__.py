"""Any environment with discrete actions, many at once, behind one interface."""

from qfleet.environments.catalogue import CatalogueEntry, environments
from qfleet.environments.config import EnvironmentConfig
from qfleet.environments.making import EnvironmentDescription, describe, make, make_single
from qfleet.environments.single import EnvironmentSource, SingleEnvironment
from qfleet.environments.spaces import ObservationEncoder
from qfleet.environments.vector import ObservationLayout, Step, VectorEnvironment

__all__ = [
    "CatalogueEntry",
    "EnvironmentConfig",
    "EnvironmentDescription",
    "EnvironmentSource",
    "ObservationEncoder",
    "ObservationLayout",
    "SingleEnvironment",
    "Step",
    "VectorEnvironment",
    "describe",
    "environments",
    "make",
    "make_single",
]
