"""Whether a live `MinecraftPolicy` of MineStudio is VPT's network in everything that its tensors don't show."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from torch import nn

__all__ = ["unlike_vpt"]

_WANTED: Final[Mapping[str, object]] = MappingProxyType(
    {
        "eps": 1e-5,
        "inject_condition": False,
        "is_residual": True,
        "mask": "clipped_causal",
        "num_groups": 1,
        "ob_scale": 255.0,
        "pool": True,
        "recurrence_type": "transformer",
        "single_output": False,
        "use_activation": True,
        "use_muP_factor": True,
        "use_pointwise_layer": True,
    }
)
"""Attributes of MineStudio's modules that make another network of the same tensors, and the value that all of VPT has."""

_KNOWN: Final = ("minestudio.utils.vpt_lib.", "minestudio.models.", "torch.nn.modules.")
"""Where the classes of a network come from that nobody has put other parts into."""


def unlike_vpt(net: nn.Module) -> str | None:
    """What makes the network another one than VPT's, whatever its tensors look like; None if nothing does."""
    for name, module in net.named_modules(prefix="net"):
        if not type(module).__module__.startswith(_KNOWN) or "forward" in vars(module):
            return f"{name} is a part of somebody else's, {type(module).__qualname__}"
        attributes: dict[str, Any] = vars(module)
        for attribute, wanted in _WANTED.items():
            if attribute == "use_activation" and name.endswith(".mlp1"):
                wanted = False  # noqa: PLW2901 - the one layer of a block without ReLU (VPT's `pointwise_use_activation`)
            if attribute in attributes and attributes[attribute] != wanted:
                return f"{name}.{attribute} is {attributes[attribute]!r}, where VPT has {wanted!r}"
    return None
