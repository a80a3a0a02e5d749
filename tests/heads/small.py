"""Small heads with nothing at its default, and an environment of latents whose best action is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from vpt_gym.weights import VPTHeads

LATENT, BUTTONS, CAMERA = 8, 6, 3


def small_state(
    latent: int = LATENT, buttons: int = BUTTONS, camera: int = CAMERA, *, scale: float = 1.0, seed: int = 0
) -> dict[str, torch.Tensor]:
    """A policy's state with random heads of these sizes; `scale` is the size of the logits."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "pi_head.buttons.linear_layer.weight": scale * torch.randn(buttons, latent, generator=generator) / latent**0.5,
        "pi_head.buttons.linear_layer.bias": scale * torch.randn(buttons, generator=generator),
        "pi_head.camera.linear_layer.weight": scale * torch.randn(camera, latent, generator=generator) / latent**0.5,
        "pi_head.camera.linear_layer.bias": scale * torch.randn(camera, generator=generator),
        "value_head.linear.weight": torch.randn(1, latent, generator=generator) / latent**0.5,
        "value_head.linear.bias": torch.randn(1, generator=generator),
        "value_head.normalizer.running_mean": torch.tensor([0.6]),
        "value_head.normalizer.running_mean_sq": torch.tensor([2.8]),
        "value_head.normalizer.debiasing_term": torch.tensor(0.4),
    }


def small_heads(temperature: float = 2.0, **sizes: Any) -> VPTHeads:
    return VPTHeads.from_state_dict(small_state(**sizes), temperature)


class LatentEnv(gym.Env[Any, Any]):
    """Random latents for episodes of 16 steps, and a reward of one for one of the buttons, whatever the camera."""

    metadata: Mapping[str, Any] = {"render_modes": []}  # type: ignore[assignment]

    def __init__(self, *, latent: int = LATENT, nvec: tuple[int, ...] = (BUTTONS, CAMERA), wanted: int = 0) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (latent,), np.float32)
        self.action_space = gym.spaces.MultiDiscrete(nvec)
        self.wanted = wanted
        self.age = 0

    def _observe(self) -> Any:
        return self.np_random.standard_normal(self.observation_space.shape).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.age = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.age += 1
        return self._observe(), float(action[0] == self.wanted), False, self.age >= 16, {}
