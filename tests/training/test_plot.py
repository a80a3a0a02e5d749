from __future__ import annotations

import numpy as np
import pytest

from vpt_gym.training import Score, TrainingConfig
from vpt_gym.training.callback import Episode
from vpt_gym.training.plot import learning_curve, running_mean

CONFIG = TrainingConfig(env_id="Light-v0", encoder="random:tiny")


def test_the_running_mean_looks_back_on_a_hundred_episodes() -> None:
    values = np.random.default_rng(0).normal(size=250)
    expected = [values[max(0, i - 99) : i + 1].mean() for i in range(250)]
    np.testing.assert_allclose(running_mean(list(values)), expected, atol=1e-9)


@pytest.mark.parametrize("untrained", [True, False])
def test_the_curve_says_what_it_shows(untrained: bool) -> None:
    episodes = [Episode(10 * i, float(i), 10) for i in range(40)]
    figure = learning_curve(
        CONFIG,
        episodes,
        steps=400,
        untrained=untrained,
        baseline=Score.of([-3.0, -1.0]),
        evaluation=Score.of([30.0, 40.0]),
    )
    (axes,) = figure.axes
    legend = axes.get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert "random policy: -2.0" in labels
    assert "evaluation after training: +35.0 ± 5.0 (2 episodes)" in labels
    assert ("untrained encoder" in axes.get_title()) == untrained
    assert "Light-v0" in axes.get_title()
    assert "steps" in axes.get_xlabel()
    assert "return" in axes.get_ylabel()


def test_a_run_that_ended_at_once_has_a_curve_too() -> None:
    figure = learning_curve(CONFIG, [], steps=0, untrained=True, baseline=None, evaluation=None)
    assert figure.axes[0].get_legend() is None
