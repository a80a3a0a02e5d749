"""What is measured: our own stream in some precision. Rivals stand in modules of their own and look the same."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from vpt_gym.bench.pictures import Frames, Pictures
from vpt_gym.encoders.stream import LatentStream
from vpt_gym.encoders.vpt import VPTEncoder

__all__ = ["Candidate", "OwnCandidate", "Running", "frames_in_turn", "measured_open", "native_bfloat16", "stepper"]

BATCHES_KEPT = 4
"""Different batches of frames that a measurement walks through again and again."""


@dataclass(frozen=True)
class Running:
    """A candidate at one batch size, ready to be timed.

    Attributes:
        step: uint8 frames in host memory to float32 latents in host memory, for every row; returns when they are there.
        state_bytes: bytes of memory between steps, for each environment.
        device_bytes: CUDA memory that opening it and its first steps took and kept, for each environment; None on a CPU.
    """

    step: Callable[[], object]
    state_bytes: float
    device_bytes: float | None = None


class Candidate(Protocol):
    """Something that turns frames into latents.

    Attributes:
        name: how tables call it.
        words: how it computes, in a line.
        peak: the precision whose convolutions are its limit.
        device: where it runs.
    """

    name: str
    words: str
    peak: str
    device: torch.device

    def open(self, batch: int, pictures: Pictures) -> Running:
        """Makes the memory of `batch` episodes, full, and the step to be timed."""
        ...


class OwnCandidate:
    """An encoder of ours, stepped as the wrappers step it."""

    def __init__(self, encoder: VPTEncoder) -> None:
        self.encoder = encoder
        self.name = encoder.precision
        self.words = encoder.backend
        self.peak = encoder.precision
        self.device = encoder.device

    def open(self, batch: int, pictures: Pictures) -> Running:
        """A stream whose ring is full, so that attention reads what it reads in the middle of an episode."""
        stream = self.encoder.stream(batch)
        fill_ring(stream)
        next_frames = frames_in_turn(pictures, batch)
        first = np.zeros(batch, np.bool_)
        return Running(
            step=lambda: stream.step(next_frames(), first).cpu().numpy(),
            state_bytes=_state_bytes(self.encoder),
        )


def stepper(encoder: VPTEncoder, rows: int) -> Callable[[Frames, npt.NDArray[np.bool_]], npt.NDArray[np.float32]]:
    """A stream as a function of frames and flags, for the comparison of latents."""
    stream = encoder.stream(rows)

    def step(frames: Frames, first: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
        latents: npt.NDArray[np.float32] = stream.step(frames, first).cpu().numpy()
        return latents

    return step


def fill_ring(stream: LatentStream) -> None:
    """Puts noise into every slot and says that it was seen, in place of 128 steps that would take minutes.

    The time of a step does not depend on what the ring holds; it might, in some implementation, on how much it holds.
    """
    state = stream.state_dict()
    for tensor in state.values():
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
            tensor.normal_()
    state["seen_b"].fill_(stream.network.net.config.memory)
    stream.load_state_dict(state)


def frames_in_turn(pictures: Pictures, batch: int) -> Callable[[], Frames]:
    """A function that hands out batches of frames, made beforehand."""
    kept = [pictures.frames(batch, step) for step in range(BATCHES_KEPT)]
    turn = itertools.cycle(kept)
    return lambda: next(turn)


def measured_open(candidate: Candidate, batch: int, pictures: Pictures) -> Running:
    """Opens a candidate; on CUDA, also finds out how much memory it takes and keeps."""
    if candidate.device.type != "cuda":
        return candidate.open(batch, pictures)
    # Reserved, not allocated: the activations of a CUDA graph are free to torch's allocator, and to nobody else.
    before = _reserved(candidate.device)
    running = candidate.open(batch, pictures)
    for _ in range(2):
        running.step()
    kept = _reserved(candidate.device) - before
    return Running(running.step, running.state_bytes, kept / batch)


def _reserved(device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved(device)


def native_bfloat16(device: torch.device, cpu_flags: list[str]) -> bool:
    """Whether the device multiplies bfloat16 in hardware; elsewhere it is emulated and slower than float32."""
    if device.type == "cuda":
        with torch.cuda.device(device):  # torch asks the current one
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool({"avx512_bf16", "amx_bf16"} & set(cpu_flags))


def _state_bytes(encoder: VPTEncoder) -> float:
    """Bytes that one more environment adds to a stream's state."""

    def total(rows: int) -> int:
        return sum(x.nbytes for x in encoder.stream(rows).state_dict().values() if isinstance(x, torch.Tensor))

    return total(2) - total(1)
