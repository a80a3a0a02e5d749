"""An encoder that is no VPT: 8x8 frames, no memory, no choice of precision, nothing but the protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch

__all__ = ["Stranger", "StrangerStream"]


class Stranger:
    latent_size = 5
    frame_size = 8
    also_reads: tuple[str, ...] = ()
    device = torch.device("cpu")
    precision = "float32"
    backend = "one product"
    fingerprint = "5" * 64
    recorded: Mapping[str, Any] = {"encoder": "stranger:", "encoder_options": {}}

    @property
    def latent_space(self) -> gym.spaces.Box:
        return gym.spaces.Box(-1.0, 1.0, (5,), np.float32)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "stranger",
            "source": "stranger:",
            "options": {},
            "fingerprint": self.fingerprint,
            "untrained": False,
            "words": "a stranger",
            "latent_size": self.latent_size,
            "frame_size": self.frame_size,
            "device": "cpu",
            "precision": self.precision,
            "backend": self.backend,
        }

    def latents(self, frames: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(frames).float().flatten(1) @ torch.full((8 * 8 * 3, 5), 1e-4)

    def stream(self, num_envs: int) -> StrangerStream:
        return StrangerStream(self, num_envs)

    def close(self) -> None:
        pass


class StrangerStream:
    def __init__(self, encoder: Stranger, num_envs: int) -> None:
        self.encoder, self.num_envs, self.fingerprint = encoder, num_envs, encoder.fingerprint

    def step(self, frames: np.ndarray, first: Any, rows: Any = None) -> torch.Tensor:
        assert frames.shape == (self.num_envs, 8, 8, 3)
        assert rows is None
        return self.encoder.latents(frames)

    def encode(self, frames: np.ndarray, first: Any, rows: Any = None) -> torch.Tensor:
        return torch.stack([self.step(frames[:, t], first[:, t]) for t in range(frames.shape[1])], dim=1)

    def state_dict(self) -> dict[str, Any]:
        return {"fingerprint": self.fingerprint}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        assert state == self.state_dict()
