"""What callbacks return is checked, and a sentence names the callback that returned it."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from vpt_gym.encoders.minestudio.package import import_minestudio
from vpt_gym.envs.minecraft.env import MinecraftEnv
from vpt_gym.envs.minecraft.guards import Guard
from vpt_gym.errors import ResetNeeded, VPTGymError

REST = {"buttons": 0, "camera": 60}


def callback(**methods: Any) -> Any:
    """A callback of the class Mine with these methods."""
    module = import_minestudio("minestudio.simulator.callbacks")
    return type("Mine", (module.MinecraftCallback,), methods)()


def with_image(image: Any) -> Any:
    return lambda *given: ({"image": image}, *given[3:])


RESETS: list[tuple[dict[str, Any], str]] = [
    ({"before_reset": lambda *_: None}, "Mine's before_reset returned None; return the flag it was given"),
    ({"before_reset": lambda *_: "yes"}, "Mine's before_reset returned 'yes'"),
    ({"after_reset": lambda *_: None}, r"Mine's after_reset returned None; return the two dicts \(observation, info\)"),
    ({"after_reset": lambda *_: (1, {})}, r"Mine's after_reset returned \(1, \{\}\)"),
    (
        {"after_reset": with_image(np.zeros((4, 4, 3), np.uint8))},
        r"observation\['image'\] uint8 \[4, 4, 3\], which is not",
    ),
    ({"after_reset": lambda *given: ({}, given[3])}, r"the observation lacks \['image'\]"),
]
STEPS: list[tuple[dict[str, Any], str]] = [
    ({"before_step": lambda *_: None}, "Mine's before_step returned None; return the action, a dict"),
    ({"after_step": lambda *_: None}, r"Mine's after_step returned None; return \(observation, reward, terminated"),
    ({"after_step": lambda *_: (1, 2)}, r"Mine's after_step returned \(1, 2\)"),
    ({"after_step": lambda *given: (given[2], np.nan, *given[4:])}, "Mine's after_step returned the reward nan; its"),
    ({"after_step": lambda *given: (given[2], None, *given[4:])}, "after_step returned the reward None"),
    ({"after_step": lambda *given: (given[2], "1", *given[4:])}, "after_step returned the reward '1'"),
    ({"after_step": lambda *given: (*given[2:4], None, *given[5:])}, "returned terminated = None; return True"),
    (
        {"after_step": with_image(np.zeros((128, 128, 3)))},
        r"observation\['image'\] float64 \[128, 128, 3\], which is not",
    ),
]


@pytest.mark.parametrize(("methods", "sentence"), RESETS)
def test_in_a_reset(game: MinecraftEnv, monkeypatch: pytest.MonkeyPatch, methods: Any, sentence: str) -> None:
    monkeypatch.setattr(game.sim, "callbacks", [Guard(callback(**methods))])
    game.sim.already_reset = False
    with pytest.raises(VPTGymError, match=sentence) as caught:
        game.reset(seed=1)
    assert type(caught.value) is VPTGymError, "the game is not to blame"


@pytest.mark.parametrize(("methods", "sentence"), STEPS)
def test_in_a_step(playing: MinecraftEnv, monkeypatch: pytest.MonkeyPatch, methods: Any, sentence: str) -> None:
    monkeypatch.setattr(playing.sim, "callbacks", [Guard(callback(**methods))])
    with pytest.raises(VPTGymError, match=sentence) as caught:
        playing.step(REST)
    assert type(caught.value) is VPTGymError
    with pytest.raises(ResetNeeded):
        playing.step(REST)


def test_an_environment_guards_its_callbacks(make: Any) -> None:
    env = make(
        callbacks=[callback(before_step=lambda *_: None)],
        callback_observations={"depth": gym.spaces.Box(0, 1, (2,), np.float32)},
    ).unwrapped
    with pytest.raises(VPTGymError, match=r"lacks \['depth'\]; the callback that adds"):
        env.reset(seed=1)
    guarded, own = env.sim.callbacks[0], env.callbacks[0]
    with pytest.raises(VPTGymError, match="before_step returned None"):
        guarded.before_step(env.sim, {})
    assert isinstance(guarded, type(own))
    guarded.mark = 3
    assert own.mark == 3


def test_one_number_in_an_array_is_a_reward(playing: MinecraftEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = callback(after_step=lambda *given: (given[2], np.float32(2.5), np.bool_(False), 0, given[6]))
    monkeypatch.setattr(playing.sim, "callbacks", [Guard(mine)])
    _, reward, terminated, truncated, _ = playing.step(REST)
    assert (type(reward), reward, terminated, truncated) == (float, 2.5, False, False)
