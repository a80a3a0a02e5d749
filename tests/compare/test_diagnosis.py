from __future__ import annotations

import numpy as np
import pytest

from vpt_gym.compare.diagnosis import REFERENCE, _advice, probed
from vpt_gym.compare.recording import to_come


def test_reward_to_come_ends_with_the_episode() -> None:
    rewards = np.array([[1.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
    dones = np.array([[False, False, True, False, False, False]])
    found = to_come(rewards, dones, gamma=0.5, ahead=3)
    assert found[0, :4].tolist() == [1.75, 1.5, 1.0, 1.75]
    assert np.isnan(found[0, 4:]).all()  # what is not recorded is not known


def test_latents_that_hold_what_is_to_come_explain_it() -> None:
    random = np.random.default_rng(0)
    value = random.normal(size=(4, 500))
    noise = random.normal(size=(4, 500, 15))
    told = probed(np.concatenate([value[..., None] * 3 + 1, noise], axis=2), value)
    assert told["r2"] > 0.99
    untold = probed(noise, value)
    assert untold["r2"] < 0.05
    assert untold["directions"] == pytest.approx(15, abs=1)
    assert untold["size"] == 15


def test_latents_that_hardly_move_are_hardly_apart() -> None:
    random = np.random.default_rng(0)
    still = 10 + 0.01 * random.normal(size=(2, 400, 8))
    assert probed(still, random.normal(size=(2, 400)))["spread"] == pytest.approx(0.001, rel=0.1)


def test_too_little_to_fit_on_explains_nothing() -> None:
    assert probed(np.ones((1, 10, 3)), np.full((1, 10), np.nan))["r2"] == 0.0


@pytest.mark.parametrize(
    ("r2", "reference", "spread", "score", "words"),
    [
        (0.6, 0.2, 1.0, 2.0, "the head is the limit"),
        (0.6, 0.65, 1.0, 2.0, "the head is the limit"),  # so near is no loss
        (0.15, 0.5, 1.0, 2.0, "the features are the limit"),
        (0.35, 0.8, 1.0, 2.0, "the features are the limit"),  # something, but far less than is there to be seen
        (0.02, 0.03, 1.0, 2.0, "chance, or something that is out of sight"),
        (0.6, 0.2, 1.0, 10.0, "as good as the best"),
        (0.6, 0.2, 0.01, 10.0, "hardly apart"),
        (0.6, 0.2, 1.0, 6.0, "about as much of what is coming"),
    ],
)
def test_advice_in_words(r2: float, reference: float, spread: float, score: float, words: str) -> None:
    latents = {REFERENCE: {"r2": reference, "spread": 1.0}, "a": {"r2": r2, "spread": spread}}
    of_env = {"random": 0.0, "encoders": {"a": {"iqm": {"value": score}}, "cnn": {"iqm": {"value": 10.0}}}}
    (line,) = _advice(latents, of_env)
    assert line.startswith("a: ")
    assert words in line


def test_advice_where_nobody_learns() -> None:
    of_env = {"random": 0.0, "encoders": {"a": {"iqm": {"value": -1.0}}}}
    assert "No encoder is better than the random policy" in _advice({}, of_env)[0]
