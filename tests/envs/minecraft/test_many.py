"""Several games at once: Gymnasium's vector environments, Stable-Baselines3's worker processes, and training on latents."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

import vpt_gym
from tests.support.engine import MinecraftEngine
from vpt_gym.rollout import WorkerVecEnv

LOGS = [{"event": "mine_block", "identity": "log", "objects": ["oak_log"], "reward": 1.0, "max_reward_times": 3}]
OPTIONS: dict[str, Any] = {
    "num_empty_frames": 1,
    "max_episode_steps": 5,
    "callbacks": [("RewardsCallback", {"reward_cfg": LOGS})],
}


def test_gymnasium_s_vector_environment(minecraft_engine: MinecraftEngine) -> None:
    envs = gym.make_vec("vpt_gym/Minecraft-v0", num_envs=2, vectorization_mode="sync", **OPTIONS)
    try:
        observations, infos = envs.reset(seed=[1, 2])
        assert observations["image"].shape == (2, 128, 128, 3)
        assert not np.array_equal(*observations["image"])
        assert infos["world_seed"].tolist() == [1, 2]
        for _ in range(6):
            observations, _, _, truncated, infos = envs.step(np.array([[0, 60], [0, 60]]))
        assert infos["inventory"][35]["quantity"].tolist() == [0, 0]
        assert not truncated.any(), "the sixth step opened the next episodes"
        assert len(set(minecraft_engine.notes("seed"))) == 4
    finally:
        envs.close()
    assert minecraft_engine.processes() == []


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_latents_of_two_games_in_worker_processes(minecraft_engine: MinecraftEngine) -> None:
    """A worker is a new interpreter: it finds the environment by the module in its id."""
    venv = vpt_gym.sb3.make_latent_vec_env(
        "vpt_gym/Minecraft-v0",
        2,
        encoder="random:mini",
        seed=11,
        env_kwargs=OPTIONS,
        vec_env_kwargs={"start_method": "spawn"},
    )
    try:
        assert isinstance(venv.unwrapped, WorkerVecEnv)
        latents = venv.reset()
        assert isinstance(latents, np.ndarray)
        assert (latents.shape, latents.dtype) == ((2, venv.observation_space.shape[0]), np.float32)  # type: ignore[index]
        assert not np.array_equal(*latents)
        for count in range(1, 6):
            latents, _, dones, infos = venv.step(np.array([[0, 60], [0, 60]]))
            assert dones.tolist() == [count == 5] * 2
        assert infos[0]["terminal_observation"].shape == latents[0].shape  # type: ignore[union-attr]
        assert infos[1]["TimeLimit.truncated"]
        assert sorted(minecraft_engine.notes("seed"))[:2] == [11, 12]
        model = PPO(
            "MlpPolicy", venv, n_steps=8, batch_size=8, n_epochs=1, policy_kwargs={"net_arch": [8]}, device="cpu"
        )
        model.learn(16)
        assert model.num_timesteps == 16
    finally:
        venv.close()
    assert minecraft_engine.processes() == []


def test_stable_baselines3_without_latents(minecraft_engine: MinecraftEngine) -> None:
    venv = make_vec_env("vpt_gym/Minecraft-v0", 1, env_kwargs={**OPTIONS, "obs_size": (36, 36)})
    try:
        model = PPO("MultiInputPolicy", venv, n_steps=4, batch_size=4, n_epochs=1, device="cpu")
        model.learn(4)
    finally:
        venv.close()
    assert minecraft_engine.processes() == []


def test_latents_of_one_game(make: Any) -> None:
    """The observation is the encoder's latent of the picture, in an episode of its own."""
    env = vpt_gym.VPTLatentObservation(make(max_episode_steps=3), "random:mini")
    latent, _ = env.reset(seed=5)
    plain = make(max_episode_steps=3)
    frames = [plain.reset(seed=5)[0]["image"]]
    latents = [latent]
    for _ in range(2):
        latents.append(env.step(np.array([0, 60]))[0])
        frames.append(plain.step(np.array([0, 60]))[0]["image"])
    expected = env.encoder.encode(np.stack(frames)[None])[0].cpu().numpy()
    assert np.abs(np.stack(latents) - expected).max() < 1e-4
