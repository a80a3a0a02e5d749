"""MineStudio's real modules, as the reference that vpt_gym's network is compared with."""

from __future__ import annotations

import importlib
import importlib.util
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from vpt_gym.config import PRESETS, VPTConfig

__all__ = ["import_minestudio_models", "minecraft_policy", "policy_kwargs", "randomise", "require_minestudio"]

_declared: list[torch.library.Library] = []
"""Schemas live as long as the library object that declared them."""


def require_minestudio() -> None:
    """Skip the running test where MineStudio is not installed; fail where VPT_GYM_REQUIRE_MINESTUDIO=1 promises it."""
    if importlib.util.find_spec("minestudio") is None:
        reason = "MineStudio is not installed (`make env` does)"
        if os.environ.get("VPT_GYM_REQUIRE_MINESTUDIO") == "1":
            pytest.fail(f"{reason}, but VPT_GYM_REQUIRE_MINESTUDIO=1 asks for the comparison with it.")
        pytest.skip(reason)


def import_minestudio_models() -> ModuleType:
    """Import `minestudio.models`, beside a CPU build of torch too.

    The index's torchvision is built for CUDA. Beside a CPU torch its compiled operators cannot load, and
    `import torchvision`, which MineStudio does, stops at two operators of unknown schema. Declaring the two is enough:
    no VPT module calls them.
    """
    if not _declared and not _torchvision_operators_load():
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
    return importlib.import_module("minestudio.models")


def policy_kwargs(config: VPTConfig) -> dict[str, Any]:
    """The `policy_kwargs` of a published VPT model, at the sizes of `config`.

    MineStudio's own defaults differ from them (no GroupNorm, a memory of 2048), so every one is passed. Source: the
    config.json of MineStudio's VPT checkpoints and OpenAI's `.model` files.
    """
    return {
        "attention_heads": config.heads,
        "attention_mask_style": "clipped_causal",
        "attention_memory_size": 2 * config.memory,
        "diff_mlp_embedding": False,
        "hidsize": config.hidden_size,
        "img_shape": [128, 128, 3],
        "impala_chans": [16, 32, 32],
        "impala_kwargs": {"post_pool_groups": 1},
        "impala_width": config.impala_width,
        "init_norm_kwargs": {"batch_norm": False, "group_norm_groups": 1},
        "n_recurrence_layers": config.blocks,
        "only_img_input": True,
        "pointwise_ratio": config.mlp_ratio,
        "pointwise_use_activation": False,
        "recurrence_is_residual": True,
        "recurrence_type": "transformer",
        "timesteps": config.memory,
        "use_pointwise_layer": True,
        "use_pre_lstm_ln": False,
    }


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
    policy: nn.Module = body.MinecraftPolicy(**policy_kwargs(config))
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


def _torchvision_operators_load() -> bool:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("MineStudio is installed without torchvision; `make env` brings both.")
    library = Path(spec.submodule_search_locations[0]) / "_C.so"
    try:
        torch.ops.load_library(library)
    except OSError:
        return False
    return True
