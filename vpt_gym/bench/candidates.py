"""What is measured: an encoder as the wrappers step it; and the rival that users would take instead, MineStudio's network."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from vpt_gym.bench.pictures import Frames, Pictures
from vpt_gym.bench.rounds import Step
from vpt_gym.config import VPTConfig
from vpt_gym.encoders.minestudio.package import import_minestudio
from vpt_gym.encoders.protocol import Encoder, Stream
from vpt_gym.weights.saving import policy_options

__all__ = [
    "Candidate",
    "fill_memory",
    "frames_in_turn",
    "measured_open",
    "minestudio_network",
    "of_encoder",
    "of_minestudio",
]

BATCHES_KEPT = 4
"""Different batches of frames that a measurement walks through again and again."""


@dataclass(frozen=True)
class Candidate:
    """Something that turns frames into latents.

    Attributes:
        words: how it computes, in a line.
        peak: the precision whose convolutions are its limit.
        device: where it runs.
        open: given a number of episodes, makes their memory, full: the step of them all, from uint8 frames to float32 latents
            in host memory, and the bytes that one episode keeps between steps.
    """

    words: str
    peak: str
    device: torch.device
    open: Callable[[int, Pictures], tuple[Step, float]]


def of_encoder(encoder: Encoder) -> Candidate:
    """An encoder, stepped as the wrappers step it."""

    def open_rows(batch: int, pictures: Pictures) -> tuple[Step, float]:
        stream, facts = encoder.stream(batch), encoder.describe()
        if facts["kind"] == "vpt":
            fill_memory(stream, facts["architecture"]["memory"])
        next_frames, first = frames_in_turn(pictures, batch), np.zeros(batch, np.bool_)
        one, two = (encoder.stream(rows).state_dict().values() for rows in (1, 2))
        more = sum(getattr(value, "nbytes", 0) for value in two) - sum(getattr(value, "nbytes", 0) for value in one)
        return lambda: stream.step(next_frames(), first).cpu().numpy(), more

    return Candidate(encoder.backend, encoder.precision, encoder.device, open_rows)


def fill_memory(stream: Stream, frames: int) -> None:
    """Puts noise into VPT's whole ring and says that it was seen, in place of `frames` steps that would take minutes."""
    # The time of a step does not depend on what the ring holds; it might, in some implementation, on how much it holds.
    state = stream.state_dict()
    for tensor in state.values():
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
            tensor.normal_()
    state["seen_b"].fill_(frames)
    stream.load_state_dict(state)


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


def frames_in_turn(pictures: Pictures, batch: int) -> Callable[[], Frames]:
    """A function that hands out batches of frames, made beforehand."""
    turn = itertools.cycle([pictures.frames(batch, step) for step in range(BATCHES_KEPT)])
    return lambda: next(turn)


def measured_open(candidate: Candidate, batch: int, pictures: Pictures) -> tuple[Step, float, float | None]:
    """Opens a candidate; a third value is the CUDA memory that each episode took and kept, None on a CPU."""
    if candidate.device.type != "cuda":
        return *candidate.open(batch, pictures), None
    before = _reserved(candidate.device)
    step, state_bytes = candidate.open(batch, pictures)
    for _ in range(2):  # a CUDA graph is captured at the second step
        step()
    return step, state_bytes, (_reserved(candidate.device) - before) / batch


def _reserved(device: torch.device) -> int:
    # Reserved, not allocated: the activations of a CUDA graph are free to torch's allocator, and to nobody else.
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved(device)
