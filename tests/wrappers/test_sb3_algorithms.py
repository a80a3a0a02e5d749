"""The algorithms of SB3 and sb3-contrib on latents."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnvWrapper,
)

import vpt_gym
from tests.support.scripted import ScriptedEnv, quick_encoder, scripted
from vpt_gym.encoders.vpt import VPTEncoder
from vpt_gym.sb3 import VecVPTLatent, make_latent_vec_env


@pytest.fixture(scope="module")
def encoder() -> VPTEncoder:
    return quick_encoder()


@pytest.fixture(scope="module")
def mini() -> VPTEncoder:
    """The real network, small and untrained."""
    return vpt_gym.load_encoder("random:mini")


def dummy(count: int, **kwargs: Any) -> DummyVecEnv:
    return DummyVecEnv([scripted(i, **kwargs) for i in range(count)])


class Recorder(VecEnvWrapper):
    """Keeps a copy of every observation that passes."""

    def __init__(self, venv: Any) -> None:
        super().__init__(venv)
        self.seen: list[np.ndarray] = []

    def reset(self) -> Any:
        observations = self.venv.reset()
        self.seen.append(observations.copy())
        return observations

    def step_wait(self) -> Any:
        result = self.venv.step_wait()
        self.seen.append(result[0].copy())
        return result


def test_evaluation_in_mid_training_changes_nothing(encoder: VPTEncoder) -> None:
    """Same weights, own memory: training latents with and without an EvalCallback differ by exactly 0."""
    runs = []
    for evaluates in (False, True):
        venv = Recorder(VecVPTLatent(dummy(4), encoder))
        callback = None
        if evaluates:
            evaluation = Recorder(VecVPTLatent(DummyVecEnv([lambda: Monitor(ScriptedEnv(9))]), encoder))
            callback = EvalCallback(evaluation, eval_freq=20, n_eval_episodes=3, verbose=0)
        model = PPO("MlpPolicy", venv, n_steps=32, batch_size=32, n_epochs=1, seed=0, device="cpu")
        model.learn(400, callback=callback)
        runs.append(np.stack(venv.seen))
        if callback is not None:
            assert len(evaluation.seen) > 100, "no evaluation took place"
    assert runs[0].shape == runs[1].shape
    assert float(np.abs(runs[0] - runs[1]).max()) == 0


@pytest.mark.parametrize("algorithm", [PPO, A2C, DQN])
def test_algorithms_learn_on_vizdoom(algorithm: Any, mini: VPTEncoder) -> None:
    """2,000 steps each, on a real environment, in worker processes that resize the frames."""
    pytest.importorskip("vizdoom")
    venv = make_latent_vec_env("VizdoomBasic-v1", n_envs=4, encoder=mini, seed=0, env_kwargs={"frame_skip": 4})
    try:
        kwargs: dict[str, Any] = {PPO: {"n_steps": 125, "batch_size": 125}, DQN: {"learning_starts": 100}}.get(
            algorithm, {}
        )
        model = algorithm("MlpPolicy", venv, seed=0, device="cpu", **kwargs)
        before = [parameter.detach().clone() for parameter in model.policy.parameters()]
        model.learn(2000)
        assert model.num_timesteps >= 2000
        assert any(not (a == b).all() for a, b in zip(before, model.policy.parameters(), strict=True))
    finally:
        venv.close()


def test_sac_on_car_racing(mini: VPTEncoder) -> None:
    """A continuous pixel environment; SAC reads the terminal latent of every episode that ends."""
    pytest.importorskip("Box2D")
    venv = make_latent_vec_env(
        "CarRacing-v3", n_envs=1, encoder=mini, seed=0, env_kwargs={"continuous": True, "max_episode_steps": 150}
    )
    model = SAC("MlpPolicy", venv, seed=0, device="cpu", buffer_size=600, learning_starts=100, train_freq=8)
    model.learn(600)
    assert model.replay_buffer is not None
    assert model.replay_buffer.observations.dtype == np.float32
    assert model.replay_buffer.observations.shape[-1] == mini.latent_size
    venv.close()


def test_contrib_algorithms_run(encoder: VPTEncoder) -> None:
    contrib = pytest.importorskip("sb3_contrib")
    recurrent = contrib.RecurrentPPO(
        "MlpLstmPolicy", VecVPTLatent(dummy(2), encoder), n_steps=64, batch_size=64, seed=0
    )
    recurrent.learn(256)
    masked = contrib.MaskablePPO("MlpPolicy", VecVPTLatent(dummy(2), encoder), n_steps=64, batch_size=64, seed=0)
    masked.learn(256)
    assert masked.num_timesteps == 256


def test_dict_observations_train(encoder: VPTEncoder) -> None:
    venv = VecVPTLatent(dummy(2, extra=True), encoder, keep=("ammo", "room"))
    PPO("MultiInputPolicy", venv, n_steps=32, batch_size=32, n_epochs=1, device="cpu").learn(64)


def test_models_save_and_load(encoder: VPTEncoder, tmp_path: Path) -> None:
    venv = VecVPTLatent(dummy(2), encoder)
    model = PPO("MlpPolicy", venv, n_steps=32, batch_size=32, n_epochs=1, seed=0, device="cpu")
    model.learn(64)
    model.save(tmp_path / "model.zip")
    buffer = io.BytesIO()
    model.save(buffer)
    assert buffer.tell() < 2_000_000, "the frozen network must not travel with the head"
    loaded = PPO.load(tmp_path / "model.zip", env=VecVPTLatent(dummy(2), encoder), device="cpu")
    latents = venv.reset()
    assert np.array_equal(model.predict(latents, deterministic=True)[0], loaded.predict(latents, deterministic=True)[0])
    loaded.learn(64)
