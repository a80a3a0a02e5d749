"""The losses of behaviour cloning, as VPT and MineStudio take them, and what says how well it went.

Source: `BehaviorCloneCallback` and `KLDivergenceCallback` of MineStudio 1.1.6; a test compares the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Normal

from vpt_gym.offline import keyboard

__all__ = ["cloning_loss", "counted_parts", "divergence", "is_vpts", "log_likelihood", "most_likely"]


def is_vpts(space: gym.Space[Any]) -> bool:
    """Whether actions are VPT's buttons and camera."""
    return isinstance(space, gym.spaces.MultiDiscrete) and bool(space == keyboard.action_space())


def log_likelihood(parts: Sequence[Distribution], actions_na: Tensor) -> Tensor:
    """Log-probabilities [N, P] of actions [N, A] under the P parts of a policy's distribution.

    A part is a categorical distribution of one number of the action; or a normal or Bernoulli one of all its numbers, over
    which the logarithms are added up.
    """
    if isinstance(parts[0], Categorical):
        columns = [part.log_prob(actions_na[:, place]) for place, part in enumerate(parts)]
    else:
        columns = [part.log_prob(actions_na).sum(dim=1) for part in parts]
    return torch.stack(columns, dim=1)


def counted_parts(space: gym.Space[Any], actions_na: Tensor, parts: int) -> Tensor:
    """Which parts of actions [N, A] count in the loss, float32 [N, P]: all, but VPT's camera where it stands still.

    Where the camera stands still the combination of buttons says so already, and VPT never asks the camera's head.
    """
    counted_np = torch.ones(len(actions_na), parts, device=actions_na.device)
    if is_vpts(space):
        counted_np[:, 1] = actions_na[:, 1] != keyboard.NULL_CAMERA
    return counted_np


def cloning_loss(log_likelihood_btp: Tensor, counted_btp: Tensor, mask_bt: Tensor | None = None) -> Tensor:
    """The negative log-likelihood of each part, [P]: a sum over time, then the mean over the batch.

    Args:
        log_likelihood_btp: of the actions.
        counted_btp: 0 where a part does not count.
        mask_bt: 0 where a sequence is padded; None for no padding.
    """
    counted_btp = counted_btp if mask_bt is None else counted_btp * mask_bt[..., None]
    return -(log_likelihood_btp * counted_btp).sum(dim=1).mean(dim=0)


def divergence(teacher: Sequence[Distribution], student: Sequence[Distribution]) -> Tensor:
    """KL(teacher, student) [N], added up over the parts."""
    return torch.stack([_divergence(ours, theirs) for ours, theirs in zip(teacher, student, strict=True)]).sum(dim=0)


def _divergence(teacher: Distribution, student: Distribution) -> Tensor:
    if isinstance(teacher, Categorical) and isinstance(student, Categorical):
        # From log-probabilities: torch's own is infinite where a probability is too small for a float32.
        return (teacher.logits.exp() * (teacher.logits - student.logits)).sum(dim=-1)
    if isinstance(teacher, Normal) and isinstance(student, Normal):
        ratio = 2 * (teacher.scale.log() - student.scale.log())
        distance = (teacher.loc - student.loc).square() / student.scale.square()
        return -0.5 * (1 + ratio - ratio.exp() - distance).sum(dim=-1)
    return torch.distributions.kl_divergence(teacher, student).sum(dim=-1)


def most_likely(parts: Sequence[Distribution]) -> Tensor:
    """The likeliest action [N, A]."""
    if isinstance(parts[0], Categorical):
        return torch.stack([part.logits.argmax(dim=1) for part in parts if isinstance(part, Categorical)], dim=1)
    if isinstance(parts[0], Bernoulli):
        return (parts[0].probs > 0.5).float()
    return parts[0].mean
