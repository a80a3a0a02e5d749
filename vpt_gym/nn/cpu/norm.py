"""Norms of one group over tensors whose channels lie innermost."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["normalise", "standardise"]


def standardise(x: Tensor, eps: float) -> Tensor:
    """[N, ...] -> the same shape, contiguous: each frame with mean 0 and variance 1, in whatever order its values lie.

    torch's layer norm adds up pairwise. Its group norm for channels that lie innermost does not, and over the half a million
    values of a frame that makes a difference which the network carries on to its end.
    """
    return F.layer_norm(x.view(len(x), -1), (x[0].numel(),), eps=eps).view(x.shape)


def normalise(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """[N, ..., C] -> the same shape, contiguous: `norm`, which has one group."""
    standard = standardise(x, norm.eps)
    return torch.addcmul(norm.bias, standard, norm.weight, out=standard)
