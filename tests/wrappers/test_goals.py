"""A goal in words stands beside the latent, as CLIP embeds it, in every wrapper, and heads see it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3 import PPO

import vpt_gym
from tests.offline.material import small_encoder
from tests.support.diffusion import save_clip, save_text_to_video
from vpt_gym.encoders.text import embed_goal, text_tower
from vpt_gym.errors import ObservationError, OptionError, WeightsError
from vpt_gym.heads import DiffusionPolicy
from vpt_gym.latents import latent_box
from vpt_gym.sb3 import make_latent_vec_env
from vpt_gym.training import TrainingConfig
from vpt_gym.training.environments import latent_envs
from vpt_gym.training.scaling import scaled

WORDS = ("turn to the monster", "run")


class Missions(gym.Env[Any, Any]):
    """Episodes of three frames, which say what is wanted: now this, now that."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Dict(
            {"screen": gym.spaces.Box(0, 255, (36, 64, 3), np.uint8), "mission": gym.spaces.Text(30)}
        )
        self.action_space = gym.spaces.Discrete(2)
        self.episode = -1
        self.said: Any = None

    def _seen(self) -> dict[str, Any]:
        words = WORDS[self.episode % 2] if self.said is None else self.said
        return {"screen": np.full((36, 64, 3), 100 + 10 * self.steps, np.uint8), "mission": words}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps, self.episode = 0, self.episode + 1
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self._seen(), 0.0, False, self.steps == 3, {}


gym.register("vpt_gym_tests/Missions-v0", Missions)
MISSIONS = "tests.wrappers.test_goals:vpt_gym_tests/Missions-v0"
"""Its id, which worker processes find too."""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_clip(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="module")
def goals(clip: str) -> list[np.ndarray]:
    return [embed_goal(words, clip) for words in WORDS]


def test_one_environment(clip: str, goals: list[np.ndarray]) -> None:
    encoder = small_encoder()
    env = vpt_gym.VPTLatentObservation(Missions(), encoder, goal=WORDS[0], clip=clip)
    plain = vpt_gym.VPTLatentObservation(Missions(), encoder)
    assert env.observation_space == gym.spaces.Dict({"latent": encoder.latent_space, "goal": latent_box(16)})
    observation = env.reset()[0]
    assert observation in env.observation_space
    np.testing.assert_array_equal(observation["latent"], plain.reset()[0])
    np.testing.assert_array_equal(observation["goal"], goals[0])
    observation["goal"][:] = 0
    np.testing.assert_array_equal(env.step(0)[0]["goal"], goals[0], "what was handed out is the caller's")

    env = vpt_gym.VPTLatentObservation(Missions(), encoder, goal_key="mission", clip=clip, to="torch")
    for wanted in (goals[0], goals[1]):
        seen = [env.reset()[0], env.step(0)[0]]
        for observation in seen:
            assert isinstance(observation["goal"], torch.Tensor)
            np.testing.assert_array_equal(observation["goal"].numpy(), wanted)


def test_equal_words_are_embedded_once(clip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tower = text_tower(clip)
    calls = []
    run = tower._run
    monkeypatch.setattr(tower, "_run", lambda text, *rest, **named: calls.append(text) or run(text, *rest, **named))
    env = vpt_gym.VPTLatentObservation(Missions(), small_encoder(), goal_key="mission", clip=clip)
    env.env.said = "something new"
    env.reset()
    for _ in range(3):
        env.step(0)
    assert calls == ["something new"]


def test_gymnasiums_vector_environments(clip: str, goals: list[np.ndarray]) -> None:
    venv = SyncVectorEnv([Missions, Missions], autoreset_mode=AutoresetMode.SAME_STEP)
    env = vpt_gym.vector.VPTLatentObservation(venv, small_encoder(), goal_key="mission", clip=clip)
    observations, _ = env.reset()
    assert observations in env.observation_space
    for step in range(3):
        np.testing.assert_array_equal(observations["goal"], [goals[0]] * 2)
        observations, _, _, _, infos = env.step([0, 0])
        assert ("final_obs" in infos) == (step == 2)
    np.testing.assert_array_equal(observations["goal"], [goals[1]] * 2)
    np.testing.assert_array_equal(infos["final_obs"][1]["goal"], goals[0])


@pytest.mark.parametrize("n_envs", [1, 2])
def test_many_environments_and_the_heads_on_them(clip: str, goals: list[np.ndarray], n_envs: int) -> None:
    """Texts cross to the encoder's process, an ended episode's last goal is its own, and SB3 and a DiffusionPolicy act."""
    encoder = small_encoder()
    venv = make_latent_vec_env(Missions, n_envs, encoder=encoder, goal_key="mission", clip=clip)
    try:
        observations = venv.reset()
        for _ in range(3):
            np.testing.assert_array_equal(observations["goal"], [goals[0]] * n_envs)
            observations, _, dones, infos = venv.step(np.zeros(n_envs, int))
        assert dones.all()
        np.testing.assert_array_equal(observations["goal"], [goals[1]] * n_envs)
        np.testing.assert_array_equal(infos[0]["terminal_observation"]["goal"], goals[0])

        diffusion = DiffusionPolicy(
            venv.observation_space, venv.action_space, width=16, encoder_layers=1, decoder_layers=1
        )
        actions, _ = diffusion.predict(observations)
        assert actions.shape == (n_envs,)
        model = PPO("MultiInputPolicy", scaled(venv, gamma=0.99), n_steps=4, batch_size=4, device="cpu", seed=0)
        model.learn(8)
        assert any((model._last_obs["goal"][0] == goal).all() for goal in goals), "goals are not scaled"
    finally:
        venv.close()


def test_refused(clip: str, tmp_path: Path) -> None:
    encoder = small_encoder()

    def wrapped(**options: Any) -> Any:
        return vpt_gym.VPTLatentObservation(Missions(), encoder, **options)

    with pytest.raises(OptionError, match="clip is given, and is of use with goal or goal_key alone"):
        wrapped(clip=clip)
    with pytest.raises(OptionError, match="give one of them"):
        wrapped(goal="run", goal_key="mission", clip=clip)
    with pytest.raises(WeightsError, match="nowhere"):
        wrapped(goal="run", clip=str(tmp_path / "nowhere"))
    with pytest.raises(OptionError, match=r"A goal of \d+ tokens is longer than the 77"):
        wrapped(goal="go on " * 30, clip=clip)
    with pytest.raises(OptionError, match="goal must be words"):
        wrapped(goal=" ", clip=clip)
    for key in ("screen", "none"):
        with pytest.raises(ObservationError, match=f"goal_key='{key}' must name a Text entry"):
            wrapped(goal_key=key, clip=clip)
    env = wrapped(goal_key="mission", clip=clip)
    env.env.said = 3
    with pytest.raises(ObservationError, match=r"observation\['mission'\] must be a text"):
        env.reset()


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An encoder that reads its texts from the entry that says the goal."""
    pipeline = save_text_to_video(tmp_path_factory.mktemp("pipeline"))
    return vpt_gym.load_encoder(f"video:{pipeline}?frames=2", device="cpu", text_key="mission")


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("goal_key", [None, "mission"])
def test_an_encoder_reads_texts_behind_many_environments(
    clip: str, goals: list[np.ndarray], reader: Any, n_envs: int, goal_key: str | None
) -> None:
    alone = vpt_gym.VPTLatentObservation(Missions(), reader)
    named = {} if goal_key is None else {"goal_key": goal_key, "clip": clip}
    venv = make_latent_vec_env(Missions, n_envs, encoder=reader, **named)
    try:
        observations, wanted = venv.reset(), alone.reset()[0]
        for step in range(4):
            latents = observations if goal_key is None else observations["latent"]
            np.testing.assert_array_equal(latents, np.stack([wanted] * n_envs))
            if goal_key is not None:
                np.testing.assert_array_equal(observations["goal"], [goals[step == 3]] * n_envs)
            observations, _, dones, infos = venv.step(np.zeros(n_envs, int))
            wanted = alone.step(0)[0]
            if dones.all():
                last = infos[-1]["terminal_observation"]
                np.testing.assert_array_equal(last if goal_key is None else last["latent"], wanted)
                wanted = alone.reset()[0]
    finally:
        venv.close()


def test_a_run_with_pixels_on_an_encoder_that_reads_texts(clip: str, goals: list[np.ndarray], reader: Any) -> None:
    config = TrainingConfig(MISSIONS, reader.source, pixels="cnn", goal_key="mission", clip=clip, video="none")
    venv = latent_envs(config, reader, 1)
    try:
        observations, wanted = venv.reset(), vpt_gym.VPTLatentObservation(Missions(), reader).reset()[0]
    finally:
        venv.close()
    assert set(observations) == {"latent", "image", "goal"}
    np.testing.assert_array_equal(observations["latent"][0], wanted)
    np.testing.assert_array_equal(observations["goal"][0], goals[0])
