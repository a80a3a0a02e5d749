"""What a file of tensors is to the rest of the room, whatever its format: names, shapes, and numbers one tensor at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import torch

from vpt_gym.errors import WeightsError

__all__ = ["GET_AGAIN", "Take", "TensorFile", "TensorInfo", "read_tensor"]

Take = Callable[[str, torch.Tensor], None]

GET_AGAIN = "delete it and get it again from its source"


class TensorInfo(NamedTuple):
    """Shape, and element type as torch spells it without `torch.`, of a tensor that has not been read."""

    shape: tuple[int, ...]
    dtype: str


class TensorFile(Protocol):
    """A file of named tensors that can be listed without reading them."""

    @property
    def others(self) -> Mapping[str, str]:
        """What stands under names that hold no plain tensor, in words."""

    def infos(self) -> Mapping[str, TensorInfo]:
        """Describe every tensor, by its name."""

    def visit(self, names: Sequence[str], take: Take) -> None:
        """Hand each named tensor to `take`, which must copy what it keeps and keep nothing else."""


def read_tensor(
    path: Path, file: BinaryIO, start: int, dtype: torch.dtype, shape: tuple[int, ...], strides: tuple[int, ...]
) -> torch.Tensor:
    """Read one tensor's numbers, little-endian, from its first to its last, and no others.

    Args:
        path: the file, for messages.
        file: the same, opened for reading bytes.
        start: where the first number is.
        dtype: type of the numbers.
        shape: of the tensor.
        strides: of the tensor, in elements.

    Raises:
        WeightsError: the file ends before the tensor does.
    """
    if not prod(shape):
        return torch.empty(shape, dtype=dtype, device="cpu")
    count = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    content = bytearray(count * dtype.itemsize)
    file.seek(start)
    if file.readinto(content) != len(content):  # type: ignore[attr-defined]
        raise WeightsError(f"{path} has become shorter while it was read: {GET_AGAIN}.")
    return torch.frombuffer(content, dtype=dtype).as_strided(shape, strides)
