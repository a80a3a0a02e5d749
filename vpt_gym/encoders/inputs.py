"""The checks of what goes into a stream or an encoder: frames, `first` flags, rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vpt_gym.encoders.protocol import Flags, Frames
from vpt_gym.errors import ObservationError
from vpt_gym.resize import resize

__all__ = ["as_tensor", "check_flags", "check_frames", "check_rows", "count_of", "sequences_of"]


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


def check_rows(rows: Sequence[int] | npt.NDArray[np.integer[Any]], num_envs: int, call: str) -> Tensor:
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
    batch, count = frames.shape[:2]
    resized: Any = resize(frames.reshape(batch * count, *frames.shape[2:]), size)
    if not isinstance(resized, Tensor):
        # torch wants writable memory in order; both are copies only where the caller's array is neither.
        resized = torch.from_numpy(np.require(resized, requirements=["C", "W"]))
    tensor: Tensor = resized.view(batch, count, *resized.shape[1:])
    return tensor


def count_of(frames: Frames, rows_b: Tensor | None, num_envs: int, call: str) -> int:
    """How many rows a step moves; raises ObservationError unless there are frames for each of them."""
    count = num_envs if rows_b is None else len(rows_b)
    if len(frames) != count:
        raise ObservationError(
            f"{call}: frames must have one row for each of the {count} environments stepped, but {len(frames)} came; "
            "name the rows with rows= to step only some."
        )
    return count


def sequences_of(frames: Any) -> tuple[int, int]:
    """B and T of sequences of frames [B, T, H, W, 3], or of a dict with them; raises ObservationError if they are none."""
    images = frames.get("image") if isinstance(frames, Mapping) else frames
    images = check_frames(images, "encode", ("B", "T"))  # type: ignore[arg-type]
    return images.shape[0], images.shape[1]
