"""Actions as numbers around zero, which can be noised, and back."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vpt_gym.errors import OptionError

__all__ = ["ActionCode", "facts_of_space", "space_of_facts"]

Array = npt.NDArray[Any]


class ActionCode(nn.Module):
    """Box actions scaled from the data's range to -1 .. 1; choices as one-hot of -1 and 1, and so are buttons.

    Attributes:
        size: numbers of one action.

    Raises:
        OptionError: the space is none of Box, Discrete, MultiDiscrete and MultiBinary.
    """

    low: Tensor
    high: Tensor

    def __init__(self, space: gym.Space[Any]) -> None:
        super().__init__()
        self.space = space
        self.choices: list[int] = []
        if isinstance(space, gym.spaces.Discrete):
            self.choices = [int(space.n)]
        elif isinstance(space, gym.spaces.MultiDiscrete) and len(space.shape) == 1:
            self.choices = [int(n) for n in space.nvec]
        elif not isinstance(space, (gym.spaces.Box, gym.spaces.MultiBinary)):
            raise OptionError(
                f"DiffusionPolicy acts in a Box, a Discrete, a MultiDiscrete [parts] or a MultiBinary, but the action space is "
                f"{space}."
            )
        self.size = sum(self.choices) if self.choices else int(np.prod(space.shape or ()))
        self.register_buffer("low", -torch.ones(self.size))
        self.register_buffer("high", torch.ones(self.size))
        if isinstance(space, gym.spaces.Box) and space.is_bounded():
            self.fit(np.stack([space.low, space.high]))

    def fit(self, actions: Array) -> None:
        """Takes the range of Box actions [N, ...]; other actions have theirs."""
        if isinstance(self.space, gym.spaces.Box):
            flat = actions.reshape(len(actions), -1)
            self.low.copy_(torch.as_tensor(flat.min(axis=0)))
            self.high.copy_(torch.as_tensor(flat.max(axis=0)))

    def check(self, actions: Array, owner: str) -> None:
        """Raises OptionError unless actions [N, ...] are in the space."""
        space = self.space
        low, high = self._bounds()
        if actions.shape[1:] != space.shape:
            raise OptionError(f"{owner} has actions of shape {actions.shape[1:]}, but the policy acts in {space}.")
        outside = ~((actions >= low) & (actions <= high)).reshape(len(actions), -1).all(axis=1)
        if outside.any():
            raise OptionError(
                f"{owner} has the action {actions[outside.argmax()].tolist()}, which is outside the policy's {space}: make the "
                "policy for the actions that were recorded, or convert the recordings."
            )

    def _bounds(self) -> tuple[Any, Any]:
        space = self.space
        if isinstance(space, gym.spaces.Box):
            return space.low, space.high
        if isinstance(space, (gym.spaces.Discrete, gym.spaces.MultiDiscrete)):
            sizes = space.n if isinstance(space, gym.spaces.Discrete) else space.nvec
            return space.start, space.start + sizes - 1
        return 0, 1

    def encode(self, actions: Tensor) -> Tensor:
        """Actions [..., *space.shape] -> float32 [..., size]."""
        space = self.space
        leading = actions.shape[: actions.ndim - len(space.shape or ())]
        flat = actions.reshape(*leading, -1)
        if self.choices:
            parts = (flat - torch.as_tensor(space.start, device=flat.device)).long()  # type: ignore[attr-defined]
            hot = [nn.functional.one_hot(parts[..., i], n) for i, n in enumerate(self.choices)]
            return torch.cat(hot, dim=-1).float() * 2 - 1
        if isinstance(space, gym.spaces.MultiBinary):
            return flat.float() * 2 - 1
        # What never changes in the data is the middle of its range, 0.
        span = self.high - self.low
        return torch.where(span > 0, (flat.float() - self.low) / span.clamp_min(1e-12) * 2 - 1, 0.0)

    def decode(self, code: Tensor) -> Array:
        """Codes [..., size] -> the nearest actions [..., *space.shape], of the space's dtype, inside the data's range."""
        space = self.space
        shape = (*code.shape[:-1], *(space.shape or ()))
        if self.choices:
            parts = torch.stack([part.argmax(dim=-1) for part in torch.split(code, self.choices, dim=-1)], dim=-1)
            found = parts.cpu().numpy() + np.asarray(space.start)  # type: ignore[attr-defined]
        elif isinstance(space, gym.spaces.MultiBinary):
            found = (code > 0).cpu().numpy()
        else:
            assert isinstance(space, gym.spaces.Box)
            scaled = self.low + (code.clamp(-1, 1) + 1) / 2 * (self.high - self.low)
            found = scaled.cpu().numpy().reshape(shape).clip(space.low, space.high)
            if np.issubdtype(space.dtype, np.integer):
                found = np.rint(found)  # a cast alone would cut off
        return found.reshape(shape).astype(space.dtype)


def facts_of_space(space: gym.Space[Any]) -> dict[str, Any]:
    """A space of actions as JSON values."""
    if isinstance(space, gym.spaces.Box):
        return {"kind": "Box", "low": space.low.tolist(), "high": space.high.tolist(), "dtype": str(space.dtype)}
    if isinstance(space, gym.spaces.Discrete):
        return {"kind": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, gym.spaces.MultiDiscrete):
        return {"kind": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": space.start.tolist()}
    assert isinstance(space, gym.spaces.MultiBinary)
    return {"kind": "MultiBinary", "n": space.n if isinstance(space.n, int) else list(space.shape)}


def space_of_facts(facts: dict[str, Any]) -> gym.Space[Any]:
    """The space that `facts_of_space` wrote."""
    values = {key: value for key, value in facts.items() if key != "kind"}
    if facts["kind"] == "Box":
        low, high = (np.asarray(values[key], values["dtype"]) for key in ("low", "high"))
        return gym.spaces.Box(low, high, dtype=low.dtype.type)
    known = {"Discrete": gym.spaces.Discrete, "MultiDiscrete": gym.spaces.MultiDiscrete}
    space: gym.Space[Any] = {**known, "MultiBinary": gym.spaces.MultiBinary}[facts["kind"]](**values)
    return space
