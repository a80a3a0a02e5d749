"""Untrained weights: drawn at random from a seed, and used only when asked for by name."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from vpt_gym.config import VPTConfig
from vpt_gym.weights.names import table

__all__ = ["untrained_tensors"]

_RELATION_SCALE = 0.1
"""Size of the relative-position terms. Small, so that untrained attention is close to the mean over what it sees."""


def untrained_tensors(config: VPTConfig, seed: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Draws a network of this size.

    Norms start as the identity and biases at zero. The rows of every matrix and the filters of every convolution have unit
    length: a norm stands before almost every one of them, so that values keep their size however deep the network is.

    Args:
        config: sizes of the network.
        seed: the same seed gives the same tensors on every machine.

    Yields:
        VPT's name of a tensor, and the tensor, float32 on the CPU, in the order of `table`. It is good until the next one is
        drawn, which takes its place in memory.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    # One place for them all: blocks of many sizes, freed between tensors that stay, leave holes that the process keeps.
    place = torch.empty(max(math.prod(spec.shape) for spec in table(config)), dtype=torch.float32, device="cpu")
    for spec in table(config):
        if len(spec.shape) == 1:
            is_scale = spec.vpt_name.endswith("weight")
            yield spec.vpt_name, torch.full(spec.shape, float(is_scale), dtype=torch.float32, device="cpu")
            continue
        tensor = place[: math.prod(spec.shape)].view(spec.shape).normal_(generator=generator)
        if spec.vpt_name.endswith(".b_nd"):
            yield spec.vpt_name, tensor.mul_(_RELATION_SCALE)
        else:
            yield spec.vpt_name, tensor.div_(math.sqrt(math.prod(spec.shape[1:])))
