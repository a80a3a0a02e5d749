"""Diffusion as Karras et al. have it (arXiv 2206.00364): scaling of the network, noise that it learns at, sampling."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from vpt_gym.checks import check_count, is_between
from vpt_gym.errors import OptionError

__all__ = ["Karras"]

_LOCATION, _SCALE = math.log(0.5), 0.5
"""Of the log-logistic density of sigma: where the most is to be learned."""


@dataclass(frozen=True)
class Karras:
    """The noise of a diffusion.

    Attributes:
        steps: of the sampler.
        sigma_data: deviation of the data.
        sigma_min: the least noise.
        sigma_max: the most.

    Raises:
        OptionError: a value is out of range.
    """

    steps: int = 10
    sigma_data: float = 0.5
    sigma_min: float = 0.001
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        if not is_between(self.sigma_data, 0) or not self.sigma_data or not 0 < self.sigma_min < self.sigma_max:
            raise OptionError(
                f"sigma_data={self.sigma_data} must be above 0, and sigma_min={self.sigma_min} from 0 to "
                f"sigma_max={self.sigma_max}."
            )

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Sigmas to learn at, float32 [count], log-logistic, cut to the range."""
        low, high = (1 / (1 + math.exp((_LOCATION - math.log(s)) / _SCALE)) for s in (self.sigma_min, self.sigma_max))
        uniform = torch.rand(count, generator=generator, dtype=torch.float64) * (high - low) + low
        return (uniform.logit() * _SCALE + _LOCATION).exp().clamp(self.sigma_min, self.sigma_max).float()

    def schedule(self) -> Tensor:
        """Sigmas of the sampler, float32 [steps + 1]: equal ratios from the most to the least, then 0."""
        logs = torch.linspace(math.log(self.sigma_max), math.log(self.sigma_min), self.steps, dtype=torch.float64)
        return torch.cat([logs.exp(), torch.zeros(1)]).float()

    def scales(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """c_skip, c_out, c_in and c_noise, of sigma's shape: a denoised x is c_skip x + c_out F(c_in x, c_noise)."""
        total = sigma**2 + self.sigma_data**2
        return self.sigma_data**2 / total, sigma * self.sigma_data / total.sqrt(), total.rsqrt(), sigma.log() / 4

    def denoise(self, network: Callable[[Tensor, Tensor], Tensor], noisy_bha: Tensor, sigma_b: Tensor) -> Tensor:
        """What lies under noise of sigma [B], as the network (of a scaled [B, H, A] and c_noise [B]) has it."""
        skip, out, into, noise_b = self.scales(sigma_b)
        shape = (-1, 1, 1)
        return skip.view(shape) * noisy_bha + out.view(shape) * network(into.view(shape) * noisy_bha, noise_b)

    def loss(
        self, network: Callable[[Tensor, Tensor], Tensor], clean: Tensor, sigma_b: Tensor, noise: Tensor
    ) -> Tensor:
        """Squared errors [B, H, A] of the network's own output, which weighs every sigma alike."""
        skip, out, into, noise_b = (each.view(-1, 1, 1) for each in self.scales(sigma_b))
        noisy = clean + sigma_b.view(-1, 1, 1) * noise
        return (network(into * noisy, noise_b.flatten()) - (clean - skip * noisy) / out).square()

    def sample(self, network: Callable[[Tensor, Tensor], Tensor], noise_bha: Tensor) -> Tensor:
        """From noise of deviation 1 to what it becomes by DDIM, [B, H, A]."""
        sigmas = self.schedule().to(noise_bha.device)
        x = noise_bha * sigmas[0]
        for now, then in pairwise(sigmas):
            denoised = self.denoise(network, x, now.expand(len(x)))
            x = denoised + (then / now) * (x - denoised)
        return x
