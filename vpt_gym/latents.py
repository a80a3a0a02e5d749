"""Which of the network's layers becomes the latent, and how a sequence of latents is pooled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from vpt_gym.config import VPTConfig
from vpt_gym.errors import OptionError
from vpt_gym.nn import layer_names

__all__ = ["POOLINGS", "LatentChoice", "check_pooling", "latent_box"]

POOLINGS: Final = ("none", "last", "mean")
"""How `VPTEncoder.encode` hands back a sequence: every frame's latent, the last frame's, or the mean of all."""


@dataclass(frozen=True)
class LatentChoice:
    """A layer of a network of a given size.

    Attributes:
        config: sizes of the network.
        layer: `cnn` (before the memory), `block0` ... (after a transformer block), `final` (what VPT's heads read), or `all`
            of them side by side in that order.

    Raises:
        OptionError: the network has no such layer.
    """

    config: VPTConfig
    layer: str

    def __post_init__(self) -> None:
        choices = (*layer_names(self.config), "all")
        if self.layer not in choices:
            raise OptionError(f"layer must be one of {', '.join(choices)}, not {self.layer!r}.")

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers whose outputs make up the latent."""
        return layer_names(self.config) if self.layer == "all" else (self.layer,)

    @property
    def blocks(self) -> int:
        """How many transformer blocks must run, and so be remembered."""
        if self.layer == "cnn":
            return 0
        return int(self.layer.removeprefix("block")) + 1 if self.layer.startswith("block") else self.config.blocks

    @property
    def size(self) -> int:
        """Length of one latent."""
        return self.config.hidden_size * len(self.layers)

    def join(self, outputs: Sequence[Tensor]) -> Tensor:
        """Outputs [B, T, hidden] of `layers`, in any precision -> float32 [B, T, size]."""
        return torch.cat([output_btc.float() for output_btc in outputs], dim=2)


def latent_box(size: int) -> gym.spaces.Box:
    """The space of one latent: every finite float32 [size]; a fresh object."""
    # Finite, not infinite, bounds: a latent that is NaN or infinite is then outside its space, and Gymnasium's
    # `check_env`, which warns of infinite bounds, has nothing to say.
    largest = np.finfo(np.float32).max
    return gym.spaces.Box(-largest, largest, (size,), np.float32)


def check_pooling(pooling: str) -> str:
    """Hands back `pooling`; raises OptionError if there is no such one."""
    if pooling not in POOLINGS:
        raise OptionError(f"pooling must be one of {', '.join(POOLINGS)}, not {pooling!r}.")
    return pooling
