"""The wrappers ask an encoder what it looks at: any network behind the same interface will do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv

import vpt_gym
from tests.support.scripted import ScriptedEnv, scripted
from vpt_gym.encoders import Encoder, EncoderBase
from vpt_gym.errors import ObservationError
from vpt_gym.resize import resize

SIZE = 40


class SumStream:
    """Latent: what came since the episode opened, summed. [mean of the frame, first ammo, second ammo, room, steps]."""

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.fingerprint = "sum"
        self.total = np.zeros((num_envs, 5))

    def step(self, frames: Any, first: Any, rows: Any = None) -> torch.Tensor:
        rows = np.arange(self.num_envs) if rows is None else np.asarray(rows)
        assert frames["image"].shape == (len(rows), SIZE, SIZE, 3)
        self.total[rows[np.asarray(first)]] = 0
        means = frames["image"].mean(axis=(1, 2, 3))
        assert frames["room"].shape == (len(rows),)
        self.total[rows] += np.column_stack([means, frames["ammo"], frames["room"], np.ones(len(rows))])
        return torch.tensor(self.total[rows], dtype=torch.float32)

    def encode(self, frames: Any, first: Any, rows: Any = None) -> torch.Tensor:
        steps = [
            self.step({key: value[:, t] for key, value in frames.items()}, first[:, t], rows)
            for t in range(first.shape[1])
        ]
        return torch.stack(steps, dim=1)

    def state_dict(self) -> dict[str, Any]:
        return {"total": torch.tensor(self.total)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.total = state["total"].numpy().copy()


class SumEncoder(EncoderBase):
    """Looks at 40x40 pixels, and at two more entries of the observation."""

    kind, source = "sum", "sum:"
    latent_size = 5
    frame_size = SIZE
    also_reads = ("ammo", "room")
    fingerprint = "sum"

    def __init__(self) -> None:
        self.options = {}

    @property
    def recorded(self) -> dict[str, Any]:
        return {"encoder": self, "encoder_options": None}

    def stream(self, num_envs: int) -> SumStream:
        return SumStream(num_envs)


def alone(identity: int, lengths: tuple[int, ...], steps: int) -> list[tuple[np.ndarray, bool]]:
    """Latents of one environment, and whether an episode ended with each; opening frames in between."""
    env = vpt_gym.VPTLatentObservation(ScriptedEnv(identity, extra=True, lengths=lengths), SumEncoder())
    seen = [(env.reset()[0], False)]
    while len(seen) < steps:
        latent, _, terminated, truncated, _ = env.step(0)
        seen.append((latent, terminated or truncated))
        if terminated or truncated:
            seen.append((env.reset()[0], False))
    return seen


def test_both_encoders_offer_the_same() -> None:
    assert isinstance(SumEncoder(), Encoder)
    assert isinstance(vpt_gym.load_encoder("random:tiny"), Encoder)


def test_single() -> None:
    (opening, _), (second, _), (third, ended), (next_opening, _) = alone(1, (2,), 4)
    env = ScriptedEnv(1, extra=True)
    pictures = [resize(env.picture(frame)[None], SIZE).mean() for frame in range(4)]
    assert np.allclose(opening, [pictures[0], 1, 0, 0, 1])
    assert np.allclose(second, [sum(pictures[:2]), 2, 1, 1, 2])
    assert np.allclose(third, [sum(pictures[:3]), 3, 3, 3, 3])
    assert ended
    assert np.allclose(next_opening, [pictures[3], 1, 3, 3, 1])


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_vector(mode: AutoresetMode) -> None:
    lengths = ((3, 2), (5, 1))
    makers = [scripted(row, extra=True, lengths=lengths[row]) for row in range(2)]
    envs = vpt_gym.vector.VPTLatentObservation(SyncVectorEnv(makers, autoreset_mode=mode), SumEncoder())
    expected = [alone(row, lengths[row], 40) for row in range(2)]
    at = [0, 0]
    latents, _ = envs.reset()
    for row in range(2):
        assert np.array_equal(latents[row], expected[row][0][0])
    ended = np.zeros(2, bool)
    for _ in range(20):
        if mode is AutoresetMode.DISABLED and ended.any():
            latents, _ = envs.reset(options={"reset_mask": ended})
            at = [at[row] + int(ended[row]) for row in range(2)]
            ended = np.zeros(2, bool)
        else:
            latents, _, terminations, truncations, infos = envs.step(np.zeros(2, int))
            at = [at[row] + 1 for row in range(2)]
            ended = terminations | truncations
            if mode is AutoresetMode.SAME_STEP:
                for row in np.flatnonzero(ended):
                    assert np.array_equal(infos["final_obs"][row], expected[row][at[row]][0])
                    at[row] += 1
        for row in range(2):
            assert np.array_equal(latents[row], expected[row][at[row]][0]), (mode, row)


def test_sb3() -> None:
    makers = [scripted(row, extra=True, lengths=(3, 2)) for row in range(2)]
    venv = vpt_gym.sb3.VecVPTLatent(DummyVecEnv(makers), SumEncoder())
    expected = [alone(row, (3, 2), 40) for row in range(2)]
    at = 0
    assert np.array_equal(venv.reset(), np.stack([expected[row][0][0] for row in range(2)]))
    for _ in range(20):
        latents, _, dones, infos = venv.step(np.zeros(2, int))
        at += 1
        if dones.all():
            for row in range(2):
                assert np.array_equal(infos[row]["terminal_observation"], expected[row][at][0])
            at += 1
        assert np.array_equal(latents, np.stack([expected[row][at][0] for row in range(2)]))


def test_workers_send_what_is_read_and_no_more() -> None:
    venv = vpt_gym.sb3.make_latent_vec_env(ScriptedEnv, 1, encoder=SumEncoder(), env_kwargs={"extra": True})
    space = venv.venv.observation_space
    assert isinstance(space, gym.spaces.Dict)
    assert set(space.spaces) == {"screen", "ammo", "room"}
    assert space["screen"].shape == (SIZE, SIZE, 3)
    assert venv.reset().shape == (1, 5)
    assert isinstance(venv.observation_space, gym.spaces.Box), "what is read need not be kept"


def test_the_spec_holds_the_encoder_itself() -> None:
    gym.register("ScriptedExtra-v0", ScriptedEnv, kwargs={"extra": True}, disable_env_checker=True)
    try:
        encoder = SumEncoder()
        env = vpt_gym.VPTLatentObservation(gym.make("ScriptedExtra-v0"), encoder)
        again: Any = gym.make(env.spec)  # type: ignore[arg-type]
        assert again.encoder is encoder
        assert np.array_equal(again.reset(seed=0)[0], env.reset(seed=0)[0])
    finally:
        gym.registry.pop("ScriptedExtra-v0")


class Foreign:
    """An encoder by the protocol alone, too large to be copied."""

    def __init__(self) -> None:
        self._inner = SumEncoder()
        for name in ("latent_size", "latent_space", "frame_size", "also_reads", "device", "precision", "backend"):
            setattr(self, name, getattr(self._inner, name))
        self.fingerprint, self.stream, self.encode = "foreign", self._inner.stream, self._inner.encode
        self.describe, self.close = self._inner.describe, self._inner.close

    @property
    def recorded(self) -> dict[str, Any]:
        return {"encoder": self, "encoder_options": None}

    def __deepcopy__(self, memo: Any) -> Any:
        raise AssertionError("the encoder was copied")


def test_a_foreign_encoder_is_never_copied() -> None:
    """Neither by the wrapper that records it, nor by wrappers outside, nor by what builds the environment again."""
    gym.register("ScriptedExtra-v0", ScriptedEnv, kwargs={"extra": True}, disable_env_checker=True)
    try:
        encoder = Foreign()
        inner = vpt_gym.VPTLatentObservation(gym.make("ScriptedExtra-v0"), encoder)  # type: ignore[arg-type]
        outer = gym.wrappers.TimeLimit(inner, 5)
        assert outer.spec is not None
        again: Any = gym.make(outer.spec)
        assert again.get_wrapper_attr("encoder") is encoder
        assert np.array_equal(again.reset(seed=0)[0], outer.reset(seed=0)[0])
    finally:
        gym.registry.pop("ScriptedExtra-v0")


def test_entries_that_are_not_there() -> None:
    with pytest.raises(ObservationError, match=r"reads 'ammo', 'room' .* but 'ammo' is not there \(it is a Box\)"):
        vpt_gym.VPTLatentObservation(ScriptedEnv(), SumEncoder())
    env = vpt_gym.VPTLatentObservation(ScriptedEnv(extra=True), SumEncoder())
    env.reset()
    before = env.latent_stream.state_dict()["total"].clone()
    with pytest.raises(ObservationError, match="lacks 'room', which its space promises and the encoder reads"):
        env.observation({"screen": np.zeros((24, 32, 3), np.uint8), "ammo": np.zeros(2, np.float32)})
    assert env.latent_stream.state_dict()["total"].equal(before)
