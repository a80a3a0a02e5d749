"""The rival that users would take instead: MineStudio's own network, eager, stepped through its own interface."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import torch

from vpt_gym.bench.candidates import Running, frames_in_turn
from vpt_gym.bench.pictures import Pictures
from vpt_gym.config import VPTConfig
from vpt_gym.encoders.minestudio.package import import_minestudio

__all__ = ["MineStudioCandidate", "minestudio_network", "policy_options"]


class MineStudioCandidate:
    """MineStudio's `MinecraftPolicy` with random weights: the time of a step does not depend on their values.

    In float32 it runs under torch's defaults (on CUDA these allow TF32 in convolutions); `autocast` runs it under
    `torch.autocast` to bfloat16, the only lower precision that works in it.

    Args:
        network: from `minestudio_network`; the candidates share one.
        device: where it runs; the network is there already.
        autocast: compute in bfloat16 where autocast does.
    """

    def __init__(self, network: torch.nn.Module, device: torch.device, *, autocast: bool = False) -> None:
        self.network = network
        self.device = device
        self.autocast = autocast
        self.name = "minestudio-bf16" if autocast else "minestudio"
        self.words = "MineStudio's own network, eager, " + (
            "autocast to bfloat16" if autocast else "float32, torch's defaults"
        )
        float32 = "tf32" if device.type == "cuda" else "float32"
        self.peak = "bfloat16" if autocast else float32

    def open(self, batch: int, pictures: Pictures) -> Running:
        """Opens `batch` episodes. Its cache is as long from the first step on as ever after, so nothing needs filling."""
        state: list[torch.Tensor] = self.network.initial_state(batch)  # type: ignore[operator]
        state = [tensor.to(self.device) for tensor in state]
        next_frames = frames_in_turn(pictures, batch)
        first = torch.zeros((batch, 1), dtype=torch.bool, device=self.device)

        def step() -> object:
            nonlocal state
            frames = torch.from_numpy(next_frames()[:, None]).to(self.device)
            with torch.no_grad(), self._arithmetic():
                (latent, _), state = self.network({"image": frames}, state, context={"first": first})
            return latent[:, 0].float().cpu().numpy()

        return Running(step, state_bytes=sum(tensor.nbytes for tensor in state) / batch)

    def _arithmetic(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.autocast else contextlib.nullcontext()


def minestudio_network(config: VPTConfig, device: torch.device) -> torch.nn.Module:
    """MineStudio's network at the sizes of `config`, with the random weights that its constructor draws.

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
