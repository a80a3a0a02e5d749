"""What is measured: an encoder as the wrappers step it. MineStudio's own network, in a module of its own, looks the same."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from vpt_gym.bench.pictures import Frames, Pictures
from vpt_gym.bench.rounds import Step
from vpt_gym.encoders.protocol import Encoder, Stream

__all__ = ["Candidate", "fill_memory", "frames_in_turn", "measured_open", "of_encoder"]

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
