"""Untrained, the policy is VPT: from real video on, it gives what MineStudio's own policy gives."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

import vpt_gym
from tests.support.frames import MinecraftVideos
from tests.support.minestudio import import_minestudio_models, randomise
from tests.support.network import SMALL
from tests.weights.checkpoints import policy_kwargs
from vpt_gym.encoders.minestudio import encoder_from_policy
from vpt_gym.encoders.vpt import VPTEncoder
from vpt_gym.heads import PretrainedHeadPolicy, VPTHeads, modules

pytestmark = pytest.mark.minestudio

STEPS, ROWS = 200, 2
TOLERANCE = 1e-4
LAST = ({30, 32, 180}, {1, 99})
"""Numbers of the frames that end an episode, by row; what comes next opens one."""


class Film(gym.Env[Any, Any]):
    """Plays a recording of 640x360 as an environment would: every reset and every step shows the next frame."""

    def __init__(self, frames: np.ndarray, last: set[int]) -> None:
        self.observation_space = gym.spaces.Box(0, 255, frames.shape[1:], np.uint8)
        self.action_space = gym.spaces.MultiDiscrete([8641, 121])
        self.frames, self.last, self.number = frames, last, -1

    def _next(self) -> tuple[Any, dict[str, Any]]:
        self.number += 1
        # The wrapper for several environments asks each row on until the last of them has been seen whole.
        return self.frames[min(self.number, len(self.frames) - 1)], {"number": self.number}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._next()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, info = self._next()
        return observation, 0.0, self.number in self.last, False, info


def through_sb3(encoder: VPTEncoder, raw: np.ndarray) -> torch.Tensor:
    """Latents [ROWS, STEPS, hidden] of every frame, those that end an episode too, out of a VecVPTLatent."""
    latents = np.full((ROWS, STEPS, encoder.latent_size), np.nan, np.float32)
    makers = [lambda row=row: Film(raw[row], LAST[row]) for row in range(ROWS)]
    venv = vpt_gym.sb3.VecVPTLatent(DummyVecEnv(makers), encoder)
    latents[:, 0] = venv.reset()
    while np.isnan(latents).any():
        observations, _, dones, infos = venv.step(np.zeros((ROWS, 2)))
        for row, (observation, done, info) in enumerate(zip(observations, dones, infos, strict=True)):
            number = info["number"]
            if number < STEPS:
                latents[row, number] = info["terminal_observation"] if done else observation
            if done and number + 1 < STEPS:
                latents[row, number + 1] = observation
    return torch.from_numpy(latents)


def through_gymnasium(encoder: VPTEncoder, raw: np.ndarray) -> torch.Tensor:
    """The same out of a VPTLatentObservation for each row."""
    rows = []
    for row in range(ROWS):
        env = vpt_gym.VPTLatentObservation(Film(raw[row], LAST[row]), encoder)
        latents = [env.reset()[0]]
        while len(latents) < STEPS:
            observation, _, done, _, _ = env.step(env.action_space.sample())
            latents.append(observation)
            if done and len(latents) < STEPS:
                latents.append(env.reset()[0])
        rows.append(np.stack(latents))
    return torch.from_numpy(np.stack(rows))


def vpt_policy(temperature: float) -> nn.Module:
    """MineStudio's VPTPolicy, every parameter random and the statistics of its value head those of some training."""
    policy: nn.Module = import_minestudio_models().VPTPolicy(
        policy_kwargs=policy_kwargs(SMALL), temperature=temperature
    )
    randomise(policy, 6)
    statistics = policy.value_head.normalizer
    for name, value in (("running_mean", 1.2), ("running_mean_sq", 9.0), ("debiasing_term", 0.8)):
        getattr(statistics, name).data.fill_(value)
    return policy.eval()


class Case:
    """A policy of MineStudio, saved as it saves itself; what it makes of the videos; and our encoder of the folder."""

    def __init__(self, temperature: float, rows: int, folder: Path, videos: MinecraftVideos) -> None:
        self.policy = vpt_policy(temperature)
        self.policy.save_pretrained(folder)  # type: ignore[operator]
        self.encoder = vpt_gym.load_encoder(str(folder), device="cpu", precision="float32")
        self.raw = videos.raw(STEPS, ROWS)
        self.first = torch.zeros(ROWS, STEPS, dtype=torch.bool)
        for row, last in enumerate(LAST):
            self.first[row, [0, *(number + 1 for number in last)]] = True
        drawn = np.random.default_rng(8).integers(0, [8641, 121], (ROWS, STEPS, 2))
        self.actions = torch.from_numpy(drawn)
        small = videos.small(STEPS, ROWS)
        # As many rows at a time as on our side: torch convolves one frame by another algorithm than two, and the rounding
        # of the two algorithms differs by more than the tolerance.
        pieces = [slice(row, row + rows) for row in range(0, ROWS, rows)]
        parts = [self._by_minestudio(small[piece], self.first[piece], self.actions[piece]) for piece in pieces]
        self.log_prob, self.value = (torch.cat(each) for each in zip(*parts, strict=True))

    @torch.inference_mode()
    def _by_minestudio(
        self, small: np.ndarray, first: torch.Tensor, actions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        policy: Any = self.policy
        state = policy.initial_state(len(small))
        log_probs, values = [], []
        for step in range(STEPS):
            now = slice(step, step + 1)
            image = torch.from_numpy(small[:, now])
            (latent, _), state = policy.net({"image": image}, state, context={"first": first[:, now]})
            action = {part: actions[:, now, index, None] for index, part in enumerate(("buttons", "camera"))}
            log_probs.append(policy.pi_head.logprob(action, policy.pi_head(latent)))
            values.append(policy.value_head.denormalize(policy.value_head(latent))[..., 0])
        return torch.cat(log_probs, dim=1), torch.cat(values, dim=1)

    def gaps(self, latents: torch.Tensor, heads: VPTHeads | None = None) -> tuple[float, float]:
        """Largest differences in log-probability and in value, by the policy of a new PPO."""
        env = gym.wrappers.TransformObservation(
            Film(self.raw[0], set()), lambda _: latents[0, 0], self.encoder.latent_space
        )
        heads = self.encoder.heads if heads is None else heads
        model = PPO(PretrainedHeadPolicy, env, policy_kwargs={"heads": heads}, device="cpu")
        with torch.no_grad():
            values, log_prob, _ = model.policy.evaluate_actions(
                latents.flatten(0, 1), self.actions.flatten(0, 1).float()
            )
        theirs = self.log_prob.flatten(), self.value.flatten()
        return float((log_prob - theirs[0]).abs().max()), float((values[:, 0] - theirs[1]).abs().max())


@pytest.fixture(scope="module")
def make(real_frames: MinecraftVideos, tmp_path_factory: pytest.TempPathFactory) -> Callable[[float, int], Case]:
    @cache
    def case(temperature: float, rows: int) -> Case:
        return Case(temperature, rows, tmp_path_factory.mktemp("policy"), real_frames)

    return case


@pytest.mark.parametrize(("path", "rows", "temperature"), [(through_gymnasium, 1, 1.0), (through_sb3, ROWS, 2.0)])
def test_untrained_it_is_vpt(
    path: Callable[..., torch.Tensor], rows: int, temperature: float, make: Callable[[float, int], Case]
) -> None:
    case = make(temperature, rows)
    assert case.encoder.heads.temperature == temperature
    log_prob, value = case.gaps(path(case.encoder, case.raw))
    print(
        f"{path.__name__}, temperature {temperature}: max |difference| {log_prob:.1e} in log-probability, "
        f"{value:.1e} in value; "
        f"standard deviations {float(case.log_prob.std()):.2f} and {float(case.value.std()):.2f}"
    )
    assert log_prob <= TOLERANCE
    assert value <= TOLERANCE
    # Guards the comparison itself: what is compared must differ from frame to frame.
    assert case.log_prob.std() > 0.3
    assert case.value.std() > 0.3


def test_heads_out_of_the_live_policy_are_those_of_the_file(make: Callable[[float, int], Case]) -> None:
    case = make(2.0, ROWS)
    assert VPTHeads.from_state_dict(case.policy.state_dict(), temperature=2.0) == case.encoder.heads
    live = encoder_from_policy(case.policy)
    assert live.heads == case.encoder.heads
    assert live.heads.latents == live.fingerprint


FAULTS = {
    "camera before buttons": ("_joined", "heads.part_names(part)", "reversed(heads.part_names(part))"),
    "temperature ignored": ("ActionHead.forward", " / self.temperature", ""),
    "not denormalised": ("ValueHead.forward", " * self.scale + self.mean", ""),
    "statistics not debiased": ("ValueHead.__init__", 'running_mean") / debiasing', 'running_mean")'),
    "variance in place of its root": ("ValueHead.__init__", ".clamp(min=_LEAST_VARIANCE).sqrt()", ""),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_caught(fault: str, make: Callable[[float, int], Case], monkeypatch: pytest.MonkeyPatch) -> None:
    case = make(2.0, ROWS)
    latents = case.encoder.encode(case.raw[:, :20], case.first[:, :20])
    case_of_20 = object.__new__(Case)
    vars(case_of_20).update(vars(case))
    case_of_20.actions, case_of_20.log_prob, case_of_20.value = (
        tensor[:, :20] for tensor in (case.actions, case.log_prob, case.value)
    )
    where, right, wrong = FAULTS[fault]
    source = inspect.getsource(modules)
    assert source.count(right) == 1
    namespace: dict[str, Any] = {"__name__": modules.__name__}
    exec(compile(source.replace(right, wrong), f"<{fault}>", "exec"), namespace)
    owner, _, name = where.partition(".")
    with monkeypatch.context() as patch:
        if name:
            # `super()` looks for the class that the method was written in, so the instances must be that class's.
            patch.setattr(f"vpt_gym.heads.policy.{owner}", namespace[owner])
        else:
            patch.setattr(modules, owner, namespace[owner])
        found = max(case_of_20.gaps(latents))
    print(f"{fault}: {found:.3f}")
    assert found > 100 * TOLERANCE
    assert max(case_of_20.gaps(latents)) <= TOLERANCE
