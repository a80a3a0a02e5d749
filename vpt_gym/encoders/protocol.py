"""What every encoder and every stream offers, whatever network is behind it: all that the rest of the package asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Encoder", "Flags", "Frames", "GoalTower", "Rows", "Stream"]

Frames = npt.NDArray[np.uint8] | Tensor
Flags = npt.NDArray[np.bool_] | Tensor | Sequence[bool]
Rows = Sequence[int] | npt.NDArray[np.integer[Any]] | None


class Stream(Protocol):
    """The memory of N episodes, moved on by their frames.

    Attributes:
        num_envs: N.
        fingerprint: of the encoder: which latents these are.
    """

    num_envs: int
    fingerprint: str

    def step(self, frames: Any, first: Flags, rows: Rows = None) -> Tensor:
        """Encodes the next frame of each row.

        Args:
            frames: uint8 [n, H, W, 3], RGB; for an encoder that `also_reads` other entries of the observation, a dict of
                `image`, which is these frames, and of an array [n, ...] for each of the others.
            first: bool [n], True where the frame opens an episode.
            rows: which n distinct rows of the N these are; None for all, in order. Other rows do not move.

        Returns:
            float32 [n, latent_size] on the encoder's device, a fresh tensor.
        """

    def encode(self, frames: Any, first: Flags, rows: Rows = None) -> Tensor:
        """Encodes the next T frames of each row: what T steps give, on the same memory.

        Args:
            frames: uint8 [n, T, H, W, 3], or a dict of arrays [n, T, ...], as for `step`.
            first: bool [n, T].
            rows: as for `step`.

        Returns:
            float32 [n, T, latent_size] on the encoder's device, a fresh tensor.
        """

    def state_dict(self) -> dict[str, Any]:
        """A copy of the memory; for `load_state_dict` or `torch.save`."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over a copy of a memory that `state_dict` gave, whole or not at all."""


class GoalTower(Protocol):
    """What embeds goals in words.

    Attributes:
        goal_size: numbers of a goal.
    """

    goal_size: int

    def goal(self, text: str) -> npt.NDArray[np.float32]:
        """The text as one vector, float32 [goal_size], the caller's own.

        Raises:
            OptionError: it is longer than the tower reads.
        """


@runtime_checkable
class Encoder(Protocol):
    """Frozen weights that turn frames into latents. Holds no memory: its streams do.

    A deep copy of an encoder is the encoder itself, since Gymnasium copies environments with their arguments. Where it can be
    pickled, what is stored is how to load it again. `vpt_gym.encoders.EncoderBase` brings both, and all that can be derived.

    Attributes:
        latent_size: length of one latent.
        latent_space: the Box of one latent, float32 [latent_size].
        frame_size: side in pixels of the square frames that the network looks at; others are resized to it.
        also_reads: keys of the Dict observation, besides the image, that a step needs.
        device: where the network runs.
        precision: what it computes in, such as `float32`.
        backend: how it is computed, in words.
        fingerprint: which latents these are: the same for the same numbers, whatever file, device or precision they came by.
        recorded: what stands for the encoder in `env.spec`: the `encoder` and `encoder_options` of a wrapper.
    """

    @property
    def latent_size(self) -> int: ...
    @property
    def latent_space(self) -> gym.spaces.Box: ...
    @property
    def frame_size(self) -> int: ...
    @property
    def also_reads(self) -> tuple[str, ...]: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def precision(self) -> str: ...
    @property
    def backend(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def recorded(self) -> dict[str, Any]: ...

    def describe(self) -> dict[str, Any]:
        """JSON values that say what it is: what a run's `config.json` records.

        At least `kind`, `source`, `options`, `fingerprint`, `untrained`, `words` (one line for people), `latent_size`,
        `frame_size`, `device`, `precision`, `backend`.
        """

    def encode(self, frames: Any, first: Flags | None = None) -> Tensor:
        """Encodes whole sequences, each with its own memory, which starts empty.

        Args:
            frames: uint8 [B, T, H, W, 3], or a dict of arrays [B, T, ...], as for `Stream.encode`.
            first: bool [B, T], True where a frame opens an episode; None for one episode a row.

        Returns:
            float32 [B, T, latent_size] on the encoder's device.
        """

    def stream(self, num_envs: int) -> Stream:
        """Memory for `num_envs` episodes."""

    def close(self) -> None:
        """Gives back what it holds beside memory; it is not to be used afterwards."""
