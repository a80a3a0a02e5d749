"""Through the real wrappers: the latents of every frame, terminal ones too, are what the policy makes of its row alone."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3 import PPO
from stable_baselines3.common.distributions import MultiCategoricalDistribution
from stable_baselines3.common.vec_env import DummyVecEnv

import vpt_gym
from tests.encoders.minestudio.cases import TOLERANCE, Case, RocketCase, SteveCase
from tests.encoders.minestudio.policies import Alone, seen_by_heads
from tests.support.frames import MinecraftVideos
from tests.support.scripted import ScriptedEnv
from vpt_gym.encoders.minestudio import encoder_from_policy
from vpt_gym.errors import ObservationError
from vpt_gym.heads import PretrainedHeadPolicy
from vpt_gym.sb3 import VecVPTLatent, make_latent_vec_env

pytestmark = pytest.mark.minestudio

ROWS, STEPS = 3, 18
LENGTHS = (5, 1, 7)


class Game(ScriptedEnv):
    """Pictures with the mask and id that ROCKET-1 reads; both follow from the number of the frame."""

    def __init__(self, identity: int = 0) -> None:
        super().__init__(identity, lengths=LENGTHS[identity % 3 :] + LENGTHS[: identity % 3])
        self.observation_space = gym.spaces.Dict(
            {
                "image": self.observation_space,
                "obj_mask": gym.spaces.Box(0, 1, (90, 120), np.bool_),
                "obj_id": gym.spaces.Discrete(10, start=-1),
            }
        )

    def _observe(self) -> Any:
        picture = super()._observe()
        return {
            "image": picture,
            "obj_mask": RocketCase.mask(self.frame),
            "obj_id": np.int64(RocketCase.identity(self.frame)),
        }


class Expected:
    """What the policy's heads say of each frame of one game, stepped alone; conditions change from episode to episode."""

    def __init__(self, case: Case, identity: int, conditions: list[Any]) -> None:
        self.answers: list[dict[str, torch.Tensor]] = []
        game = Game(identity)
        now: list[Any] = []
        alone = Alone(case.policy, lambda: case.initial(now[0]))
        episode = 0
        while len(self.answers) < 2 * STEPS + 10:
            now[:] = [conditions[min(episode, len(conditions) - 1)]]
            game.reset()
            done, opens = False, True
            while True:
                inputs = case.inputs(game.picture(game.frame), game.frame, now[0])
                self.answers.append(alone.step(inputs, opens=opens)[0])
                if done:
                    break
                _, _, terminated, truncated, _ = game.step(0)
                done, opens = terminated or truncated, False
            episode += 1

    def check(self, case: Case, latent: np.ndarray, frame: int) -> None:
        logits, _ = seen_by_heads(case.policy, torch.from_numpy(latent)[None])
        for part, expected in self.answers[frame].items():
            difference = float((logits[part] - expected).abs().max())
            assert difference <= TOLERANCE, (part, frame, difference)


@pytest.fixture(scope="module", params=["rocket", "steve"])
def case(request: pytest.FixtureRequest) -> tuple[Case, Any, list[list[Any]]]:
    """A policy, its encoder, and what each row is told in one episode after another."""
    policy = request.getfixturevalue(request.param)
    if request.param == "rocket":
        return RocketCase(policy), encoder_from_policy(policy), [[None]] * ROWS
    told = SteveCase(policy)
    encoder = encoder_from_policy(policy, told.conditions[0])
    # Row 1 is told something else while its first episode runs.
    return told, encoder, [[told.conditions[0]], told.conditions[:2], [told.conditions[0]]]


def tell(case: tuple[Case, Any, list[list[Any]]], stream: Any, rows: list[int]) -> None:
    if len(case[2][1]) > 1:
        stream.set_condition(case[2][1][1], rows=rows)


def test_single(case: tuple[Case, Any, list[list[Any]]]) -> None:
    policy, encoder, conditions = case
    env = vpt_gym.VPTLatentObservation(Game(1), encoder, image_key="image")
    expected = Expected(policy, 1, conditions[1])
    latent, info = env.reset()
    assert env.observation_space.contains(latent)
    for step in range(STEPS):
        expected.check(policy, latent, info["frame"])
        if step == 0:
            tell(case, env.get_wrapper_attr("latent_stream"), [0])
        latent, _, terminated, truncated, info = env.step(0)
        if terminated or truncated:
            expected.check(policy, latent, info["frame"])
            latent, info = env.reset()


def test_sb3(case: tuple[Case, Any, list[list[Any]]]) -> None:
    policy, encoder, conditions = case
    venv = VecVPTLatent(DummyVecEnv([lambda i=i: Game(i) for i in range(ROWS)]), encoder, image_key="image")
    expected = [Expected(policy, row, conditions[row]) for row in range(ROWS)]
    latents = venv.reset()
    frames = [0] * ROWS
    for step in range(STEPS):
        for row in range(ROWS):
            expected[row].check(policy, latents[row], frames[row])
        if step == 0:
            tell(case, venv.latent_stream, [1])
        latents, _, dones, infos = venv.step(np.zeros(ROWS, int))
        for row, (done, info) in enumerate(zip(dones, infos, strict=True)):
            frames[row] = info["frame"] + done
            if done:
                expected[row].check(policy, info["terminal_observation"], info["frame"])


def test_vector_same_step(case: tuple[Case, Any, list[list[Any]]]) -> None:
    policy, encoder, conditions = case
    games = SyncVectorEnv([lambda i=i: Game(i) for i in range(ROWS)], autoreset_mode=AutoresetMode.SAME_STEP)
    envs = vpt_gym.vector.VPTLatentObservation(games, encoder, image_key="image")
    expected = [Expected(policy, row, conditions[row]) for row in range(ROWS)]
    latents, info = envs.reset()
    frames = info["frame"]
    for step in range(STEPS):
        for row in range(ROWS):
            expected[row].check(policy, latents[row], frames[row])
        if step == 0:
            tell(case, envs.latent_stream, [1])
        latents, _, terminated, truncated, info = envs.step(np.zeros(ROWS, int))
        frames = info["frame"]
        for row in np.flatnonzero(terminated | truncated):
            expected[row].check(policy, info["final_obs"][row], info["final_info"]["frame"][row])
    envs.close()


def test_an_environment_without_masks_is_refused(rocket: Any) -> None:
    with pytest.raises(ObservationError, match="the encoder reads 'obj_mask', 'obj_id' of every observation"):
        vpt_gym.VPTLatentObservation(ScriptedEnv(), encoder_from_policy(rocket))


def test_ppo_learns_on_rocket(rocket: Any) -> None:
    """Frames are resized in the workers to what ROCKET-1 reads, and its other entries come along."""
    venv = make_latent_vec_env(Game, 2, encoder=encoder_from_policy(rocket), image_key="image", vec_env_cls=DummyVecEnv)
    model = PPO("MlpPolicy", venv, n_steps=16, batch_size=8, n_epochs=1, device="cpu", seed=0)
    model.learn(32)
    assert model.num_timesteps == 32
    venv.close()


def test_sb3_policy_is_guided_steve(steve: Any, real_frames: MinecraftVideos) -> None:
    """STEVE-1's heads on guided latents, as a policy of Stable-Baselines3: the distribution that STEVE-1 samples from."""
    case = SteveCase(steve)
    condition = case.conditions[0]
    encoder = encoder_from_policy(steve, condition)
    actions = gym.spaces.MultiDiscrete([8641, 121])
    policy = PretrainedHeadPolicy(encoder.latent_space, actions, lambda _: 1e-4, heads=encoder.heads)
    stream, alone = encoder.stream(1), Alone(steve, lambda: case.initial(condition))
    for time, frame in enumerate(real_frames.small(5, rows=1)[0]):
        distribution = policy.get_distribution(stream.step(frame[None], [time == 0]))
        assert isinstance(distribution, MultiCategoricalDistribution)
        expected, _ = alone.step(case.inputs(frame, time, condition), opens=time == 0)
        for part, found in zip(("buttons", "camera"), distribution.distribution, strict=True):
            torch.testing.assert_close(found.logits.detach(), expected[part], atol=TOLERANCE, rtol=0)
