"""No encoder: frames of a size, for a network that is trained on them beside the head."""

from __future__ import annotations

import re
from typing import Final

import torch
from torch import Tensor

from vpt_gym.encoders.base import MemorylessEncoder, fingerprint_of
from vpt_gym.errors import OptionError
from vpt_gym.frames import preprocessing

__all__ = ["FramesAlone", "load_frames"]

SMALLEST: Final = 36
"""Side in pixels below which the convolutions of Stable-Baselines3 have nothing left."""


def load_frames(source: str) -> FramesAlone:
    """No network: `frames:128` resizes frames, for `vpt-gym train --pixels`; the latent is a zero.

    Raises:
        OptionError: the size is no whole number of 36 or more.
    """
    size = re.fullmatch(r"frames:(\d{1,4})", source)
    if size is None or int(size[1]) < SMALLEST:
        raise OptionError(
            f"{source!r}: behind frames: stands the side of the square frames in pixels, {SMALLEST} or more, as in frames:128."
        )
    return FramesAlone(int(size[1]))


class FramesAlone(MemorylessEncoder):
    """What stands in for an encoder where nothing is frozen: it says how large frames are, and its latent is one zero."""

    kind = "frames"
    latent_size = 1
    backend = "nothing is computed"

    def __init__(self, size: int) -> None:
        self.source, self.options, self.frame_size = f"frames:{size}", {}, size
        self.fingerprint = fingerprint_of({"frames": preprocessing(size)})

    @property
    def words(self) -> str:
        """The encoder in one line, for people."""
        return f"none; frames of {self.frame_size} x {self.frame_size} pixels"

    def latents_of(self, frames_nhwc: Tensor) -> Tensor:
        """uint8 [N, frame_size, frame_size, 3] -> zeros [N, 1]."""
        return torch.zeros(len(frames_nhwc), 1, device=self.device)
