"""A features extractor that scales latents, with statistics that are part of the policy."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor

from vpt_gym.errors import VPTGymError

__all__ = ["ScaledLatents"]

_LEAST_VARIANCE = 1e-8
_LARGEST = 10.0


class ScaledLatents(BaseFeaturesExtractor):
    """Latents scaled to mean 0 and variance 1, as VecNormalize scales them; but saved and loaded with the policy.

        PPO("MlpPolicy", venv, policy_kwargs={"features_extractor_class": ScaledLatents})

    Most of a latent is the same in every frame of one environment, and what differs is small beside it; a head learns faster
    on what is scaled. `vpt_gym.offline.clone` takes the statistics from the demonstrations. They stay as they are when
    reinforcement learning goes on.

    Args:
        observation_space: Box [latent].

    Raises:
        VPTGymError: the observation is no vector.
    """

    mean: Tensor
    variance: Tensor
    fitted: Tensor

    def __init__(self, observation_space: spaces.Space[Any]) -> None:
        if not isinstance(observation_space, spaces.Box) or len(observation_space.shape) != 1:
            raise VPTGymError(
                f"ScaledLatents reads latents, a Box [latent], but the observation is {observation_space}."
            )
        size = observation_space.shape[0]
        super().__init__(observation_space, size)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    def fit(self, mean_d: Tensor, variance_d: Tensor) -> None:
        """Takes over the mean and the variance of latents, [latent] each."""
        self.mean.copy_(mean_d)
        self.variance.copy_(variance_d)
        self.fitted.fill_(True)

    def forward(self, latents_bd: Tensor) -> Tensor:
        """Latents [B, latent] -> scaled ones, cut at 10 deviations."""
        scaled_bd = (latents_bd - self.mean) / (self.variance + _LEAST_VARIANCE).sqrt()
        return scaled_bd.clamp(-_LARGEST, _LARGEST)
