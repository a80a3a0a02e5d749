"""Environments that tell the truth in another way than Gymnasium's own, that break their promises, or are of another kind."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers import Autoreset
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, VecMonitor

import vpt_gym
from tests.support.scripted import ScriptedEnv, quick_encoder, scripted
from vpt_gym.encoders.vpt import VPTEncoder
from vpt_gym.errors import ObservationError, VPTGymError
from vpt_gym.sb3 import VecVPTLatent

LENGTHS = ((3, 2, 4), (5, 1, 2), (2, 2, 2))
STEPS = 14


@pytest.fixture(scope="module")
def encoder() -> VPTEncoder:
    return quick_encoder()


class Native(VectorEnv[Any, Any, Any]):
    """As vector environments written in another language: one array for all, one dict of metadata for the whole class."""

    metadata: dict[str, Any] = {}  # noqa: RUF012 - the very thing that this is about

    def __init__(self, mode: AutoresetMode, name: str = "final_obs", *, tensors: bool = False) -> None:
        self._inner = SyncVectorEnv(
            [scripted(i, lengths=lengths) for i, lengths in enumerate(LENGTHS)], autoreset_mode=mode
        )
        self._name, self._tensors = name, tensors
        self.num_envs = len(LENGTHS)
        self.autoreset_mode = mode
        self.metadata["autoreset_mode"] = mode
        self.single_observation_space = self._inner.single_observation_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.single_action_space, self.action_space = self._inner.single_action_space, self._inner.action_space

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        observations, _ = self._inner.reset(seed=seed, options=options)
        return self._as(observations), {}

    def step(self, actions: Any) -> Any:
        observations, *rest, infos = self._inner.step(actions)
        mine = {}
        if "final_obs" in infos:
            # A row for every environment; where no episode ended it means nothing.
            last = [np.zeros_like(observations[0]) if row is None else row for row in infos["final_obs"]]
            mine = {self._name: self._as(np.stack(last))}
        return self._as(observations), *rest, mine

    def _as(self, frames: np.ndarray) -> Any:
        return torch.from_numpy(frames.copy()) if self._tensors else frames


def trace(envs: Any, name: str = "final_obs") -> tuple[list[np.ndarray], list[np.ndarray]]:
    """All latents, and all last ones in the order of steps and rows."""
    latents, last = [envs.reset()[0]], []
    for _ in range(STEPS):
        latent, _, terminated, truncated, infos = envs.step(np.zeros(len(LENGTHS), np.int64))
        latents.append(latent)
        last += [infos[name][row] for row in np.flatnonzero(terminated | truncated)] if name in infos else []
    return latents, last


@pytest.mark.parametrize("name", ["final_obs", "final_observation"])
@pytest.mark.parametrize("tensors", [False, True])
def test_last_observations_as_one_array_without_a_mask(name: str, tensors: bool, encoder: VPTEncoder) -> None:
    """By either of the names that Gymnasium gave them."""
    native = vpt_gym.vector.VPTLatentObservation(Native(AutoresetMode.SAME_STEP, name, tensors=tensors), encoder)
    makers = [scripted(i, lengths=lengths) for i, lengths in enumerate(LENGTHS)]
    own = vpt_gym.vector.VPTLatentObservation(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP), encoder)
    (found, found_last), (wanted, wanted_last) = trace(native, name), trace(own)
    assert np.array_equal(np.stack(found), np.stack(wanted))
    assert len(found_last) == len(wanted_last) > 10
    assert np.array_equal(np.stack(found_last), np.stack(wanted_last))


@pytest.mark.parametrize("last", list(AutoresetMode))
def test_metadata_that_a_class_shares(last: AutoresetMode, encoder: VPTEncoder) -> None:
    """Whichever environment was made last, each is taken for what it is."""
    made = {mode: Native(mode) for mode in (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP)}
    Native(last)
    for mode, envs in made.items():
        makers = [scripted(i, lengths=lengths) for i, lengths in enumerate(LENGTHS)]
        own = vpt_gym.vector.VPTLatentObservation(SyncVectorEnv(makers, autoreset_mode=mode), encoder)
        found = trace(vpt_gym.vector.VPTLatentObservation(envs, encoder))[0]
        assert np.array_equal(np.stack(found), np.stack(trace(own)[0]))


def test_subenvironments_that_share_metadata(encoder: VPTEncoder) -> None:
    """As Gymnasium 1.1's vector environments do, whose metadata is the single environments' own."""
    metadata: dict[str, Any] = {}
    envs = {}
    for mode in (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP):
        envs[mode] = SyncVectorEnv([scripted(0)], autoreset_mode=mode)
        envs[mode].metadata = metadata
        metadata["autoreset_mode"] = mode
    for mode, env in envs.items():
        assert vpt_gym.vector.VPTLatentObservation(env, encoder)._mode is mode


def test_a_mode_that_is_not_what_is_done(encoder: VPTEncoder) -> None:
    """Where an environment has nothing but its class's metadata, what it hands over gives it away."""
    envs = Native(AutoresetMode.SAME_STEP)
    del envs.autoreset_mode
    Native(AutoresetMode.NEXT_STEP)
    ours = vpt_gym.vector.VPTLatentObservation(envs, encoder)
    ours.reset()
    ours.step(np.zeros(3, np.int64))
    with pytest.raises(
        ObservationError, match=r"mode is NEXT_STEP, but hands over last observations .* as in SAME_STEP"
    ):
        ours.step(np.zeros(3, np.int64))


def test_the_first_reset_with_a_mask_of_all(encoder: VPTEncoder) -> None:
    """Is a whole reset, as in Gymnasium."""
    makers = [scripted(i) for i in range(2)]
    masked, whole = (
        vpt_gym.vector.VPTLatentObservation(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED), encoder)
        for _ in range(2)
    )
    mask = np.ones(2, np.bool_)
    assert np.array_equal(masked.reset(options={"reset_mask": mask})[0], whole.reset()[0])
    assert np.array_equal(masked.step(np.zeros(2, np.int64))[0], whole.step(np.zeros(2, np.int64))[0])


class Spoiled(ScriptedEnv):
    """One frame, by its number, is no picture."""

    def __init__(self, spoiled: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spoiled = spoiled

    def picture(self, frame: int) -> np.ndarray:
        drawn = super().picture(frame)
        return drawn[:-1] if frame == self.spoiled else drawn


class TestAFailedFrame:
    """Whatever it was, the episode that it belongs to ends with it, and the next one is seen by itself."""

    def fresh(self, encoder: VPTEncoder, frames: list[int]) -> np.ndarray:
        pictures = np.stack([ScriptedEnv(lengths=(3,)).picture(frame) for frame in frames])
        latents: np.ndarray = encoder.encode(pictures[None])[0].numpy()
        return latents

    @pytest.mark.parametrize("spoiled", [3, 4], ids=["last", "opening"])
    def test_single(self, spoiled: int, encoder: VPTEncoder) -> None:
        env = vpt_gym.VPTLatentObservation(Autoreset(Spoiled(spoiled, lengths=(3,))), encoder)
        env.reset()
        for frame in range(1, spoiled):
            assert env.unwrapped.frame == frame - 1  # type: ignore[attr-defined]
            env.step(0)
        with pytest.raises(ObservationError, match="must have shape"):
            env.step(0)
        found = np.stack([env.step(0)[0] for _ in range(2)])
        assert np.abs(found - self.fresh(encoder, [spoiled + 1, spoiled + 2])).max() < 1e-4

    @pytest.mark.parametrize("spoiled", [3, 4], ids=["last", "opening"])
    @pytest.mark.parametrize("kind", ["NextStep", "SameStep", "sb3"])
    def test_many(self, kind: str, spoiled: int, encoder: VPTEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
        """Gymnasium and SB3 copy frames into a batch, so the failure is the network's."""
        makers = [scripted(0, lengths=(3,))]
        envs: Any = (
            VecVPTLatent(DummyVecEnv(makers), encoder)
            if kind == "sb3"
            else vpt_gym.vector.VPTLatentObservation(SyncVectorEnv(makers, autoreset_mode=kind), encoder)
        )
        stream = envs.latent_stream
        step, bad = stream.step, ScriptedEnv().picture(spoiled)

        def fails(frames: Any, *args: Any, **kwargs: Any) -> Any:
            if np.array_equal(frames[0], vpt_gym.resize.resize(bad[None], 128)[0]):
                raise ArithmeticError("out of memory")
            return step(frames, *args, **kwargs)

        monkeypatch.setattr(stream, "step", fails)
        envs.reset()
        failed = False
        while not failed:
            try:
                envs.step(np.zeros(1, np.int64))
            except ArithmeticError:
                failed = True
        frame = envs.unwrapped.get_attr("frame")[0]
        found = envs.step(np.zeros(1, np.int64))[0][0]
        assert np.abs(found - self.fresh(encoder, [frame + 1])[0]).max() < 1e-4


class OldGym:
    """Four values from `step`, nothing beside the observation from `reset`, as Crafter has it."""

    observation_space = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def reset(self) -> Any:
        return self.observation_space.sample()

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), 0.0, False, {}


class ManyInOne(gym.Env[Any, Any]):
    """As EnvPool's: a gymnasium.Env by its class, and eight environments by what it hands over."""

    observation_space = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)
    num_envs = 8


class Endless(VecEnv):
    """A VecEnv of one's own that resets itself and drops the last observation."""

    def __init__(self) -> None:
        super().__init__(2, OldGym.observation_space, OldGym.action_space)

    def reset(self) -> Any:
        return np.zeros((2, 64, 64, 3), np.uint8)

    def step_async(self, actions: Any) -> None:
        pass

    def step_wait(self) -> Any:
        return self.reset(), np.zeros(2), np.ones(2, np.bool_), [{}, {}]

    def close(self) -> None: ...
    def get_attr(self, attr_name: str, indices: Any = None) -> Any:
        return [None, None]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None: ...
    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> Any: ...
    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> Any:
        return [False, False]


class Ends(Endless):
    def step_wait(self) -> Any:
        seen, rewards, done, _ = super().step_wait()
        return seen, rewards, done, [{"terminal_observation": seen[row]} for row in range(2)]


class TestOtherKinds:
    def test_the_old_gym(self, encoder: VPTEncoder) -> None:
        for wrapper in (vpt_gym.VPTLatentObservation, vpt_gym.vector.VPTLatentObservation, VecVPTLatent):
            with pytest.raises(
                VPTGymError, match=r"OldGym came, .* old Gym's API .* shimmy\.GymV21CompatibilityV0\(env=env\)"
            ):
                wrapper(OldGym(), encoder)  # type: ignore[operator]

    def test_many_in_one(self, encoder: VPTEncoder) -> None:
        with pytest.raises(VPTGymError, match=r"a ManyInOne of 8 environments came; .*VectorEnv that says when"):
            vpt_gym.VPTLatentObservation(ManyInOne(), encoder)

    def test_missing_ends_are_told_before_the_first(self, encoder: VPTEncoder) -> None:
        for venv in (Endless(), VecMonitor(Endless())):
            with pytest.warns(UserWarning, match=r"Endless: nothing .*terminal_observation.*SubprocVecEnv") as caught:
                ours = VecVPTLatent(venv, encoder)
            assert len(caught) == 1
        ours.reset()
        with pytest.raises(
            ObservationError, match=r"missing for environments \[0, 1\]; make the VecEnv provide it, .* NEXT_STEP"
        ):
            ours.step(np.zeros(2, int))

    def test_nothing_is_said_of_those_that_have_them(self, encoder: VPTEncoder) -> None:
        class Passes(VecEnvWrapper):
            def reset(self) -> Any:
                return self.venv.reset()

            def step_wait(self) -> Any:
                return self.venv.step_wait()

        for venv in (Ends(), VecMonitor(Ends()), Passes(DummyVecEnv([ScriptedEnv]))):
            VecVPTLatent(venv, encoder).reset()
