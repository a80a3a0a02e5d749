"""MineStudio's real MinecraftSim behind Gymnasium's contract, over a stand-in for the Java engine."""

from __future__ import annotations

import copy
import json
import logging
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from tests.support.engine import MinecraftEngine
from vpt_gym.envs import FlattenDictAction
from vpt_gym.envs.minecraft.env import MinecraftEnv
from vpt_gym.envs.minecraft.keyboard import action_space, own_action
from vpt_gym.errors import ResetNeeded, VPTGymError

NOTHING = {"buttons": 0, "camera": 60}
KEYS = ["attack", "back", "forward", "jump", "left", "right", "sneak", "sprint", "use", "inventory"]


def test_gymnasium_makes_what_an_sb3_algorithm_needs(make: Any, minecraft_engine: MinecraftEngine) -> None:
    env = make()
    assert env.action_space == gym.spaces.MultiDiscrete([8641, 121])
    assert set(env.observation_space.spaces) == {"image"}
    observation, _ = env.reset(seed=1)
    assert env.observation_space.contains(observation)
    assert observation["image"].shape == (128, 128, 3)
    assert observation["image"].std() > 10, "the picture is empty"
    assert minecraft_engine.notes("size") == [[640, 360]]
    observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
    assert env.observation_space.contains(observation)
    assert (type(reward), type(terminated), type(truncated)) == (float, bool, bool)


def test_buttons_come_before_the_camera(game: MinecraftEnv, minecraft_engine: MinecraftEngine) -> None:
    env = FlattenDictAction(game, keys=("buttons", "camera"))
    env.reset(seed=1)
    pressed = game.sim.env_action_to_agent_action(
        {
            **{key: np.array([0]) for key in KEYS},
            **{"forward": np.array([1]), "camera": np.array([[10.0, -10.0]])},
        }
    )
    env.step(np.array([pressed["buttons"].item(), pressed["camera"].item()]))
    step = minecraft_engine.notes("step")[-1]
    assert (step["forward"], step["back"], step["attack"]) == ("1", "0", "0")
    down, right = (float(part) for part in step["camera"].split())
    assert down == pytest.approx(10, abs=0.01)
    assert right == pytest.approx(-10, abs=0.01)


def test_the_spec_makes_the_same_environment_again(make: Any) -> None:
    env = make(
        obs_size=(64, 32), max_episode_steps=7, callbacks=[("CommandsCallback", {"commands": ["/time set day"]})]
    )
    text = env.spec.to_json()
    assert json.loads(text)["additional_wrappers"][0]["name"] == "FlattenDictAction"
    for spec in (env.spec, gym.envs.registration.EnvSpec.from_json(text)):
        again = gym.make(spec)
        assert str(again) == str(env)
        assert again.action_space == env.action_space
        assert again.observation_space == env.observation_space
        assert again.observation_space["image"].shape == (32, 64, 3)  # type: ignore[index]
        assert again.unwrapped.callbacks[0].commands == ["/time set day"]  # type: ignore[attr-defined]
        again.close()


def test_the_picture_is_the_game_s(game: MinecraftEnv) -> None:
    observation, _ = game.reset(seed=5)
    picture = game.render()
    assert picture is not None
    assert (picture.shape, picture.dtype) == ((360, 640, 3), np.uint8)
    import cv2

    assert np.array_equal(observation["image"], cv2.resize(picture, (128, 128), interpolation=cv2.INTER_LINEAR))
    # Sky above, ground below: in all six videos' openings the upper half is the brighter one or as bright; rows are not
    # upside down if the game's health bar, a row of saturated reds and browns, is in the lower rows.
    bar = picture[310:360, 220:420].astype(int)
    top = picture[0:50, 220:420].astype(int)
    assert bar.reshape(-1, 3).std() > top.reshape(-1, 3).std()


def test_a_seed_opens_its_world(game: MinecraftEnv, minecraft_engine: MinecraftEngine) -> None:
    first, info = game.reset(seed=19961103)
    again, _ = game.reset(seed=19961103)
    other, _ = game.reset(seed=7)
    assert np.array_equal(first["image"], again["image"])
    assert not np.array_equal(first["image"], other["image"])
    assert minecraft_engine.notes("seed") == [19961103, 19961103, 7], "this is what the engine received"
    assert info["world_seed"] == 19961103


def test_without_a_seed_worlds_are_drawn_from_the_environment_s_generator(
    game: MinecraftEnv, minecraft_engine: MinecraftEngine
) -> None:
    for _ in range(2):
        game.reset(seed=3)
        game.reset()
        _, info = game.reset(options={})
    seeds = minecraft_engine.notes("seed")
    assert seeds[:3] == seeds[3:]
    assert len(set(seeds)) == 3
    assert info["world_seed"] == seeds[-1]


def test_a_world_can_be_fixed_and_named(make: Any, minecraft_engine: MinecraftEngine) -> None:
    env = make(world_seed=-5, obs_size=(64, 32))
    observation, _ = env.reset()
    assert observation["image"].shape == (32, 64, 3), "obs_size is a width and a height"
    env.reset(seed=9)
    env.reset(options={"world_seed": 2**62})
    env.reset()
    assert minecraft_engine.notes("seed") == [-5, -5, 2**62, -5]


@pytest.mark.parametrize("seed", [2**63, 1.5, "spawn", True])
def test_a_seed_that_minecraft_cannot_take(game: MinecraftEnv, seed: Any) -> None:
    with pytest.raises(VPTGymError, match="seed of a world must be a whole number"):
        game.reset(options={"world_seed": seed})


def test_an_unknown_option_of_reset(game: MinecraftEnv) -> None:
    with pytest.raises(VPTGymError, match=r"world_seed only, not \['word_seed'\]"):
        game.reset(options={"word_seed": 1})


def actions() -> list[Any]:
    arrays = {"buttons": np.array([12]), "camera": np.array([60])}
    tensors = {"buttons": torch.tensor([[12]]), "camera": torch.tensor(60)}
    return [{"buttons": 12, "camera": 60}, arrays, tensors, (12, 60), (np.array([12]), np.array(60))]


@pytest.mark.parametrize("action", actions(), ids=["ints", "arrays", "tensors", "tuple", "tuple of arrays"])
def test_the_caller_s_action_is_never_changed(
    playing: MinecraftEnv, minecraft_engine: MinecraftEngine, action: Any
) -> None:
    before = copy.deepcopy(action)
    for _ in range(2):
        playing.step(action)
    assert type(action) is type(before)
    assert repr(action) == repr(before)
    steps = minecraft_engine.notes("step")[-2:]
    assert steps[0] == steps[1]
    assert steps[0]["attack"] != steps[0]["jump"] or "1" in steps[0].values(), "action 12 presses something"


def test_a_flat_action_is_never_changed(game: MinecraftEnv) -> None:
    env = FlattenDictAction(game, keys=("buttons", "camera"))
    env.reset(seed=1)
    action = np.array([12, 60])
    env.step(action)
    assert action.tolist() == [12, 60]


def test_keys_that_the_game_does_not_know_may_be_there_unpressed() -> None:
    """As in the actions of MineRL's and VPT's agents: a test of the dict alone."""
    space = action_space("env", 8641, 121)
    agents = {"ESC": 0, "drop": np.array([0]), "pickItem": 0, "swapHands": torch.tensor(0), "forward": np.array(1)}
    action = own_action({**agents, "camera": np.array([1.0, 2.0])}, space)
    assert set(action) == set(space.spaces)
    assert action["forward"] == 1
    assert own_action({"buttons": 3, "camera": 4, "ESC": 0}, action_space("agent", 8641, 121))["buttons"] == 3
    for pressed in ({"ESC": 1}, {"drop": np.array([1])}, {"swapHands": "0"}, {"chat": None}):
        with pytest.raises(
            VPTGymError, match=rf"unknown keys \['{next(iter(pressed))}'\].* others must be 0, not pressed"
        ):
            own_action({**agents, **pressed}, space)


@pytest.mark.parametrize(
    ("action", "sentence"),
    [
        ({"buttons": 0}, "must have the keys buttons and camera"),
        ({"buttons": 0, "camera": 0, "chat": "/kill"}, r"unknown keys \['chat'\]"),
        ({"buttons": 8641, "camera": 0}, r"action\['buttons'\] must be a whole number in Discrete\(8641\)"),
        ({"buttons": 0, "camera": -1}, r"action\['camera'\] must be"),
        ({"buttons": 0, "camera": 1.5}, r"action\['camera'\] must be"),
        ({"buttons": 0, "camera": float("nan")}, r"action\['camera'\] must be"),
        ({"buttons": np.zeros(2), "camera": 0}, r"action\['buttons'\] must be"),
        (np.array([0, 0]), 'action_type="multi_discrete"'),
    ],
)
def test_what_is_no_action_is_refused_before_the_game_hears_of_it(
    playing: MinecraftEnv, minecraft_engine: MinecraftEngine, action: Any, sentence: str
) -> None:
    heard = len(minecraft_engine.notes("step"))
    with pytest.raises(VPTGymError, match=sentence):
        playing.step(action)
    assert len(minecraft_engine.notes("step")) == heard
    playing.step(NOTHING)


def test_keys_and_mouse(make: Any, minecraft_engine: MinecraftEngine) -> None:
    env = make(action_type="env")
    assert isinstance(env.unwrapped, MinecraftEnv)
    assert set(env.action_space.spaces) == {*KEYS, "camera", *(f"hotbar.{slot}" for slot in range(1, 10))}
    env.reset(seed=1)
    action = {"attack": 1, "hotbar.3": np.int64(1), "camera": np.array([-7.5, 90.25])}
    before = copy.deepcopy(action)
    env.step(action)
    assert repr(action) == repr(before)
    step = minecraft_engine.notes("step")[-1]
    assert step["attack"] == step["hotbar.3"] == "1"
    assert step["camera"] == "-7.5 90.25"
    assert {value for key, value in step.items() if key not in ("attack", "hotbar.3", "camera")} == {"0"}
    env.step(env.action_space.sample())
    env.step({"camera": [torch.tensor(1.0), torch.tensor(2.0)]})
    assert minecraft_engine.notes("step")[-1]["camera"] == "1.0 2.0"
    for camera in (
        [0.0, 181.0],
        [1.0],
        [np.nan, 0.0],
        [1e300, 0.0],
        [0, [1, 2]],
        None,
        "up",
        ["1", "2"],
        {},
        [1j, 0],
        [True, False],
    ):
        with pytest.raises(VPTGymError, match=r"action\['camera'\] must be two turns"):
            env.step({"camera": camera})
    with pytest.raises(VPTGymError, match=r"action\['jump'\] must be a whole number in Discrete\(2\)"):
        env.step({"jump": 2})


def test_what_is_handed_out_is_the_caller_s(game: MinecraftEnv) -> None:
    observation, info = game.reset(seed=2)
    picture = game.render()
    assert picture is not None
    picture[...] = 0
    assert game.render().any()  # type: ignore[union-attr]
    kept = observation["image"].copy(), pickle.dumps(info)
    next_observation, _, _, _, next_info = game.step(NOTHING)
    assert np.array_equal(observation["image"], kept[0])
    assert pickle.dumps(info) == kept[1], "info holds plain values that a worker process can send"
    assert not np.shares_memory(observation["image"], next_observation["image"])
    for spoilt in (observation, info, next_observation, next_info["inventory"], next_info["custom"], next_info):
        spoilt.clear()
    _, _, _, _, info = game.step({"buttons": 0, "camera": 60})
    assert info["inventory"][35] == {"type": "none", "quantity": 0}
    assert info["player_pos"]["x"] == 1.0
    assert type(info["location_stats"]["biome_id"]) is int


def test_facts_of_the_last_episode_are_gone(make: Any) -> None:
    env = make(callbacks=[("VoxelsCallback", {})])
    env.reset(seed=1)
    _, _, _, _, info = env.step(np.array([0, 60]))
    assert info["voxels"] == [{"x": 0, "y": -1, "z": 0, "type": "grass_block"}]
    _, info = env.reset()
    assert "voxels" not in info
    assert "pov" not in info


def test_the_full_picture_in_info(make: Any) -> None:
    env = make(pov_in_info=True, render_mode="rgb_array", preferred_spawn_biome="desert")
    _, info = env.reset(seed=1)
    assert np.array_equal(info["pov"], env.render())
    info["pov"][...] = 0
    assert env.render().any()


def test_steps_need_a_running_episode(make: Any) -> None:
    env = make(render_mode="rgb_array").unwrapped
    with pytest.raises(ResetNeeded, match="call reset first"):
        env.step(NOTHING)
    with pytest.raises(ResetNeeded, match="call reset first"):
        env.render()
    env.close()
    with pytest.raises(VPTGymError, match="was closed"):
        env.reset()


def test_what_minestudio_prints_goes_to_the_log(
    make: Any, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "vpt_gym.envs.minecraft")
    env = make(callbacks=[("TaskCallback", {"task_cfg": [{"name": "chop", "text": "chop a tree"}]})])
    env.reset(seed=1)
    env.step(env.action_space.sample())
    env.close()
    assert capfd.readouterr().out == ""
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert "Switching to task: chop." in said
    assert "Starting Minecraft process" in said


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"action_type": "buttons"}, "action_type must be one of multi_discrete, agent, env, not 'buttons'"),
        ({"obs_size": 128}, "obs_size must be a width and a height"),
        ({"obs_size": (128, 0)}, "each side of obs_size must be a positive whole number, not 0"),
        ({"render_size": (640.0, 360.0)}, "each side of render_size must be a positive whole number"),
        ({"num_empty_frames": 0}, "num_empty_frames must be a positive whole number, not 0"),
        ({"launch_timeout": 0}, "launch_timeout must be a number of seconds above 0"),
        ({"camera_config": {"bins": 11}}, r"camera_config=\{'bins': 11\} is none of MineStudio's: .*'bins'"),
        ({"camera_config": {"camera_maxval": 3}}, "makes 4 bins an axis"),
        ({"camera_config": [2]}, r"camera_config must be a dict such as .*, not \[2\]"),
        ({"camera_config": {"camera_binsize": 0}}, "camera_binsize must be a positive whole number, not 0"),
        ({"camera_config": {"camera_maxval": -10}}, "camera_maxval must be a positive whole number, not -10"),
        ({"camera_config": {"camera_mu": float("nan")}}, "camera_mu must be a number above 0, not nan"),
        ({"launch_timeout": float("inf")}, "launch_timeout must be a number of seconds above 0, not inf"),
        ({"launch_timeout": "long"}, "launch_timeout must be a number of seconds above 0, not 'long'"),
        ({"obs_size": (5000, 128)}, "each side of obs_size must be at most 4096 pixels, not 5000"),
        ({"render_size": (640, 10**9)}, "each side of render_size must be at most 4096"),
        ({"inventory": ["log"]}, r"inventory must be a dict, as MineStudio's, or None, not \['log'\]"),
        ({"preferred_spawn_biome": 3}, "preferred_spawn_biome must be the name of a biome or None, not 3"),
        ({"callback_observations": ["depth"]}, "callback_observations must be a dict of Gymnasium's spaces"),
        ({"callback_observations": {"depth": 3}}, "callback_observations must be a dict of Gymnasium's spaces"),
        ({"callback_observations": {"image": gym.spaces.Discrete(2)}}, "must not name image"),
        ({"obs_siz": (4, 4)}, "there are no options obs_siz; there are action_type, obs_size, "),
        ({"world_seed": 2**70}, "seed of a world must be a whole number"),
        ({"callbacks": ("TaskCallback", {})}, "a callback must be an instance of"),
        ({"callbacks": "TaskCallback"}, "callbacks= must be a list"),
        ({"callbacks": [("NoCallback", {})]}, r"came|a callback must be an instance of"),
        ({"callbacks": [("VoxelsCallback", {"size": 3})]}, "MineStudio's VoxelsCallback does not take"),
        ({"callbacks": [print]}, "a callback must be an instance of"),
    ],
)
def test_options_that_make_no_sense(make: Any, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(VPTGymError, match=sentence):
        make(**options)


def test_render_modes(make: Any) -> None:
    assert make().unwrapped.render() is None
    with pytest.raises(VPTGymError, match="render_mode must be 'rgb_array' or None, not 'human'"):
        MinecraftEnv(render_mode="human")
