"""MineStudio's real modules, as the reference that vpt_gym's network is compared with."""

from __future__ import annotations

import importlib
import importlib.util
import os
from types import ModuleType

import pytest
import torch
from torch import nn

from vpt_gym.config import PRESETS, VPTConfig
from vpt_gym.encoders.minestudio.package import import_minestudio
from vpt_gym.weights.saving import policy_options

__all__ = ["import_minestudio_models", "minecraft_policy", "randomise", "require_minestudio"]


def require_minestudio() -> None:
    """Skip the running test where MineStudio is not installed; fail where VPT_GYM_REQUIRE_MINESTUDIO=1 promises it."""
    if importlib.util.find_spec("minestudio") is None:
        reason = "MineStudio is not installed (`make env` does)"
        if os.environ.get("VPT_GYM_REQUIRE_MINESTUDIO") == "1":
            pytest.fail(f"{reason}, but VPT_GYM_REQUIRE_MINESTUDIO=1 asks for the comparison with it.")
        pytest.skip(reason)


def import_minestudio_models() -> ModuleType:
    """Import `minestudio.models`, beside a CPU build of torch too."""
    return import_minestudio("minestudio.models")


def minecraft_policy(config: VPTConfig | str, seed: int = 0) -> nn.Module:
    """MineStudio's `MinecraftPolicy` in float32 and eval mode, every parameter drawn from `seed`.

    Args:
        config: a `VPTConfig` or the name of a preset.
        seed: of `randomise`.

    Returns:
        A module called as `policy({"image": uint8 [B, T, 128, 128, 3]}, state, context={"first": bool [B, T]})`, which
        returns `((latent, latent), state)`; `policy.initial_state(B)` opens a state.
    """
    import_minestudio_models()
    body = importlib.import_module("minestudio.models.vpt.body")
    if isinstance(config, str):
        config = PRESETS[config]
    policy: nn.Module = body.MinecraftPolicy(**policy_options(config))
    return randomise(policy, seed).eval()


def randomise(module: nn.Module, seed: int) -> nn.Module:
    """Draw every parameter anew, in place, so that none of them can be left out without a difference.

    Norm scales lie around 1 and biases around 0, both with a visible spread; matrices and kernels keep the variance of
    their input. Parameters are drawn in the order of their sorted names.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("b_nd"):
                # The scale that VPT itself draws them with (`B_SCALE` in its xf.py). With 1 the softmax all but saturates and
                # multiplies every rounding error, of MineStudio's own network too, to the size of the tolerance.
                parameter.copy_(0.2 * noise)
            elif parameter.dim() > 1:
                parameter.copy_(noise * (2 / parameter[0].numel()) ** 0.5)
            elif name.endswith("weight"):
                parameter.copy_(1 + 0.2 * noise)
            else:
                parameter.copy_(0.2 * noise)
    return module
