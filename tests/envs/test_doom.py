"""Scripted players beat the random policy, whatever the buttons, and say what they need."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from vpt_gym.envs import doom
from vpt_gym.errors import OptionError

pytest.importorskip("vizdoom.gymnasium_wrapper")


def returns(scenario: str, *, buttons: bool, play: bool) -> float:
    env: gym.Env[Any, Any] = gym.make(f"Vizdoom{scenario}-v1", **doom.buffers(buttons=buttons, frame_skip=4))
    env.action_space.seed(0)
    player, total = doom.Player(0), 0.0
    for seed in range(4):
        observation, ended = env.reset(seed=seed)[0], False
        while not ended:
            action = player(env, observation) if play else env.action_space.sample()
            observation, reward, terminated, truncated, _ = env.step(action)
            ended, total = terminated or truncated, total + float(reward)
    env.close()
    return total / 4


@pytest.mark.parametrize("buttons", [False, True])
@pytest.mark.parametrize(
    ("scenario", "margin"),
    [("Basic", 100), ("DefendCenter", 8), ("HealthGathering", 800), ("TakeCover", 200), ("DeadlyCorridor", 60)],
)
def test_players_beat_chance(scenario: str, margin: float, *, buttons: bool) -> None:
    assert returns(scenario, buttons=buttons, play=True) > returns(scenario, buttons=buttons, play=False) + margin


def test_targets_are_maps_of_what_is_there() -> None:
    env = gym.make("VizdoomHealthGathering-v1", **doom.buffers(frame_skip=4))
    env.reset(seed=1)
    maps = doom.targets(env)
    assert maps["depth_map"].shape == (12, 16)
    assert maps["what_map"].shape == (3, 12, 16)
    assert maps["depth_map"].dtype == maps["what_map"].dtype == np.uint8
    # Medikits lie about, and nothing lives here.
    assert maps["what_map"][1].max() > 0
    assert maps["what_map"][0].max() == 0
    own = dict(zip(doom.OWN, maps["own_state"], strict=True))
    assert maps["own_state"].dtype == np.float32
    assert 0.8 < own["health"] <= 1
    assert own["forward speed"] == own["kills"] == 0
    found = doom.nearest(env)
    assert found is not None
    assert -1 <= found.angle <= 1
    assert 0 < found.size <= 1
    # A medikit lies where it is, and grows as one walks towards it.
    seen: dict[int, list[doom.Nearest]] = {}
    for _ in range(20):
        now = doom.nearest(env)
        if now is not None:
            seen.setdefault(now.number, []).append(now)
        env.step(np.array([0, 0, 1], np.int8))  # forward
    sightings = max(seen.values(), key=lambda found: found[0].distance / found[-1].distance)
    assert {found.place for found in sightings} == {sightings[0].place}
    assert sightings[-1].distance < 0.6 * sightings[0].distance
    assert sightings[-1].size > 1.6 * sightings[0].size
    # It runs straight ahead, on acid.
    own = dict(zip(doom.OWN, doom.targets(env)["own_state"], strict=True))
    assert own["forward speed"] > 0.4
    assert abs(own["sideways speed"]) < 0.05
    assert own["damage taken"] > 0
    assert 0 < own["time"] < 0.2
    env.close()


def test_what_a_player_cannot_play() -> None:
    env = gym.make("VizdoomBasic-v1")
    env.reset(seed=0)
    with pytest.raises(OptionError, match=r"sees by labels and depth.*buffers"):
        doom.Player(0)(env, None)
    env.close()
    with pytest.raises(OptionError, match="plays ViZDoom's environments"):
        doom.Player(0)(gym.make("CartPole-v1"), None)
    with pytest.raises(OptionError, match="width must be 160 or 320"):
        doom.buffers(width=64)
