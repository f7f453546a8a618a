import pytest

from qfleet.runs.formatting import nice_ticks, short_duration, short_number, tick_labels


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (0.25, "0.25"), (950, "950"), (999.7, "1k"), (12_345, "12.3k"), (999_600, "1M"), (3e9, "3G")],
)  # fmt: skip
def test_short_numbers(number: float, text: str) -> None:
    assert short_number(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (42, "0:42"), (725, "12:05"), (11229, "3:07:09")]
)
def test_short_durations(seconds: float, text: str) -> None:
    assert short_duration(seconds) == text


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0, 50_000, ["0", "10k", "20k", "30k", "40k", "50k"]),
        (0, 1_000_000, ["0.0M", "0.2M", "0.4M", "0.6M", "0.8M", "1.0M"]),
        (0, 1.05, ["0", "0.5", "1.0"]),
        (-200, -100, ["-200", "-180", "-160", "-140", "-120", "-100"]),
        (1000, 1010, ["1.000k", "1.002k", "1.004k", "1.006k", "1.008k", "1.010k"]),
        (0, 5e-5, ["0", "1e-05", "2e-05", "3e-05", "4e-05", "5e-05"]),
    ],
)
def test_ticks_are_round_and_labels_tell_them_apart(low: float, high: float, labels: list[str]) -> None:
    found = tick_labels(nice_ticks(low, high))
    assert [label.replace("0.0M", "0") for label in found] == [label.replace("0.0M", "0") for label in labels]


@pytest.mark.parametrize("most", [3, 6, 11])
@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 7.3, 1e6, 1e15])
def test_ticks_lie_within_and_are_few(scale: float, most: int) -> None:
    for low, high in ((0.0, 1.0), (-1.0, 1.0), (0.3, 0.9), (-7.0, -6.5)):
        ticks = nice_ticks(low * scale, high * scale, most)
        assert 1 <= len(ticks) <= most
        assert all(low * scale - 1e-6 * scale <= tick <= high * scale + 1e-6 * scale for tick in ticks)
        assert len(set(tick_labels(ticks))) == len(ticks)
