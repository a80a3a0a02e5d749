"""FlattenDictAction: any Dict of discrete actions as one MultiDiscrete."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from vpt_gym.envs import FlattenDictAction
from vpt_gym.errors import VPTGymError

DISCRETE, MULTI = gym.spaces.Discrete, gym.spaces.MultiDiscrete


class Listener(gym.Env[Any, Any]):
    """Keeps the last action."""

    observation_space = gym.spaces.Discrete(2)

    def __init__(self, space: gym.Space[Any]) -> None:
        self.action_space = space
        self.heard: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        return 0, {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.heard = action
        return 0, 0.0, False, False, {}


MIXED = gym.spaces.Dict({"b": DISCRETE(3, start=-1), "a": MULTI([[2, 5], [3, 4]]), "c": DISCRETE(7)})


def flat(space: gym.Space[Any], **options: Any) -> FlattenDictAction:
    return FlattenDictAction(Listener(space), **options)


def test_places_follow_keys() -> None:
    env = flat(MIXED, keys=("c", "b", "a"))
    assert env.action_space == MULTI([7, 3, 2, 5, 3, 4])
    env.step(np.array([6, 0, 1, 4, 2, 3]))
    heard = env.unwrapped.heard  # type: ignore[attr-defined]
    assert heard["c"] == 6
    assert heard["b"] == -1
    assert heard["a"].tolist() == [[1, 4], [2, 3]]


def test_the_space_s_own_order_is_the_default() -> None:
    assert flat(MIXED).action_space.nvec.tolist() == [  # type: ignore[attr-defined]
        place for key in MIXED.spaces for place in np.ravel(getattr(MIXED[key], "nvec", getattr(MIXED[key], "n", None)))
    ]


def test_every_flat_action_is_one_of_the_environment() -> None:
    env = flat(MIXED, keys=("b", "a", "c"))
    env.action_space.seed(0)
    seen = set()
    for _ in range(300):
        env.step(env.action_space.sample())
        heard = env.unwrapped.heard  # type: ignore[attr-defined]
        assert MIXED.contains(heard)
        seen.add((int(heard["b"]), int(heard["c"])))
    assert len(seen) == 21, "some action cannot be reached"


def test_the_caller_s_array_stays_the_caller_s() -> None:
    env = flat(MIXED)
    action = env.action_space.sample()
    before = action.copy()
    env.step(action)
    for value in env.unwrapped.heard.values():  # type: ignore[attr-defined]
        if isinstance(value, np.ndarray):
            value[...] = 0
    assert np.array_equal(action, before)


def test_a_multidiscrete_that_starts_elsewhere() -> None:
    space = gym.spaces.Dict({"a": MULTI([3, 2], start=[10, -5])})
    env = flat(space)
    env.step([2, 1])
    assert env.unwrapped.heard["a"].tolist() == [12, -4]  # type: ignore[attr-defined]


def test_it_is_recorded_in_the_spec() -> None:
    env = flat(MIXED, keys=["c", "b", "a"])
    assert env._saved_kwargs == {"keys": ["c", "b", "a"]}


@pytest.mark.parametrize(
    ("space", "keys", "sentence"),
    [
        (MULTI([2, 3]), None, "needs a Dict"),
        (gym.spaces.Dict({"a": gym.spaces.Box(-1, 1)}), None, r"action\['a'\] is Box.*discretise it"),
        (gym.spaces.Dict({"a": gym.spaces.Dict({"b": DISCRETE(2)})}), None, r"action\['a'\] is Dict"),
        (gym.spaces.Dict({"a": gym.spaces.MultiBinary(2)}), None, r"action\['a'\] is MultiBinary"),
        (MIXED, ("a", "b"), "each key of the action once"),
        (MIXED, ("a", "b", "c", "c"), "each key of the action once"),
        (MIXED, ("a", "b", "d"), "each key of the action once"),
        (MIXED, ("a", "b", 3), "each key of the action once"),
        (MIXED, ("a", "b", ["c"]), "each key of the action once"),
        (MIXED, 3, "keys= must be a list of the keys of the action, .*, but 3 came"),
        (MIXED, "abc", "keys= must be a list of the keys of the action, .*, but 'abc' came"),
        (gym.spaces.Dict({}), None, "a Dict without entries"),
    ],
)
def test_what_cannot_be_flattened_is_refused(space: gym.Space[Any], keys: Any, sentence: str) -> None:
    with pytest.raises(VPTGymError, match=sentence):
        flat(space, keys=keys)


@pytest.mark.parametrize("env", [None, "vpt_gym/Minecraft-v0", Listener])
def test_what_is_no_environment_is_refused(env: Any) -> None:
    with pytest.raises(VPTGymError, match=r"FlattenDictAction wraps a Gymnasium environment, but .* came"):
        FlattenDictAction(env)


def test_keys_of_different_kinds() -> None:
    space = gym.spaces.Dict([(1, DISCRETE(3)), ("a", DISCRETE(2))])  # type: ignore[list-item]
    assert flat(space).action_space == MULTI([3, 2])


@pytest.mark.parametrize(
    "action", [[0], [0, 0, 0, 0, 0, 7], [0, 0, 0, 0, 0, -1], [0.5] * 6, {"a": 1}, None, [0, [1, 2]]]
)
def test_an_action_outside_the_flat_space_is_refused(action: Any) -> None:
    env = flat(MIXED, keys=("b", "a", "c"))
    with pytest.raises(VPTGymError, match="the action must be in MultiDiscrete"):
        env.step(action)
    assert env.unwrapped.heard is None  # type: ignore[attr-defined]
