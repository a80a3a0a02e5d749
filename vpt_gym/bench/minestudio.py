"""The rival that users would take instead: MineStudio's own network, eager, stepped through its own interface."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from vpt_gym.bench.candidates import Candidate, frames_in_turn
from vpt_gym.bench.pictures import Pictures
from vpt_gym.bench.rounds import Step
from vpt_gym.config import VPTConfig
from vpt_gym.encoders.minestudio.package import import_minestudio

__all__ = ["minestudio_network", "of_minestudio", "policy_options"]


def of_minestudio(network: torch.nn.Module, device: torch.device, *, autocast: bool) -> Candidate:
    """MineStudio's `MinecraftPolicy`, which lies on the device; candidates share one.

    In float32 it runs under torch's defaults (on CUDA these allow TF32 in convolutions); `autocast` runs it under
    `torch.autocast` to bfloat16, the only lower precision that works in it.
    """

    def open_rows(batch: int, pictures: Pictures) -> tuple[Step, float]:
        # Its cache is as long from the first step on as ever after, so nothing needs filling.
        state: list[torch.Tensor] = [tensor.to(device) for tensor in network.initial_state(batch)]  # type: ignore[operator]
        next_frames = frames_in_turn(pictures, batch)
        first = torch.zeros((batch, 1), dtype=torch.bool, device=device)

        def step() -> object:
            nonlocal state
            frames = torch.from_numpy(next_frames()[:, None]).to(device)
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16) if autocast else contextlib.nullcontext():
                (latent, _), state = network({"image": frames}, state, context={"first": first})
            return latent[:, 0].float().cpu().numpy()

        return step, sum(tensor.nbytes for tensor in state) / batch

    arithmetic = "autocast to bfloat16" if autocast else "float32, torch's defaults"
    peak = "bfloat16" if autocast else "tf32" if device.type == "cuda" else "float32"
    return Candidate(f"MineStudio's own network, eager, {arithmetic}", peak, device, open_rows)


def minestudio_network(config: VPTConfig, device: torch.device) -> torch.nn.Module:
    """MineStudio's network at the sizes of `config`; its weights are random, on whose values time does not depend.

    Raises:
        VPTGymError: MineStudio is not installed.
    """
    body = import_minestudio("minestudio.models.vpt.body")
    network: torch.nn.Module = body.MinecraftPolicy(**policy_options(config))
    return network.eval().requires_grad_(requires_grad=False).to(device)


def policy_options(config: VPTConfig) -> dict[str, Any]:
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
        "img_shape": [config.frame_size, config.frame_size, 3],
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
