"""What is said of roles: who is busiest, and by which names the metrics keep it."""

from qfleet.fleet_view import FleetView, Role

ACTORS = Role("actor", 2, 1440.0, "steps", 0.61, queue=1.25, restarts=1, staleness=8.0, staleness_p99=31.0)
LEARNER = Role("learner", 1, 643.0, "updates", 0.97, queue=0.5, restarts=0)
DRIVER = Role("replay shard", 1, 20.0, "chains", 0.02)


def test_whoever_is_busiest_is_the_bottleneck() -> None:
    assert FleetView((ACTORS, LEARNER, DRIVER), 0.25).bottleneck is LEARNER


def test_a_role_says_how_many_they_are() -> None:
    assert [ACTORS.title, LEARNER.title] == ["actor ×2", "learner"]


def test_metrics_by_name_leave_out_what_is_not_known() -> None:
    assert FleetView((ACTORS, DRIVER), 0.25).metrics() == {
        "fleet/updates_per_step": 0.25,
        "fleet/actor/steps_per_second": 1440.0,
        "fleet/actor/busy": 0.61,
        "fleet/actor/is_bottleneck": 1.0,
        "fleet/actor/queue": 1.25,
        "fleet/actor/restarts": 1,
        "fleet/actor/staleness": 8.0,
        "fleet/actor/staleness_p99": 31.0,
        "fleet/replay_shard/chains_per_second": 20.0,
        "fleet/replay_shard/busy": 0.02,
        "fleet/replay_shard/is_bottleneck": 0.0,
    }
    assert "fleet/updates_per_step" not in FleetView((LEARNER,), None).metrics()
