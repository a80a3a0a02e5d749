"""VPT's heads as torch modules, and the adapters that may stand before them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vpt_gym.weights.heads import VPTHeads

__all__ = ["ActionHead", "Adapters", "ValueHead"]

_LEAST_DEBIASING = 1e-5
_LEAST_VARIANCE = 1e-2


class ActionHead(nn.Module):
    """VPT's `pi_head`: latents [B, latent] -> logits [B, buttons + camera], the buttons' first, divided by the temperature.

    All parts are one matrix, and so one product.

    Attributes:
        temperature: what the logits are divided by; no parameter, as in VPT.
    """

    def __init__(self, heads: VPTHeads) -> None:
        super().__init__()
        self.temperature = heads.temperature
        self.weight = nn.Parameter(_joined(heads, "weight"))
        self.bias = nn.Parameter(_joined(heads, "bias"))

    def forward(self, latents_bd: Tensor) -> Tensor:
        return nn.functional.linear(latents_bd, self.weight, self.bias) / self.temperature


def _joined(heads: VPTHeads, part: str) -> Tensor:
    return torch.cat([heads.tensor(name) for name in heads.part_names(part)])


class ValueHead(nn.Module):
    """VPT's `value_head` with what its normaliser does: latents [B, latent] -> values [B, 1] in the units of the rewards.

    The head predicts returns of mean 0 and variance 1. Its statistics of the returns in VPT's training turn that back; they
    stand still here, as buffers. Source: `ScaledMSEHead.denormalize` and `NormalizeEwma` of Video-Pre-Training.

    VPT takes its value loss in the normalised units, Stable-Baselines3 in those of the rewards, where the same error has a
    gradient that is scale^2 times as large: beside it the policy's would vanish when both are clipped together. So what flows
    back to the head is divided by scale^2 where the scale is above one, and a mean squared error of the values has the gradient
    of VPT's own loss. The values themselves are exact. A scale below one, as that of untrained statistics, changes no gradient.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, heads: VPTHeads) -> None:
        super().__init__()
        self.weight = nn.Parameter(heads.tensor("value_head.linear.weight").clone())
        self.bias = nn.Parameter(heads.tensor("value_head.linear.bias").clone())
        statistics = "value_head.normalizer"
        debiasing = heads.tensor(f"{statistics}.debiasing_term").clamp(min=_LEAST_DEBIASING)
        mean = heads.tensor(f"{statistics}.running_mean") / debiasing
        variance = heads.tensor(f"{statistics}.running_mean_sq") / debiasing - mean**2
        self.register_buffer("mean", mean)
        self.register_buffer("scale", variance.clamp(min=_LEAST_VARIANCE).sqrt())

    def forward(self, latents_bd: Tensor) -> Tensor:
        normalised_b1 = nn.functional.linear(latents_bd, self.weight, self.bias)
        if normalised_b1.requires_grad:
            divisor = self.scale.clamp(min=1).square()
            normalised_b1.register_hook(lambda gradient_b1: gradient_b1 / divisor)  # type: ignore[no-untyped-call]
        return normalised_b1 * self.scale + self.mean


class Adapters(nn.Module):
    """What Stable-Baselines3 calls a policy's `mlp_extractor`: one residual MLP for the actions and one for the value.

    Each adds to the latent what two layers make of it, the second of which starts at zero: the latents pass unchanged, bit for
    bit, until something is learnt. Without a width there are no adapters, and they pass for ever.

    Attributes:
        latent_dim_pi: length of what the action head reads.
        latent_dim_vf: length of what the value head reads.
    """

    def __init__(self, latent_size: int, width: int | None) -> None:
        super().__init__()
        self.latent_dim_pi = self.latent_dim_vf = latent_size
        self.actor = _adapter(latent_size, width)
        self.critic = _adapter(latent_size, width)

    def forward(self, latents_bd: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward_actor(latents_bd), self.forward_critic(latents_bd)

    def forward_actor(self, latents_bd: Tensor) -> Tensor:
        return latents_bd if self.actor is None else latents_bd + self.actor(latents_bd)

    def forward_critic(self, latents_bd: Tensor) -> Tensor:
        return latents_bd if self.critic is None else latents_bd + self.critic(latents_bd)


def _adapter(size: int, width: int | None) -> nn.Sequential | None:
    if width is None:
        return None
    last = nn.Linear(width, size)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(size, width), nn.ReLU(), last)
