"""Environments that hand out torch tensors, and latents handed out as tensors: the same to the bit as with arrays."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor

import vpt_gym
from tests.support.scripted import ScriptedEnv, quick_encoder, scripted
from vpt_gym.encoders.vpt import VPTEncoder
from vpt_gym.errors import ObservationError, OptionError

LENGTHS = ((3, 2, 4), (5, 1, 2), (2, 2, 2))
STEPS = 14


@pytest.fixture(scope="module")
def encoder() -> VPTEncoder:
    return quick_encoder()


def as_tensors(value: Any) -> Any:
    """Every array of numbers as a tensor, in Dicts and object arrays too, as GPU simulators hand them out."""
    if isinstance(value, dict):
        return {key: as_tensors(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray) and value.dtype == object:
        out = np.empty(len(value), dtype=object)
        for index, entry in enumerate(value):
            out[index] = as_tensors(entry)
        return out
    return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value


class TensorEnv(gym.Wrapper[Any, Any, Any, Any]):
    def reset(self, **options: Any) -> Any:
        observation, info = self.env.reset(**options)
        return as_tensors(observation), info

    def step(self, action: Any) -> Any:
        observation, *rest = self.env.step(action)
        return as_tensors(observation), *rest


class TensorVectorEnv(VectorWrapper):
    """All that comes out is a tensor: observations, rewards, done flags, last observations and their mask."""

    def reset(self, **options: Any) -> Any:
        given = options.get("options")
        if given and isinstance(given.get("reset_mask"), Tensor):
            options["options"] = {**given, "reset_mask": given["reset_mask"].numpy()}
        return as_tensors(self.env.reset(**options)[0]), {}

    def step(self, actions: Any) -> Any:
        return tuple(as_tensors(part) for part in self.env.step(actions))


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    return value.numpy() if isinstance(value, Tensor) else value


@pytest.mark.parametrize("to", ["numpy", "torch"])
@pytest.mark.parametrize("options", [{}, {"extra": True}, {"shape": (3, 24, 32)}, {"shape": (24, 32)}])
def test_single(to: str, options: dict[str, Any], encoder: VPTEncoder) -> None:
    keep = ("ammo",) if "extra" in options else ()
    ours = vpt_gym.VPTLatentObservation(TensorEnv(ScriptedEnv(1, lengths=(3, 2), **options)), encoder, keep=keep, to=to)
    theirs = vpt_gym.VPTLatentObservation(ScriptedEnv(1, lengths=(3, 2), **options), encoder, keep=keep)
    found, wanted = [ours.reset()[0]], [theirs.reset()[0]]
    for _ in range(3):
        for seen, env in ((found, ours), (wanted, theirs)):
            observation, _, terminated, truncated, _ = env.step(0)
            seen.append(observation)
            if terminated or truncated:
                seen.append(env.reset()[0])
    for one, other in zip(found, wanted, strict=True):
        latent = one["latent"] if keep else one
        assert isinstance(latent, Tensor if to == "torch" else np.ndarray)
        assert np.array_equal(plain(one)["latent"] if keep else plain(one), other["latent"] if keep else other)
        if keep:
            assert np.array_equal(plain(one["ammo"]), other["ammo"])


def trace(envs: VectorEnv[Any, Any, Any], mode: AutoresetMode, *, masks_as_tensors: bool) -> list[np.ndarray]:
    latents = [plain(envs.reset()[0])]
    done = np.zeros(len(LENGTHS), np.bool_)
    for _ in range(STEPS):
        if mode is AutoresetMode.DISABLED and done.any():
            mask = torch.from_numpy(done.copy()) if masks_as_tensors else done.copy()
            latents.append(plain(envs.reset(options={"reset_mask": mask})[0]))
        observations, _, terminated, truncated, infos = envs.step(np.zeros(len(LENGTHS), np.int64))
        latents.append(plain(observations))
        done = np.asarray(plain(terminated)) | np.asarray(plain(truncated))
        if mode is AutoresetMode.SAME_STEP and done.any():
            latents += [plain(latent) for latent in infos["final_obs"] if latent is not None]
    return latents


@pytest.mark.parametrize("to", ["numpy", "torch"])
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_vector(mode: AutoresetMode, to: str, encoder: VPTEncoder) -> None:
    def made() -> SyncVectorEnv:
        makers = [scripted(row, lengths=lengths) for row, lengths in enumerate(LENGTHS)]
        return SyncVectorEnv(makers, autoreset_mode=mode)

    ours = vpt_gym.vector.VPTLatentObservation(TensorVectorEnv(made()), encoder, to=to)
    theirs = vpt_gym.vector.VPTLatentObservation(made(), encoder)
    assert isinstance(ours.reset()[0], Tensor if to == "torch" else np.ndarray)
    theirs.reset()
    found = trace(ours, mode, masks_as_tensors=True)
    wanted = trace(theirs, mode, masks_as_tensors=False)
    assert len(found) == len(wanted) > STEPS
    assert all(np.array_equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_what_is_handed_out_is_the_callers(encoder: VPTEncoder) -> None:
    makers = [scripted(row, lengths=(5,)) for row in range(2)]
    envs = vpt_gym.vector.VPTLatentObservation(
        SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED), encoder, to="torch"
    )
    kept = envs.reset()[0].clone()
    envs.reset()[0].zero_()
    latents, _ = envs.reset(options={"reset_mask": np.array([True, False])})
    assert float(latents[1].abs().max()) > 0
    assert latents[1].shape == kept[1].shape


def test_the_spec_remembers(encoder: VPTEncoder) -> None:
    env = vpt_gym.VPTLatentObservation(ScriptedEnv(), encoder, to="torch")
    assert env._saved_kwargs["to"] == "torch"


def test_refused(encoder: VPTEncoder) -> None:
    with pytest.raises(OptionError, match="to must be one of numpy, torch, not 'jax'"):
        vpt_gym.VPTLatentObservation(ScriptedEnv(), encoder, to="jax")
    floats = TensorEnv(gym.wrappers.TransformObservation(ScriptedEnv(), lambda frame: frame / 255, None))
    with pytest.raises(
        ObservationError, match=r"must be a uint8 array or tensor of raw pixels, but dtype torch\.float64"
    ):
        vpt_gym.VPTLatentObservation(floats, encoder).reset()


def test_sb3_is_told_where_to_go(encoder: VPTEncoder) -> None:
    class Tensors(DummyVecEnv):
        def reset(self) -> Any:
            return torch.from_numpy(super().reset())

    venv = vpt_gym.sb3.VecVPTLatent(Tensors([scripted(0)]), encoder)
    with pytest.raises(ObservationError, match=r"hands out tensors, .*vpt_gym\.vector\.VPTLatentObservation"):
        venv.reset()
