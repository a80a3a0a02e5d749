from __future__ import annotations

import pytest

from vpt_gym.bench.samples import Times, percentile


def test_percentiles_of_known_samples() -> None:
    samples = [float(number) for number in range(1, 201)]
    assert percentile(samples, 99) == 198
    assert percentile(samples[::-1], 50) == 100
    assert percentile(samples, 100) == 200
    assert percentile([7.0], 99) == 7
    assert percentile([1.0, 2.0, 9.0], 99) == 9


def test_times_over_all_rounds() -> None:
    times = Times(((1.0, 3.0), (2.0,), (10.0, 4.0)))
    assert times.steps == 5
    assert times.p50 == 3
    assert times.p99 == 10
    assert times.to_dict() == {
        "steps": 5,
        "p50": 3.0,
        "p99": 10.0,
        "p99_is_the_slowest": True,
        "round_medians": [2.0, 2.0, 7.0],
    }


def test_a_hundred_steps_are_enough_for_p99() -> None:
    times = Times((tuple([1.0] * 99 + [50.0]),))
    assert times.p99 == pytest.approx(1.0)
    assert times.to_dict()["p99_is_the_slowest"] is False
