"""The network with heads for any action space, as MineStudio's objectives ask for it."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from vpt_gym.nn import Memory, VPTNet
from vpt_gym.offline.pretraining.heads import ActionHead, GaussianHead, Parts, head_of
from vpt_gym.weights import VPTHeads

__all__ = ["LOG_STD", "TrunkPolicy"]

logger = logging.getLogger(__name__)

LOG_STD: Final = "pi_head.log_std"
"""VPT's name of the deviations, which only heads of continuous actions have."""


class TrunkPolicy(nn.Module):
    """Network, action head and value head in training."""

    def __init__(self, net: VPTNet, parts: Parts, heads: VPTHeads | Mapping[str, Tensor] | None) -> None:
        """Around a network.

        Args:
            net: as `load_network(source, trainable=True)` gives it.
            parts: of the actions.
            heads: of the same source, which the training starts from where they are for the same parts; those of continuous
                actions as tensors under VPT's names.
        """
        super().__init__()
        self.net = net
        size = net.config.hidden_size
        self.pi_head = head_of(size, parts)
        given = heads.state_dict() if isinstance(heads, VPTHeads) else heads or _value_head(size)
        self._value = {name: tensor for name, tensor in given.items() if name.startswith("value_head")}
        own = self._named()
        there = {name: tensor for name, tensor in given.items() if name.startswith("pi_head")}
        if {name: tensor.shape for name, tensor in own.items()} == {name: each.shape for name, each in there.items()}:
            with torch.no_grad():
                for name, parameter in own.items():
                    parameter.copy_(there[name])
            if isinstance(heads, VPTHeads) and isinstance(self.pi_head, ActionHead):
                self.pi_head.temperature = heads.temperature
        elif there:
            logger.warning(
                "The action head of these weights is for other actions than the recordings': a new one is trained."
            )

    def forward(self, frames_bthwc: Tensor, first_bt: Tensor, memory: Memory) -> tuple[dict[str, Any], Memory]:
        """Latents as MineStudio's objectives name them, and the memory to go on from.

        Returns:
            `pi_logits` by part; `cnn` and `final` [B, T, hidden_size], the latents before the memory and behind it.
        """
        (cnn_btd, final_btd), memory = self.net(frames_bthwc, first_bt, memory, layers=("cnn", "final"))
        return {"pi_logits": self.pi_head(final_btd), "cnn": cnn_btd, "final": final_btd}, memory

    def heads(self) -> VPTHeads | dict[str, Tensor]:
        """The heads as they stand, those of continuous actions as tensors under VPT's names; the value head is what it was."""
        own = {name: parameter.detach().float().cpu() for name, parameter in self._named().items()}
        if isinstance(self.pi_head, ActionHead):
            return VPTHeads.from_state_dict(
                {**self._value, **own}, self.pi_head.temperature, origin="The trained heads"
            )
        return {**self._value, **own}

    def _named(self) -> dict[str, Tensor]:
        """The action head's parameters under VPT's names."""
        found: dict[str, Tensor] = {}
        for name, layer in self.pi_head.layers.items():
            assert isinstance(layer, nn.Linear)
            found |= {_vpt_name(name[1:], "weight"): layer.weight, _vpt_name(name[1:], "bias"): layer.bias}
        if isinstance(self.pi_head, GaussianHead):
            found[LOG_STD] = self.pi_head.log_std
        return found


def _vpt_name(part: str, kind: str) -> str:
    return f"pi_head.{part}.linear_layer.{kind}" if part else f"pi_head.linear_layer.{kind}"


def _value_head(size: int) -> dict[str, Tensor]:
    return {
        "value_head.linear.weight": torch.randn(1, size) / math.sqrt(size),
        "value_head.linear.bias": torch.zeros(1),
        "value_head.normalizer.running_mean": torch.zeros(1),
        "value_head.normalizer.running_mean_sq": torch.zeros(1),
        "value_head.normalizer.debiasing_term": torch.zeros(()),
    }
