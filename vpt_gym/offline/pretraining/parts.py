"""Which parameters are trained: all, some, or small matrices beside frozen ones."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn

from vpt_gym.offline.pretraining.engine import import_peft
from vpt_gym.offline.pretraining.policy import TrunkPolicy

__all__ = ["choose_parts"]


_ADAPTED: Final = ("query", "key", "value", "relation", "mlp_in", "mlp_out")


def choose_parts(policy: TrunkPolicy, train: str) -> Any:
    """Gives gradients to what is trained and takes them from the rest; heads are always trained.

    Args:
        policy: whose network's linear layers are replaced for `lora:RANK`.
        train: a value of `PretrainingConfig.train`.

    Returns:
        With `lora:RANK`, peft's model around the network, whose `merge_and_unload` makes it plain again (LoRA, arXiv
        2106.09685); else None.

    Raises:
        VPTGymError: peft is not installed.
    """
    net = policy.net
    net.requires_grad_(requires_grad=train == "all")
    if train == "norms":
        for module in net.modules():
            if isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
                module.requires_grad_(requires_grad=True)
            if isinstance(module, nn.GroupNorm):
                module.register_forward_pre_hook(_with_gradient)
    if train in ("blocks", "last"):
        blocks = list(net.blocks) if train == "blocks" else [net.blocks[-1]]
        for module in (*blocks, net.last, net.last_norm, net.final_norm):
            module.requires_grad_(requires_grad=True)
    if train.startswith("lora:"):
        peft = import_peft(f"train={train!r}")
        rank = int(train.removeprefix("lora:"))
        # Puts low-rank pairs beside the frozen layers, in place; alpha as the rank scales them by one.
        config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=list(_ADAPTED))
        return peft.LoraModel(net, config, "vpt_gym")
    return None


def _with_gradient(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """On a CPU, channels-last group norm crashes going backward if only its own parameters want gradients."""
    del module
    (x,) = inputs
    return (x if x.requires_grad or not torch.is_grad_enabled() else x.detach().requires_grad_(),)
