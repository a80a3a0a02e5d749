"""Policies as a user derives them from MineStudio's template. Made in functions, because their base class is imported late."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from tests.support.minestudio import import_minestudio_models, randomise


def _base() -> Any:
    import_minestudio_models()
    return importlib.import_module("minestudio.models.base_policy").MinePolicy


def markovian(size: int = 64) -> Any:
    """The first template of MineStudio's documentation: no condition, and a state that is `[]`."""

    class MyMarkovPolicy(_base()):
        def __init__(self, hiddim: int, action_space: Any = None) -> None:
            super().__init__(hiddim, action_space)
            self.net = nn.Sequential(
                nn.Linear(size * size * 3, hiddim), nn.ReLU(), nn.Linear(hiddim, hiddim), nn.ReLU()
            )

        def forward(self, input: dict[str, Any], state_in: Any = None, **kwargs: Any) -> Any:  # noqa: A002
            x = self.net((input["image"] / 255.0).flatten(2))
            return {"pi_logits": self.pi_head(x), "vpred": self.value_head(x)}, []

        def initial_state(self, batch_size: int | None = None) -> list[Tensor]:
            return []

    return randomise(MyMarkovPolicy(48), 1).eval()


def conditioned(size: int = 64, *, flat: bool = False) -> Any:
    """The second one: `input` has a `condition` too. With `flat`, the heads are given [B*T, C]."""

    class MyConditionedPolicy(_base()):
        def __init__(self, hiddim: int, action_space: Any = None, condition_dim: int = 10) -> None:
            super().__init__(hiddim, action_space)
            self.net = nn.Sequential(nn.Linear(size * size * 3, hiddim), nn.ReLU())
            self.condition_net = nn.Linear(condition_dim, hiddim)
            self.fusion_net = nn.Sequential(nn.Linear(hiddim * 2, hiddim), nn.ReLU())

        def forward(self, input: dict[str, Any], state_in: Any = None, **kwargs: Any) -> Any:  # noqa: A002
            image, told = input["image"], input["condition"]
            b, t = image.shape[:2]
            x = self.net((image / 255.0).reshape(b * t, -1))
            y = self.condition_net(told.reshape(b * t, -1))
            z = self.fusion_net(torch.cat([x, y], dim=-1))
            if not flat:
                z = z.reshape(b, t, -1)
            return {"pi_logits": self.pi_head(z), "vpred": self.value_head(z)}, []

        def initial_state(self, batch_size: int | None = None) -> list[Tensor]:
            return []

    return randomise(MyConditionedPolicy(48), 2).eval()


def recurrent(form: str) -> Any:
    """A policy of another memory, whose state has one of several forms.

    `none`: None until the first frame; `nested`: dicts, tuples and lists; `growing`: one entry more with every frame; `buffer`:
    a tensor that every forward writes to again, as a compiled policy's may be.
    It reads an entry of every observation, `compass`, and adds a word's length where the condition has one.
    """

    class MyRecurrentPolicy(_base()):
        def __init__(self) -> None:
            super().__init__(48)
            self.look = nn.Linear(8 * 8 * 3 + 2, 48)
            self.cell = nn.GRUCell(48, 48)

        def forward(self, input: dict[str, Any], state_in: Any = None) -> Any:  # noqa: A002
            image = input["image"]
            x = self.look(torch.cat([image.flatten(2) / 255.0, input["compass"]], dim=2))[:, 0]
            if "told" in input:
                lengths = [[float(len(word)) for word in row] for row in input["told"]["word"]]
                x = x + torch.tensor(lengths)
            past = x.new_zeros(len(x), 48) if state_in is None else self.read(state_in)
            new = self.cell(x, past)
            pi_logits = self.pi_head(input_data=new[:, None])
            return {"pi_logits": pi_logits, "vpred": self.value_head(new[:, None])}, self.written(state_in, new)

        def read(self, state: Any) -> Tensor:
            if form == "nested":
                return torch.cat([state["a"][0], state["a"][1][0]], dim=1)
            return state[0].mean(dim=1) if form == "growing" else state[0]

        def written(self, state: Any, new: Tensor) -> Any:
            if form == "nested":
                return {"a": (new[:, :20], [new[:, 20:], None]), "b": None}
            if form == "growing":
                return [torch.cat([state[0], new[:, None]], dim=1)]
            if form == "buffer":
                self.kept = getattr(self, "kept", torch.zeros(8, 48))
                return [self.kept[: len(new)].copy_(new)]
            return [new]

        def initial_state(self, batch_size: int | None = None) -> Any:
            if form == "none":
                return None
            zeros = torch.zeros(batch_size or 1, 48)
            return [zeros[:, None]] if form == "growing" else self.written(None, zeros)

    return randomise(MyRecurrentPolicy(), 3).eval()


def with_forward(policy: Any, forward: Any) -> Any:
    """The same policy with another `forward`, as a method of a class derived from its own."""
    policy.__class__ = type("MyPolicy", (type(policy),), {"forward": forward})
    return policy
