"""Heads for any action space, as MineStudio's objectives ask for them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import gymnasium as gym
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from vpt_gym.errors import VPTGymError

__all__ = ["ActionHead", "Continuous", "GaussianHead", "Parts", "head_of", "parts_of"]


@dataclass(frozen=True)
class Continuous:
    """The parts of a continuous action: so many numbers."""

    count: int


Parts: TypeAlias = Mapping[str, int] | Continuous


def parts_of(space: gym.Space[Any]) -> Parts:
    """The parts of an action: how many choices each has, by name; or how many numbers, where actions are continuous.

    Raises:
        VPTGymError: the space is neither Discrete from 0 on, MultiDiscrete, MultiBinary nor Box.
    """
    if isinstance(space, gym.spaces.Discrete) and space.start == 0:
        return {"": int(space.n)}
    if isinstance(space, gym.spaces.MultiDiscrete) and space.nvec.ndim == 1:
        if space.nvec.tolist() == [8641, 121]:
            return {"buttons": 8641, "camera": 121}
        return {f"part{i:03d}": int(count) for i, count in enumerate(space.nvec)}
    if isinstance(space, gym.spaces.MultiBinary) and isinstance(space.n, int):
        return {f"part{i:03d}": 2 for i in range(space.n)}
    if isinstance(space, gym.spaces.Box):
        return Continuous(math.prod(space.shape))
    raise VPTGymError(
        f"A head is made for Discrete actions that count from 0, MultiDiscrete, MultiBinary and Box ones, not for {space}."
    )


def head_of(latent_size: int, parts: Parts, temperature: float = 1.0) -> ActionHead | GaussianHead:
    """A new head for these parts."""
    if isinstance(parts, Continuous):
        return GaussianHead(latent_size, parts.count)
    return ActionHead(latent_size, parts, temperature)


class ActionHead(nn.Module):
    """A categorical distribution for each part of an action, read from the latent by one linear layer each.

    The same calls as MineStudio's `DictActionHead`, so that its objectives work with it. Source of the initial values:
    lib/action_head.py of Video-Pre-Training.
    """

    measured = "accuracy"

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

    def misfit(self, found_btn: Tensor, wanted_bta: Tensor) -> Tensor:
        """How wrong outputs for a part are about its actions, [B, T]: cross-entropy."""
        return F.cross_entropy(found_btn.transpose(1, 2), wanted_bta[..., 0], reduction="none")

    def measure(self, found_btn: Tensor, wanted_bta: Tensor) -> Tensor:
        """1 where the likeliest choice of a part is right, [B, T]."""
        return found_btn.argmax(-1).eq(wanted_bta[..., 0]).float()

    def embedding(self, count: int, size: int) -> nn.Module:
        """A new layer that makes a vector [B, T, size] of a part's actions as `index` gives them."""
        return nn.Embedding(count, size)

    def index(self, actions_bta: Tensor) -> Tensor:
        """A part's actions as its embedding takes them, [B, T]."""
        return actions_bta[..., 0]


class GaussianHead(nn.Module):
    """A normal distribution of every number of a continuous action: the mean from one linear layer, the deviation by itself.

    The same calls and numbers as MineStudio's `DiagGaussianActionHead`, as the one part of an action. Source:
    lib/action_head.py of Video-Pre-Training.
    """

    measured = "error"

    def __init__(self, latent_size: int, count: int) -> None:
        super().__init__()
        self.parts = {"": count}
        self.layers = nn.ModuleDict({"_": nn.Linear(latent_size, count)})
        self.log_std = nn.Parameter(torch.zeros(count))
        layer = self.layers["_"]
        assert isinstance(layer, nn.Linear)
        nn.init.orthogonal_(layer.weight, gain=0.01)
        nn.init.zeros_(layer.bias)

    def forward(self, latents_btd: Tensor) -> dict[str, Tensor]:
        """Mean and logarithm of the deviation of every number, [B, T, numbers, 2]."""
        mean_bta = self.layers["_"](latents_btd).float()
        return {"": torch.stack([mean_bta, self.log_std.float().expand_as(mean_bta)], dim=-1)}

    def split(self, actions_bta: Tensor) -> dict[str, Tensor]:
        """Actions [B, T, ...] of the environment as float32 [B, T, numbers]."""
        return {"": actions_bta.flatten(2).float()}

    def logprob(self, actions: Mapping[str, Tensor], logits: Mapping[str, Tensor], *, return_dict: bool = False) -> Any:
        """Log-density of actions, [B, T]."""
        found = {"": self._normal(logits).log_prob(actions[""]).sum(-1)}
        return found if return_dict else found[""]

    def entropy(self, logits: Mapping[str, Tensor], *, return_dict: bool = False) -> Any:
        """Entropy in nats, [B, T]."""
        found = {"": self._normal(logits).entropy().sum(-1)}
        return found if return_dict else found[""]

    def misfit(self, found_btn: Tensor, wanted_bta: Tensor) -> Tensor:
        """How wrong outputs are about actions, [B, T]: half the squared distance."""
        return 0.5 * (found_btn - wanted_bta).square().sum(-1)

    def measure(self, found_btn: Tensor, wanted_bta: Tensor) -> Tensor:
        """The mean distance of a number, [B, T]."""
        return (found_btn - wanted_bta).abs().mean(-1)

    def embedding(self, count: int, size: int) -> nn.Module:
        """A new layer that makes a vector [B, T, size] of actions as `index` gives them."""
        return nn.Linear(count, size)

    def index(self, actions_bta: Tensor) -> Tensor:
        """Actions as the embedding takes them, [B, T, numbers]: as they are."""
        return actions_bta

    @staticmethod
    def _normal(logits: Mapping[str, Tensor]) -> Any:
        mean_bta, log_std_bta = logits[""].unbind(-1)
        # What is not finite is refused where the losses are added up, with the names of the recordings.
        return Normal(mean_bta, log_std_bta.exp(), validate_args=False)
