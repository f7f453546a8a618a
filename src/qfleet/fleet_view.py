"""How the roles of a run do: what a person watches while it runs, and what its metrics and report keep."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Role:
    """Members that do the same, since they were looked at last."""

    name: str
    num_members: int
    rate: float
    """What all of them together have done a second."""
    unit: str
    """What that counts: steps, updates, transitions, ..."""
    busy: float
    """Share of the time that they work, 0 to 1, in the mean."""
    queue: float | None = None
    """Calls that wait for one of them, in the mean; None where nobody calls them."""
    restarts: int | None = None
    """How often they were replaced, in this session; None where they never are."""
    staleness: float | None = None
    """Updates since the parameters that they work with, in the mean; None where there are none."""
    staleness_p99: float | None = None
    """Its 99th percentile."""

    @property
    def title(self) -> str:
        """Its name, and how many they are."""
        return self.name if self.num_members == 1 else f"{self.name} ×{self.num_members}"


@dataclass(frozen=True)
class FleetView:
    """All roles of a topology, at least one, and how updates go with steps."""

    roles: tuple[Role, ...]
    updates_per_step: float | None
    """Since the last look; None if no steps were made."""

    @property
    def bottleneck(self) -> Role:
        """Who is busiest: the others wait for it, or would if they were any faster."""
        return max(self.roles, key=lambda role: role.busy)

    def metrics(self) -> dict[str, float]:
        """By name: `fleet/ROLE/...` for each role, `fleet/updates_per_step` for the whole."""
        found = {} if self.updates_per_step is None else {"fleet/updates_per_step": self.updates_per_step}
        for role in self.roles:
            values = {
                f"{role.unit}_per_second": role.rate,
                "busy": role.busy,
                "is_bottleneck": float(role is self.bottleneck),
                "queue": role.queue,
                "restarts": role.restarts,
                "staleness": role.staleness,
                "staleness_p99": role.staleness_p99,
            }
            prefix = f"fleet/{role.name.replace(' ', '_')}"
            found |= {f"{prefix}/{name}": value for name, value in values.items() if value is not None}
        return found
