"""A network on the frame of the moment that is trained with the head: beside a frozen latent, or in its place.

Beside a frozen memory it is the recipe of HELM (arXiv 2205.12258): what the frozen network remembers, and what a small trained
one sees now.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.torch_layers import CombinedExtractor
from torch import Tensor, nn

from vpt_gym.config import VPTConfig
from vpt_gym.errors import OptionError
from vpt_gym.nn.cnn import FrameEncoder
from vpt_gym.providers import qualified_id
from vpt_gym.wrappers.observations import IMAGE
from vpt_gym.wrappers.resize import ResizeFrame

__all__ = ["IMAGE", "extractor", "frame_space", "maker"]

CNN_FEATURES: Final = 512
"""Outputs of Stable-Baselines3's convolutional network, as its CnnPolicy has them."""
IMPALA_FEATURES: Final = 256


def frame_space(size: int) -> spaces.Box:
    """The space of a frame of that side in pixels."""
    return spaces.Box(0, 255, (size, size, 3), np.uint8)


def extractor(kind: str) -> dict[str, Any]:
    """The part of `policy_kwargs` that says which network looks at the frame."""
    return {
        "features_extractor_class": _ImpalaExtractor if kind == "impala" else CombinedExtractor,
        "features_extractor_kwargs": {"cnn_output_dim": IMPALA_FEATURES if kind == "impala" else CNN_FEATURES},
    }


def maker(env_id: str, size: int, image_key: str | None, keep: tuple[str, ...], texts: tuple[str, ...] = ()) -> Any:
    """What makes the environment with its frame resized and under `image`, in whatever process it is called in.

    Raises:
        OptionError: another entry of that name is kept.
    """
    if IMAGE in keep:
        raise OptionError(f"{env_id}: with --pixels the frame itself is {IMAGE!r}; leave it out of --keep.")
    return partial(_make, env_id, size, image_key, keep, texts)


def _make(
    env_id: str, size: int, image_key: str | None, keep: tuple[str, ...], texts: tuple[str, ...], **env_kwargs: Any
) -> Any:
    env = gym.make(qualified_id(env_id), **env_kwargs)
    return _NamedFrame(ResizeFrame(env, image_key=image_key, keep=keep, size=size, texts=texts), size, (*keep, *texts))


class _NamedFrame(gym.ObservationWrapper[Any, Any, Any]):
    """A Dict of the frame, under `image`, and what is kept."""

    def __init__(self, env: ResizeFrame, size: int, keep: tuple[str, ...]) -> None:
        super().__init__(env)
        self.keep = keep
        entries = env.observation_space.spaces if isinstance(env.observation_space, spaces.Dict) else {}
        self.key = next((key for key in entries if key not in keep), None)
        self.observation_space = spaces.Dict({IMAGE: frame_space(size), **{key: entries[key] for key in keep}})

    def observation(self, observation: Any) -> Any:
        """One observation of the environment -> the Dict."""
        if self.key is None:
            return {IMAGE: observation}
        return {IMAGE: observation[self.key], **{key: observation[key] for key in self.keep}}


class _ImpalaExtractor(CombinedExtractor):
    """Stable-Baselines3's, with VPT's convolutions, at IMPALA's own width, for the frame."""

    def __init__(self, observation_space: spaces.Dict, cnn_output_dim: int) -> None:
        super().__init__(observation_space, cnn_output_dim)
        size = max(observation_space[IMAGE].shape or ())
        self.extractors[IMAGE] = _Impala(
            VPTConfig(hidden_size=cnn_output_dim, heads=1, impala_width=1, frame_size=size)
        )


class _Impala(nn.Module):
    """Frames as Stable-Baselines3 hands them over, float32 [B, 3, H, W] from 0 to 1, -> [B, features]."""

    def __init__(self, config: VPTConfig) -> None:
        super().__init__()
        self.convolutions = FrameEncoder(config)

    def forward(self, frames_bchw: Tensor) -> Tensor:
        return self.convolutions.convolve(frames_bchw)
