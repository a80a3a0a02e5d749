"""Environments that play a script: every frame is known beforehand, so every latent is too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from tests.support.network import SMALL, encoder_of, random_net
from vpt_gym.encoders.vpt import VPTEncoder

__all__ = ["LENGTHS", "ScriptedEnv", "lengths_of", "quick_encoder", "scripted"]

LENGTHS = (1, 128, 129, 5, 40, 1, 1, 17)
"""Steps of consecutive episodes: one-step ones, and those around the memory's 128 frames."""


def lengths_of(identity: int) -> tuple[int, ...]:
    """Staggered: every environment goes through the same lengths from another start."""
    start = identity % len(LENGTHS)
    return LENGTHS[start:] + LENGTHS[:start]


class ScriptedEnv(gym.Env[Any, Any]):
    """Frame number n of environment i is always the same picture, whatever the actions and however the resets come.

    `info["frame"]` counts all frames of the environment, opening ones included; `info["age"]` counts those of the episode.
    Episodes end with `terminated` and `truncated` in turn.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012 - Gymnasium's own form

    def __init__(
        self,
        identity: int = 0,
        *,
        lengths: tuple[int, ...] | None = None,
        shape: tuple[int, ...] = (24, 32, 3),
        extra: bool = False,
        continuous: bool = False,
        render_mode: str | None = "rgb_array",
    ) -> None:
        self.render_mode = render_mode
        self.identity = identity
        self.lengths = lengths_of(identity) if lengths is None else lengths
        self.shape = shape
        self.extra = extra
        image = gym.spaces.Box(0, 255, shape, np.uint8)
        self.observation_space: gym.Space[Any] = image
        if extra:
            ammo = gym.spaces.Box(-1e6, 1e6, (2,), np.float32)
            self.observation_space = gym.spaces.Dict({"screen": image, "ammo": ammo, "room": gym.spaces.Discrete(7)})
        self.action_space: gym.Space[Any] = gym.spaces.Discrete(3)
        if continuous:
            self.action_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.frame, self.episode, self.age = -1, -1, 0
        self.steps_seen: list[Any] = []

    def picture(self, frame: int) -> np.ndarray:
        generator = np.random.default_rng((self.identity, frame))
        return generator.integers(0, 256, self.shape, dtype=np.uint8)

    def _observe(self) -> Any:
        self.frame += 1
        picture = self.picture(self.frame)
        if not self.extra:
            return picture
        return {
            "screen": picture,
            "ammo": np.array([self.identity, self.frame], np.float32),
            "room": np.int64(self.frame % 7),
        }

    def _info(self) -> dict[str, Any]:
        return {"frame": self.frame, "age": self.age}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:  # a seeded reset starts the script again, as `check_env` expects
            self.frame, self.episode = -1, -1
        self.episode += 1
        self.age = 0
        return self._observe(), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.age += 1
        observation = self._observe()
        done = self.age >= self.lengths[self.episode % len(self.lengths)]
        terminated, truncated = done and self.episode % 2 == 0, done and self.episode % 2 == 1
        return observation, float(self.age), terminated, truncated, self._info()

    def render(self) -> Any:
        return self.picture(max(self.frame, 0)).reshape(self.shape)

    def action_masks(self) -> np.ndarray:
        return np.array([True, self.age % 2 == 0, True])


def scripted(identity: int, **kwargs: Any) -> Any:
    """A function that makes the environment, as vector environments want one."""
    return lambda: ScriptedEnv(identity, **kwargs)


class Thumbnails(nn.Module):
    """A frame's 8x8 averages through one matrix, in place of the convolutions."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        weight = torch.randn(hidden_size, 8 * 8 * 3, generator=torch.Generator().manual_seed(5))
        self.weight = nn.Parameter(weight / 8, requires_grad=False)

    def forward(self, frames_nhwc: Tensor) -> Tensor:
        x_nchw = frames_nhwc.permute(0, 3, 1, 2).float() / 255 - 0.5
        return nn.functional.adaptive_avg_pool2d(x_nchw, 8).flatten(1) @ self.weight.T * 4


def quick_encoder(seed: int = 0, *, blocks: int = 4, **options: str) -> VPTEncoder:
    """The whole network but for the convolutions, which see each frame by itself and so have no part in tests of memory.

    Runs thousands of frames a second; the tests of single frames and a comparison of the wrappers use the real ones. The long
    comparisons have two blocks, one whose memory sees the convolutions and one whose memory sees a block.
    """
    net = random_net(replace(SMALL, blocks=blocks), seed)
    net.cnn = Thumbnails(SMALL.hidden_size)  # type: ignore[assignment]
    return encoder_of(net, **options)
