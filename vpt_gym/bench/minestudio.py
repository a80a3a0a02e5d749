"""The rival that users would take instead: MineStudio's own network, eager, stepped through its own interface."""

from __future__ import annotations

import contextlib

import torch

from vpt_gym.bench.candidates import Candidate, frames_in_turn
from vpt_gym.bench.pictures import Pictures
from vpt_gym.bench.rounds import Step
from vpt_gym.config import VPTConfig
from vpt_gym.encoders.minestudio.package import import_minestudio
from vpt_gym.weights.saving import policy_options

__all__ = ["minestudio_network", "of_minestudio"]


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
