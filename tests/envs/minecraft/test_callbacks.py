"""MineStudio's own callbacks at work in the environment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from tests.support.engine import MinecraftEngine
from vpt_gym.encoders.minestudio.package import import_minestudio
from vpt_gym.errors import VPTGymError

LOGS = [{"event": "mine_block", "identity": "log", "objects": ["oak_log"], "reward": 2.5, "max_reward_times": 3}]
FAST = ("FastResetCallback", {"biomes": ["plains"], "random_tp_range": 100})


def pressing(env: gym.Env[Any, Any], key: str) -> np.ndarray:
    """The flat action of one key."""
    mapping = env.unwrapped.sim.action_mapper  # type: ignore[attr-defined]
    return np.array([next(i for i, keys in mapping.BUTTONS_IDX_TO_COMBINATION.items() if key in keys), 60])


def test_rewards(make: Any) -> None:
    env = make(callbacks=[("RewardsCallback", {"reward_cfg": LOGS})])
    attack, rest = pressing(env, "attack"), np.array([0, 60])
    for _ in range(2):
        env.reset(seed=1)
        rewards = [env.step(action)[1] for action in (rest, attack, rest, attack, attack, attack)]
        assert rewards == [0.0, 2.5, 0.0, 2.5, 2.5, 0.0], "three times, counted from 0 in each episode"
        assert {type(reward) for reward in rewards} == {float}


def test_two_environments_in_one_process_do_not_share_a_callback(make: Any) -> None:
    rewards = import_minestudio("minestudio.simulator.callbacks").RewardsCallback(LOGS)
    one, other = (make(callbacks=[rewards]) for _ in range(2))
    for env in (one, other):
        env.reset(seed=1)
    attack = pressing(one, "attack")
    assert [one.step(attack)[1] for _ in range(4)] == [2.5, 2.5, 2.5, 0.0]
    assert other.step(attack)[1] == 2.5
    assert one.unwrapped.callbacks[0].current_step == 4
    assert rewards.current_step == 0, "the caller's object is the caller's"


def test_a_caller_who_spoils_info_spoils_no_reward(make: Any) -> None:
    env = make(callbacks=[("RewardsCallback", {"reward_cfg": LOGS})])
    _, info = env.reset(seed=1)
    info["mine_block"]["oak_log"] = 50
    _, reward, *_ = env.step(pressing(env, "attack"))
    assert reward == 2.5


def test_a_fast_reset_keeps_the_world_until_a_seed_is_given(make: Any, minecraft_engine: MinecraftEngine) -> None:
    env = make(callbacks=[FAST])
    env.reset(seed=1)
    _, info = env.reset()
    assert info["world_seed"] == 1
    assert minecraft_engine.notes("seed") == [1]
    chats = [step["chat"] for step in minecraft_engine.notes("step") if "chat" in step]
    assert chats[0] == "/kill"
    assert chats[-1].startswith("/teleportbiome @a plains")
    _, info = env.reset(seed=2)
    env.reset(options={"world_seed": 3})
    assert info["world_seed"] == 2
    assert minecraft_engine.notes("seed") == [1, 2, 3]


def test_a_hard_reset_callback_chooses_the_world(make: Any, minecraft_engine: MinecraftEngine) -> None:
    env = make(callbacks=[("HardResetCallback", {"spawn_positions": [{"seed": 77, "position": [1, 64, 2]}]})])
    _, info = env.reset(seed=1)
    assert minecraft_engine.notes("seed") == [77]
    assert info["world_seed"] == 77


def test_tasks_commands_mobs_and_inventory(make: Any, minecraft_engine: MinecraftEngine) -> None:
    mobs = [{"name": "cow", "number": 1, "range_x": [-5, 5], "range_z": [-5, 5]}]
    env = make(
        callbacks=[
            ("SummonMobsCallback", {"mobs": mobs}),
            ("CommandsCallback", {"commands": ["/time set day"]}),
            ("InitInventoryCallback", {"init_inventory": [{"slot": 0, "type": "oak_planks", "quantity": 64}]}),
            ("TaskCallback", {"task_cfg": [{"name": "chop", "text": "chop a tree"}]}),
            ("MaskActionsCallback", {"jump": np.array(0)}),
            ("SpeedTestCallback", {"interval": 1000}),
        ]
    )
    for _ in range(2):
        observation, info = env.reset(seed=1)
        assert set(observation) == {"image"}
        assert info["task"] == {"name": "chop", "text": "chop a tree"}
        assert info["inventory"][0] == {"type": "oak_planks", "quantity": 64}
    chats = [step["chat"] for step in minecraft_engine.notes("step") if "chat" in step]
    assert chats[: len(chats) // 2] == chats[len(chats) // 2 :], "the cow stands where the seed puts it"
    assert any("summon minecraft:cow" in chat for chat in chats)
    assert "/time set day" in chats
    env.step(pressing(env, "jump"))
    assert minecraft_engine.notes("step")[-1]["jump"] == "0"
    assert env.unwrapped.callbacks[-1].num_steps == 1


def test_recordings(make: Any, tmp_path: Path) -> None:
    env = make(
        callbacks=[("RecordCallback", {"record_path": str(tmp_path), "frame_type": "obs", "record_actions": True})]
    )
    observation, _ = env.reset(seed=1)
    observation["image"][...] = 0
    for _ in range(4):
        env.step(pressing(env, "jump"))
    env.close()
    env.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["episode_1.mp4", "episode_1_action.json"]
    recorded = json.loads((tmp_path / "episode_1_action.json").read_text())
    assert [action.get("jump") for action in recorded] == [None, 1, 1, 1, 1]
    import cv2

    video = cv2.VideoCapture(str(tmp_path / "episode_1.mp4"))
    frames = [video.read()[1] for _ in range(5)]
    assert frames[0].mean() > 20, "the caller blackened the observation, not the recording"


def test_what_callbacks_add_to_the_observation(make: Any) -> None:
    def agrees(env: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        observation, _ = env.reset(seed=1)
        assert env.observation_space.contains(observation)
        observation, _, _, _, info = env.step(pressing(env, "jump"))
        assert env.observation_space.contains(observation)
        return observation, info

    _, info = agrees(make(callbacks=[("PrevActionCallback", {})]))
    assert info["env_prev_action"]["jump"] == 1
    keys = ["attack", "use", "inventory", "forward", "back", "left", "right", "sneak", "sprint", "jump", "drop"]
    keys += [f"hotbar.{slot}" for slot in range(1, 10)]
    presses: dict[str, gym.Space[Any]] = {key: gym.spaces.Box(0, 1, (), np.int64) for key in keys}
    camera = gym.spaces.Box(-180, 180, (2,), np.float64)
    space = gym.spaces.Dict({**presses, "camera": camera})
    env = make(callbacks=[("PrevActionCallback", {})], callback_observations={"env_prev_action": space})
    observation, info = agrees(env)
    assert observation["env_prev_action"]["jump"] == 1
    assert "env_prev_action" not in info
    observation["env_prev_action"]["jump"][...] = 0
    assert env.unwrapped.callbacks[0].prev_action["jump"] == 1


def test_a_callback_may_end_an_episode(make: Any) -> None:
    module = import_minestudio("minestudio.simulator.callbacks")

    class Ends(module.MinecraftCallback):  # type: ignore[misc, name-defined]
        def __init__(self, flags: tuple[bool, bool]) -> None:
            self.flags = flags

        def after_step(self, sim: Any, obs: Any, reward: Any, terminated: Any, truncated: Any, info: Any) -> Any:
            return obs, reward, *self.flags, info

    for flags in ((True, False), (False, True)):
        env = make(callbacks=[Ends(flags)])
        env.reset(seed=1)
        assert env.step(np.array([0, 60]))[2:4] == flags


def test_a_time_limit_inside_a_compose_truncates(make: Any) -> None:
    module = import_minestudio("minestudio.simulator.callbacks")
    rewards, limit = module.RewardsCallback(LOGS), module.JudgeResetCallback(5)
    inner = module.Compose([module.JudgeResetCallback(3)])
    env = make(callbacks=[module.Compose([rewards, limit, inner]), module.JudgeResetCallback(4)])
    attack = pressing(env, "attack")
    for _ in range(2):
        env.reset(seed=1)
        steps = [env.step(attack)[1:4] for _ in range(3)]
        assert steps == [(2.5, False, False), (2.5, False, False), (2.5, False, True)]
    assert len(env.unwrapped.callbacks[0].callbacks) == 3, "the environment's own list keeps what was given"


def test_a_time_limit_must_not_be_drawn(make: Any) -> None:
    module = import_minestudio("minestudio.simulator.callbacks")
    drawn = [module.JudgeResetCallback(5), module.RewardsCallback(LOGS)]
    with pytest.raises(VPTGymError, match="JudgeResetCallback is inside a Compose that draws"):
        make(callbacks=[("Compose", {"callbacks": drawn, "options": 1})])


@pytest.mark.parametrize("config", [{"camera_binsize": 1}, {"camera_maxval": 20, "camera_binsize": 4}])
def test_other_bins_of_the_camera(make: Any, config: dict[str, Any]) -> None:
    env = make(camera_config=config)
    bins = 2 * config.get("camera_maxval", 10) // config["camera_binsize"] + 1
    assert env.action_space.nvec.tolist() == [8641, bins**2]
