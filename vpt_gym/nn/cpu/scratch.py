"""Working memory that convolutions take turns in, so that no step waits for the system to map fresh pages."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["Scratch"]


class Scratch:
    """Working memory of one thread; it grows to the largest size that was asked for and stays there."""

    def __init__(self) -> None:
        self._flat: dict[tuple[str, torch.dtype], Tensor] = {}
        self._padded: dict[tuple[int, int, int, torch.dtype], Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory of this shape with anything in it; the next `take` of the same name takes it away."""
        size = math.prod(shape)
        flat = self._flat.get((name, dtype))
        if flat is None or len(flat) < size:
            flat = self._flat[name, dtype] = torch.empty(size, dtype=dtype, device="cpu")
        return flat[:size].view(shape)

    def padded(self, frames: int, height: int, width: int, channels: int, dtype: torch.dtype) -> Tensor:
        """[N, height + 2, width + 2, channels], whose border is zero; only the inside may be written."""
        key = height, width, channels, dtype
        held = self._padded.get(key)
        if held is None or len(held) < frames:
            held = self._padded[key] = torch.zeros(frames, height + 2, width + 2, channels, dtype=dtype, device="cpu")
        return held[:frames]
