"""The SB3 wrapper against single environments, between other wrappers, and what it refuses."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)

import vpt_gym
from tests.support.scripted import LENGTHS, ScriptedEnv, quick_encoder, scripted
from vpt_gym.encoders.vpt import VPTEncoder
from vpt_gym.errors import ObservationError, ResetNeeded, VPTGymError
from vpt_gym.sb3 import VecVPTLatent, make_latent_vec_env

STEPS = 340
"""Every environment goes once through all lengths of its script, which are 322 steps together."""
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def encoder() -> VPTEncoder:
    return quick_encoder(blocks=2)


def dummy(count: int, **kwargs: Any) -> DummyVecEnv:
    return DummyVecEnv([scripted(i, **kwargs) for i in range(count)])


def alone(identity: int, encoder: VPTEncoder) -> list[np.ndarray]:
    """Latents of all frames of one environment, by frame number, from the single wrapper."""
    env = vpt_gym.VPTLatentObservation(ScriptedEnv(identity), encoder)
    latents = [env.reset()[0]]
    while len(latents) < STEPS + 2 * len(LENGTHS):  # a step shows two frames where it ends an episode
        latent, _, terminated, truncated, _ = env.step(0)
        latents.append(latent)
        if terminated or truncated:
            latents.append(env.reset()[0])
    return latents


def test_batched_equals_single(encoder: VPTEncoder) -> None:
    """The whole script in 8 staggered environments: 0 latents wrong; terminal ones 0 wrong, 0 missing, 0 where none belongs."""
    count = 8
    expected = [alone(i, encoder) for i in range(count)]
    venv = VecVPTLatent(dummy(count), encoder)
    latents = venv.reset()
    frames = np.zeros(count, int)
    terminal = 0
    for _ in range(STEPS):
        for row in range(count):
            assert np.abs(latents[row] - expected[row][frames[row]]).max() <= TOLERANCE
        latents, _, dones, infos = venv.step(np.zeros(count, int))
        assert latents.dtype == np.float32
        for row, (done, info) in enumerate(zip(dones, infos, strict=True)):
            assert ("terminal_observation" in info) == done
            frames[row] = info["frame"]
            if done:
                difference = np.abs(info["terminal_observation"] - expected[row][info["frame"]]).max()
                assert difference <= TOLERANCE
                terminal += 1
                frames[row] = venv.reset_infos[row]["frame"]
                assert frames[row] == info["frame"] + 1
    assert terminal >= count * len(LENGTHS)


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_subprocesses_equal_one_process(method: str, encoder: VPTEncoder) -> None:
    makers = [scripted(i, extra=True) for i in range(3)]
    ours = VecVPTLatent(SubprocVecEnv(makers, start_method=method), encoder, keep=("ammo",))
    reference = VecVPTLatent(DummyVecEnv(makers), encoder, keep=("ammo",))
    try:
        assert same(ours.reset(), reference.reset())
        assert ours.reset_infos is ours.venv.reset_infos
        for _ in range(30):
            left, right = (venv.step(np.zeros(3, int)) for venv in (ours, reference))
            assert same(left[0], right[0])
            for mine, theirs in zip(left[3], right[3], strict=True):
                assert ("terminal_observation" in mine) == ("terminal_observation" in theirs)
                if "terminal_observation" in mine:
                    assert same(mine["terminal_observation"], theirs["terminal_observation"])
            assert list(ours.reset_infos) == list(ours.venv.reset_infos)
    finally:
        ours.close()


def same(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(np.array_equal(left[key], right[key]) for key in left)
    return np.array_equal(left, right)


def test_infos_of_the_inner_venv_stay_as_they_are(encoder: VPTEncoder) -> None:
    class Keeps(VecEnvWrapper):
        """Holds on to the very infos that it hands over."""

        def reset(self) -> Any:
            return self.venv.reset()

        def step_wait(self) -> Any:
            self.kept = self.venv.step_wait()
            return self.kept

    keeps = Keeps(dummy(2, lengths=(3,)))
    venv = VecVPTLatent(keeps, encoder)
    venv.reset()
    for _ in range(3):
        venv.step(np.zeros(2, int))
    assert keeps.kept[3][0]["terminal_observation"].dtype == np.uint8
    assert keeps.kept[0].dtype == np.uint8


def test_calls_pass_through(encoder: VPTEncoder) -> None:
    venv = VecVPTLatent(dummy(2), encoder)
    venv.reset()
    assert venv.env_method("action_masks")[0].tolist() == [True, True, True]
    assert venv.get_attr("identity") == [0, 1]
    assert venv.has_attr("action_masks")
    assert venv.get_images()[0] is not None


class TestCompositions:
    def test_vec_normalize_leaves_our_space_alone(self) -> None:
        """It writes into the Dict space of what it wraps, for entries that are images."""
        image = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
        space = gym.spaces.Dict({"image": image, "map": gym.spaces.Box(0, 255, (8, 8, 3), np.uint8)})

        class Mapped(gym.Env[Any, Any]):
            observation_space, action_space, render_mode = space, gym.spaces.Discrete(2), None

        venv = VecVPTLatent(
            DummyVecEnv([Mapped]), "random:tiny", image_key="image", keep=("map",), encoder_options={"layer": "cnn"}
        )
        VecNormalize(venv)
        assert venv.observation_space["map"] == space["map"]
        venv.close()

    """VecNormalize, VecMonitor and VecFrameStack on either side."""

    def rollout(self, venv: Any, steps: int = 60) -> tuple[list[Any], list[Any]]:
        observations, infos = [venv.reset()], []
        for _ in range(steps):
            observation, _, _, info = venv.step(np.zeros(venv.num_envs, int))
            observations.append(observation)
            infos.append(info)
        return observations, infos

    def test_inside(self, encoder: VPTEncoder) -> None:
        plain, _ = self.rollout(VecVPTLatent(dummy(3), encoder))
        for inner in (
            VecMonitor(dummy(3)),
            VecNormalize(dummy(3), norm_obs=False),
            VecFrameStack(dummy(3), n_stack=1),
        ):
            wrapped, _ = self.rollout(VecVPTLatent(inner, encoder))
            assert np.array_equal(np.stack(plain), np.stack(wrapped)), type(inner).__name__

    def test_outside(self, encoder: VPTEncoder) -> None:
        plain, infos = self.rollout(VecVPTLatent(dummy(3), encoder))
        monitored, monitored_infos = self.rollout(VecMonitor(VecVPTLatent(dummy(3), encoder)))
        assert np.array_equal(np.stack(plain), np.stack(monitored))
        assert any("episode" in info for row in monitored_infos for info in row)
        stacked, stacked_infos = self.rollout(VecFrameStack(VecVPTLatent(dummy(3), encoder), n_stack=4))
        assert stacked[0].shape == (3, 4 * encoder.latent_size)
        assert np.array_equal(stacked[-1][:, -encoder.latent_size :], plain[-1])
        for step, row_infos in enumerate(stacked_infos):
            for row, info in enumerate(row_infos):
                if "terminal_observation" in info:
                    newest = info["terminal_observation"][-encoder.latent_size :]
                    assert np.array_equal(newest, infos[step][row]["terminal_observation"])
        normalised, _ = self.rollout(VecNormalize(VecVPTLatent(dummy(3), encoder)))
        assert np.isfinite(np.stack(normalised)).all()
        assert abs(float(np.stack(normalised[30:]).mean())) < 0.5

    def test_learning_through_all_of_them(self, encoder: VPTEncoder) -> None:
        venv = VecFrameStack(VecNormalize(VecMonitor(VecVPTLatent(VecMonitor(dummy(2)), encoder))), n_stack=2)
        PPO("MlpPolicy", venv, n_steps=32, batch_size=32, n_epochs=1, device="cpu").learn(128)


class TestBadInput:
    """Each is refused in a sentence that names the VecEnv, what was expected, what came and what to do."""

    def test_stacked_frames(self, encoder: VPTEncoder) -> None:
        with pytest.raises(ObservationError, match=r"shape is \(24, 32, 12\); stacks of frames .* outside the encoder"):
            VecVPTLatent(VecFrameStack(dummy(2), n_stack=4), encoder)

    def test_normalised_frames(self, encoder: VPTEncoder) -> None:
        with pytest.raises(ObservationError, match="raw"):
            VecVPTLatent(VecNormalize(dummy(2)), encoder).reset()

    def test_double_wrapping(self, encoder: VPTEncoder) -> None:
        with pytest.raises(ObservationError, match="DummyVecEnv: the VecEnv gives VPT latents already"):
            VecVPTLatent(VecMonitor(VecVPTLatent(dummy(1), encoder)), encoder)

    def test_double_wrapping_from_inside(self, encoder: VPTEncoder) -> None:
        inner = DummyVecEnv([lambda: vpt_gym.VPTLatentObservation(ScriptedEnv(extra=True), encoder, keep=("screen",))])
        with pytest.raises(ObservationError, match="hold VPT latents already, under 'latent'"):
            VecVPTLatent(inner, encoder)

    def test_unknown_ids(self, encoder: VPTEncoder) -> None:
        """Found out before a worker process starts."""
        with pytest.raises(VPTGymError, match="Gymnasium knows no environment 'Foo-v0'"):
            make_latent_vec_env("Foo-v0", 2, encoder=encoder)
        with pytest.raises(VPTGymError, match="Python module that is not installed"):
            make_latent_vec_env("no_such_module:Foo-v0", 2, encoder=encoder)

    def test_keep_as_a_string(self, encoder: VPTEncoder) -> None:
        with pytest.raises(ObservationError, match=r"write keep=\('ammo',\)"):
            make_latent_vec_env(ScriptedEnv, 1, encoder=encoder, env_kwargs={"extra": True}, keep="ammo")

    def test_step_before_reset(self, encoder: VPTEncoder) -> None:
        with pytest.raises(ResetNeeded, match="DummyVecEnv: step was called before reset"):
            VecVPTLatent(dummy(1), encoder).step(np.zeros(1, int))

    def test_missing_terminal_observation(self, encoder: VPTEncoder) -> None:
        class Forgets(VecEnvWrapper):
            def reset(self) -> Any:
                return self.venv.reset()

            def step_wait(self) -> Any:
                observations, rewards, dones, infos = self.venv.step_wait()
                return observations, rewards, dones, [{} for _ in infos]

        venv = VecVPTLatent(Forgets(dummy(2, lengths=(1,))), encoder)
        venv.reset()
        with pytest.raises(ObservationError, match="missing for environments \\[0, 1\\]"):
            venv.step(np.zeros(2, int))

    def test_an_environment_without_images(self, encoder: VPTEncoder) -> None:
        with pytest.raises(ObservationError, match=r"shape is \(4,\); use a pixel environment"):
            VecVPTLatent(DummyVecEnv([lambda: gym.make("CartPole-v1")]), encoder)
