from __future__ import annotations

import numpy as np
import pytest

from vpt_gym.compare import statistics
from vpt_gym.compare.statistics import improvement, interquartile_mean, scaled_scores


def test_the_mean_of_the_middle_half() -> None:
    found = interquartile_mean([np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1000.0])])
    assert found.value == (2 + 3 + 4 + 5) / 4
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low < found.value < found.high


def test_runs_are_resampled_within_their_environment() -> None:
    # Drawn from all alike, there would be four zeros too many now and then, and an interval.
    assert interquartile_mean([np.zeros(4), np.full(4, 10.0)]) == statistics.Estimate(5.0, 5.0, 5.0)


def test_one_run_has_no_interval() -> None:
    assert interquartile_mean([np.array([3.0])]) == statistics.Estimate(3.0, None, None)


def test_the_same_scores_give_the_same_interval() -> None:
    scores = [np.random.default_rng(1).normal(size=5)]
    assert interquartile_mean(scores) == interquartile_mean(scores)


@pytest.mark.parametrize(
    ("runs", "least", "most"),
    [
        (20, 0.91, 0.98),  # 95% as promised; with few runs less, as the report says
        (5, 0.82, 0.95),
    ],
)
def test_intervals_hold_the_true_value_as_often_as_they_say(
    runs: int, least: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three environments of normal scores, whose interquartile mean is known: it is the common mean."""
    monkeypatch.setattr(statistics, "RESAMPLES", 400)
    random = np.random.default_rng(0)
    held, repeats = 0, 250
    for _ in range(repeats):
        found = interquartile_mean([random.normal(2.0, 1.0, runs) for _ in range(3)])
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 2.0 <= found.high
    assert least <= held / repeats <= most


def test_the_probability_of_improvement() -> None:
    assert improvement([np.array([1.0, 3.0])], [np.array([2.0, 2.0])]).value == 0.5
    sure = improvement([np.array([3.0, 4.0]), np.array([1.0, 1.0])], [np.array([1.0, 2.0]), np.array([1.0, 1.0])])
    assert sure == statistics.Estimate(0.75, 0.75, 0.75)  # certain in one environment, ties in the other
    random = np.random.default_rng(0)
    found = improvement([random.normal(1, 1, 60)], [random.normal(0, 1, 60)])
    truth = 0.7602  # of a difference of mean 1 and deviation sqrt(2)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= truth <= found.high
    assert found.high - found.low < 0.2


def test_scores_on_a_common_scale() -> None:
    scaled = scaled_scores({"a": np.array([5.0, 15.0]), "b": np.array([0.0])}, random=-10.0)
    assert scaled is not None
    assert scaled["a"].tolist() == [0.75, 1.25]
    assert scaled["b"].tolist() == [0.5]
    assert scaled_scores({"a": np.array([-10.0])}, random=-10.0) is None
