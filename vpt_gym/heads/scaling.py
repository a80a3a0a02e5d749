"""A features extractor that scales latents, with statistics that are part of the policy."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor

from vpt_gym.errors import VPTGymError

__all__ = ["ScaledLatents"]

_LATENT = "latent"
_LEAST_VARIANCE = 1e-8
_LARGEST = 10.0


class ScaledLatents(BaseFeaturesExtractor):
    """Latents scaled to mean 0 and variance 1, as VecNormalize scales them; but saved and loaded with the policy.

        PPO("MlpPolicy", venv, policy_kwargs={"features_extractor_class": ScaledLatents})

    Most of a latent is the same in every frame of one environment, and what differs is small beside it; a head learns faster
    on what is scaled. `vpt_gym.offline.clone` takes the statistics from the demonstrations. They stay as they are when
    reinforcement learning goes on.

    For `MultiInputPolicy` it puts what stands beside the latent, such as a goal, behind the scaled latent as it is.

    Args:
        observation_space: Box [latent], or a Dict with such a `latent`.

    Raises:
        VPTGymError: the latent is no vector.
    """

    mean: Tensor
    variance: Tensor
    fitted: Tensor

    def __init__(self, observation_space: spaces.Space[Any]) -> None:
        beside = dict(observation_space.spaces) if isinstance(observation_space, spaces.Dict) else {}
        latent = beside.pop(_LATENT, None) if beside else observation_space
        if not isinstance(latent, spaces.Box) or len(latent.shape) != 1:
            raise VPTGymError(
                f"ScaledLatents reads latents, a Box [latent] or a Dict with one as {_LATENT!r}, but the observation is "
                f"{observation_space}."
            )
        size = latent.shape[0]
        super().__init__(observation_space, size + sum(map(get_flattened_obs_dim, beside.values())))
        self._beside = tuple(beside)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    def fit(self, mean_d: Tensor, variance_d: Tensor) -> None:
        """Takes over the mean and the variance of latents, [latent] each."""
        self.mean.copy_(mean_d)
        self.variance.copy_(variance_d)
        self.fitted.fill_(True)

    def forward(self, observations: Tensor | dict[str, Tensor]) -> Tensor:
        """Latents [B, latent] -> scaled ones, cut at 10 deviations; and what is beside them, [B, features_dim] in all."""
        latents_bd = observations[_LATENT] if isinstance(observations, dict) else observations
        scaled_bd = (latents_bd - self.mean) / (self.variance + _LEAST_VARIANCE).sqrt()
        scaled_bd = scaled_bd.clamp(-_LARGEST, _LARGEST)
        if not isinstance(observations, dict):
            return scaled_bd
        return torch.cat([scaled_bd, *(observations[key].flatten(1) for key in self._beside)], dim=1)
