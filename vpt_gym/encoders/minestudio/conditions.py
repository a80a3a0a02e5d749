"""What a row is told to do: a condition made ready once, and put side by side with those of other rows at every step."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vpt_gym.errors import VPTGymError

__all__ = ["Condition", "as_tensor", "batched", "kind_of", "ready"]


@dataclass(frozen=True, eq=False)
class Condition:
    """A condition that an encoder's `prepare_condition` made ready; any number of rows and streams of it may share one.

    Attributes:
        fingerprint: of the encoder that it was made for.
        entries: nested dicts of tensors, numbers and strings of one row, with neither a batch nor a time axis.
    """

    fingerprint: str
    entries: Mapping[str, Any]


def as_tensor(value: Any, owner: str) -> Tensor:
    """An array, tensor or number as a tensor of its own on the CPU; floating-point numbers become float32.

    Raises:
        VPTGymError: it is none of these, or holds NaN or infinity.
    """
    if isinstance(value, Tensor):
        tensor = value.detach().cpu().clone()
    elif isinstance(value, (np.ndarray, np.generic, Real)):
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise VPTGymError(f"{owner} must hold numbers, but its dtype is {array.dtype}.")
        tensor = torch.from_numpy(array.copy())
    else:
        raise VPTGymError(
            f"{owner} must be an array, a tensor, a number or a string, but a {type(value).__name__} came."
        )
    if tensor.is_floating_point():
        tensor = tensor.float()
        if not bool(tensor.isfinite().all()):
            raise VPTGymError(f"{owner} holds NaN or infinity; look at where it comes from.")
    return tensor


def ready(value: Mapping[Any, Any], owner: str, device: torch.device) -> dict[str, Any]:
    """A copy of the entries of one row, arrays and numbers as tensors on the device."""
    entries: dict[str, Any] = {}
    for key, entry in value.items():
        name = f"{owner}[{key!r}]"
        if isinstance(entry, Mapping):
            entries[key] = ready(entry, name, device)
        elif isinstance(entry, str):
            entries[key] = entry
        else:
            entries[key] = as_tensor(entry, name).to(device)
    return entries


def kind_of(entries: Any) -> Hashable:
    """Equal for two rows whose entries can be put side by side in one batch."""
    if isinstance(entries, Mapping):
        return tuple((key, kind_of(value)) for key, value in entries.items())
    if isinstance(entries, Tensor):
        return entries.dtype, entries.shape
    return type(entries).__name__


def batched(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Entries of n rows of one kind as a policy's input has them: tensors [n, 1, ...], strings as n lists of one."""
    joined: dict[str, Any] = {}
    for key, first in rows[0].items():
        values = [row[key] for row in rows]
        if isinstance(first, Mapping):
            joined[key] = batched(values)
        elif isinstance(first, Tensor):
            joined[key] = torch.stack(values)[:, None]
        else:
            joined[key] = [[value] for value in values]
    return joined
