"""What every encoder and every stream offers to the wrappers, and the checks of what goes into a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vpt_gym.errors import ObservationError
from vpt_gym.frames import resize

__all__ = [
    "Encoder",
    "Flags",
    "Frames",
    "Rows",
    "Stream",
    "as_tensor",
    "check_flags",
    "check_frames",
    "check_rows",
    "count_of",
]

Frames = npt.NDArray[np.uint8] | Tensor
Flags = npt.NDArray[np.bool_] | Tensor | Sequence[bool]
Rows = Sequence[int] | npt.NDArray[np.integer[Any]] | None


class Stream(Protocol):
    """The memory of N episodes, stepped one frame at a time.

    Attributes:
        num_envs: N.
    """

    num_envs: int

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

    def state_dict(self) -> dict[str, Any]:
        """A copy of the memory; for `load_state_dict` or `torch.save`."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over a copy of a memory that `state_dict` gave."""


@runtime_checkable
class Encoder(Protocol):
    """Frozen weights that turn frames into latents: what the wrappers ask of one, whatever network is behind it.

    Attributes:
        latent_size: length of one latent.
        latent_space: the Box of one latent, float32 [latent_size].
        frame_size: side in pixels of the square frames that the network looks at; others are resized to it.
        also_reads: keys of the Dict observation, besides the image, that a step needs.
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
    def recorded(self) -> dict[str, Any]: ...

    def stream(self, num_envs: int) -> Stream:
        """Memory for `num_envs` episodes."""


def check_frames(frames: Frames, call: str, leading: tuple[str, ...]) -> Frames:
    """Hands back the frames; raises ObservationError unless they are uint8 [*leading, H, W, 3] with something in them."""
    wanted = f"[{', '.join(leading)}, height, width, 3]"
    if not isinstance(frames, (np.ndarray, Tensor)):
        raise ObservationError(
            f"{call}: frames must be a uint8 array or tensor {wanted}, but a {type(frames).__name__} came; use numpy.stack."
        )
    if frames.dtype not in (np.dtype(np.uint8), torch.uint8):
        raise ObservationError(
            f"{call}: frames must be uint8 pixels from 0 to 255, but {frames.dtype} came; do not scale or normalise them, the "
            "encoder does that itself."
        )
    if frames.ndim != len(leading) + 3 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ObservationError(f"{call}: frames must have shape {wanted}, but {tuple(frames.shape)} came.")
    return frames


def check_flags(flags: Flags, call: str, shape: tuple[int, ...]) -> Tensor:
    """`first` as a bool tensor of that shape on the CPU, a copy; raises ObservationError if it is none."""
    wanted = f"{call}: first must be bool of shape {shape}, True where a frame opens an episode"
    if isinstance(flags, Tensor):
        flags = flags.cpu().numpy()
    try:
        array = np.asarray(flags)
    except ValueError as error:  # a ragged list
        raise ObservationError(f"{wanted}, but {flags!r} came.") from error
    if array.dtype != np.bool_ or array.shape != shape:
        raise ObservationError(f"{wanted}, but {array.dtype} of shape {array.shape} came.")
    # A copy, because torch takes neither read-only nor reversed arrays.
    return torch.from_numpy(array.copy())


def check_rows(rows: Sequence[int] | npt.NDArray[np.integer[Any]], num_envs: int, call: str = "step") -> Tensor:
    """The rows as int64 [n] on the CPU; raises ObservationError unless they are distinct rows of `num_envs`."""
    if isinstance(rows, Tensor):
        rows = rows.cpu().numpy()
    try:
        indices = np.asarray(rows)
    except ValueError as error:  # a ragged list
        raise ObservationError(f"{call}: rows must be a list of whole numbers, not {rows!r}.") from error
    if indices.ndim != 1 or not len(indices) or indices.dtype.kind not in "iu":
        raise ObservationError(
            f"{call}: rows must be a list of whole numbers, not {rows!r}; turn a mask into rows with numpy.flatnonzero."
        )
    if indices.min() < 0 or indices.max() >= num_envs or len(np.unique(indices)) != len(indices):
        raise ObservationError(
            f"{call}: rows must be distinct and between 0 and {num_envs - 1}, but {indices.tolist()} came."
        )
    return torch.from_numpy(indices.astype(np.int64))


def as_tensor(frames: Frames, size: int) -> Tensor:
    """Frames of B rows and T steps, checked, at the network's size as a tensor: uint8 [B, T, size, size, 3]."""
    if isinstance(frames, Tensor):
        if frames.shape[2:4] == (size, size):
            return frames
        frames = frames.cpu().numpy()
    batch, count = frames.shape[:2]
    resized = resize(frames.reshape(batch * count, *frames.shape[2:]), size)
    # torch wants writable memory in order; both are copies only where the caller's array is neither.
    return torch.from_numpy(np.require(resized, requirements=["C", "W"])).view(batch, count, *resized.shape[1:])


def count_of(frames: Frames, rows_b: Tensor | None, num_envs: int) -> int:
    """How many rows a step moves; raises ObservationError unless there is a frame for each of them."""
    count = num_envs if rows_b is None else len(rows_b)
    if len(frames) != count:
        raise ObservationError(
            f"step: frames must have one row for each of the {count} environments stepped, but {len(frames)} came; "
            "name the rows with rows= to step only some."
        )
    return count
