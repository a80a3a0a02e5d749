"""The network with heads for any action space, as MineStudio's objectives ask for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpt_gym.errors import VPTGymError
from vpt_gym.nn import Memory, VPTNet
from vpt_gym.weights import VPTHeads

__all__ = ["ActionHead", "TrunkPolicy", "parts_of"]


def parts_of(space: gym.Space[Any]) -> dict[str, int]:
    """The parts of a categorical head for an action space, and how many choices each has.

    Raises:
        VPTGymError: the space is neither Discrete, MultiDiscrete nor MultiBinary.
    """
    if isinstance(space, gym.spaces.Discrete):
        return {"": int(space.n)}
    if isinstance(space, gym.spaces.MultiDiscrete) and space.nvec.ndim == 1:
        if space.nvec.tolist() == [8641, 121]:
            return {"buttons": 8641, "camera": 121}
        return {f"part{i:03d}": int(count) for i, count in enumerate(space.nvec)}
    if isinstance(space, gym.spaces.MultiBinary) and isinstance(space.n, int):
        return {f"part{i:03d}": 2 for i in range(space.n)}
    raise VPTGymError(f"A head is made for Discrete, MultiDiscrete and MultiBinary actions, not for {space}.")


class ActionHead(nn.Module):
    """A categorical distribution for each part of an action, read from the latent by one linear layer each.

    The same calls as MineStudio's `DictActionHead`, so that its objectives work with it. Source of the initial values:
    lib/action_head.py of Video-Pre-Training.
    """

    def __init__(self, latent_size: int, parts: Mapping[str, int], temperature: float = 1.0) -> None:
        super().__init__()
        self.parts = dict(parts)
        self.temperature = temperature
        # A module may not have an empty name.
        self.layers = nn.ModuleDict({f"_{name}": nn.Linear(latent_size, count) for name, count in parts.items()})
        for layer in self.layers.values():
            assert isinstance(layer, nn.Linear)
            nn.init.orthogonal_(layer.weight, gain=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, latents_btd: Tensor) -> dict[str, Tensor]:
        """Log-probabilities by part, [B, T, 1, choices]: the 1 is the one action of a part, as MineStudio has it."""
        return {
            name: F.log_softmax(self.layers[f"_{name}"](latents_btd).float() / self.temperature, dim=-1)[:, :, None]
            for name in self.parts
        }

    def split(self, actions_bta: Tensor) -> dict[str, Tensor]:
        """Actions [B, T] or [B, T, parts] of the environment as int64 [B, T, 1] by part."""
        if actions_bta.dim() == 2:
            actions_bta = actions_bta[..., None]
        return {name: actions_bta[..., i : i + 1].long() for i, name in enumerate(self.parts)}

    def logprob(self, actions: Mapping[str, Tensor], logits: Mapping[str, Tensor], *, return_dict: bool = False) -> Any:
        """Log-probability of actions, [B, T]: by part, or of all together."""
        found = {
            name: logits[name].gather(-1, actions[name][..., None].long()).squeeze(-1).sum(-1) for name in self.parts
        }
        return found if return_dict else torch.stack(list(found.values())).sum(0)

    def entropy(self, logits: Mapping[str, Tensor], *, return_dict: bool = False) -> Any:
        """Entropy in nats, [B, T]: by part, or of all together."""
        found = {name: -(logits[name].exp() * logits[name]).sum(-1).sum(-1) for name in self.parts}
        return found if return_dict else torch.stack(list(found.values())).sum(0)


class TrunkPolicy(nn.Module):
    """Network, action head and value head in training."""

    def __init__(self, net: VPTNet, parts: Mapping[str, int], heads: VPTHeads | None) -> None:
        """Around a network.

        Args:
            net: as `load_network(source, trainable=True)` gives it.
            parts: of the actions.
            heads: of the same source, which the training starts from where their parts are the same.
        """
        super().__init__()
        self.net = net
        size = net.config.hidden_size
        same = heads is not None and heads.actions == dict(parts)
        self.pi_head = ActionHead(size, parts, heads.temperature if same and heads is not None else 1.0)
        state = _value_head(size) if heads is None else heads.state_dict()
        self._value = {name: tensor for name, tensor in state.items() if name.startswith("value_head")}
        if same:
            with torch.no_grad():
                for name, layer in self.pi_head.layers.items():
                    assert isinstance(layer, nn.Linear)
                    layer.weight.copy_(state[_vpt_name(name[1:], "weight")])
                    layer.bias.copy_(state[_vpt_name(name[1:], "bias")])

    def forward(self, frames_bthwc: Tensor, first_bt: Tensor, memory: Memory) -> tuple[dict[str, Any], Memory]:
        """Latents as MineStudio's objectives name them, and the memory to go on from.

        Returns:
            `pi_logits` by part; `cnn` and `final` [B, T, hidden_size], the latents before the memory and behind it.
        """
        (cnn_btd, final_btd), memory = self.net(frames_bthwc, first_bt, memory, layers=("cnn", "final"))
        return {"pi_logits": self.pi_head(final_btd), "cnn": cnn_btd, "final": final_btd}, memory

    def heads(self) -> VPTHeads:
        """The heads as they stand, under VPT's names; the value head is what it was."""
        state = dict(self._value)
        for name, layer in self.pi_head.layers.items():
            assert isinstance(layer, nn.Linear)
            state[_vpt_name(name[1:], "weight")] = layer.weight.detach().float().cpu()
            state[_vpt_name(name[1:], "bias")] = layer.bias.detach().float().cpu()
        return VPTHeads.from_state_dict(state, self.pi_head.temperature, origin="The trained heads")


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
