"""Nested values with arrays in them as two files that run nothing: JSON, and the arrays as safetensors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import safetensors.torch
import torch

from vpt_gym.errors import VPTGymError

__all__ = ["pack", "read_tree", "unpack", "write_tree"]

TREE: Final = "state.json"
TENSORS: Final = "tensors.safetensors"


def pack(value: Any, tensors: dict[str, torch.Tensor], place: str = "") -> Any:
    """A value as JSON; its tensors and arrays go into `tensors`, and references to them stand in their places.

    Raises:
        VPTGymError: there is something in it that is no number, text, array, list, tuple or dict.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, torch.Tensor):
        tensors[name := str(len(tensors))] = value.detach().contiguous().clone()
        return {"$tensor": name}
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.array(value, order="C")  # pictures come transposed, and safetensors holds rows one after another
        if array.dtype.kind not in "biuf":
            raise VPTGymError(f"A checkpoint cannot hold {place}, which is an array of {array.dtype}.")
        # safetensors before 0.6.2 has no unsigned numbers of several bytes, and random generators are made of them.
        unsigned = array.dtype.kind == "u" and array.itemsize > 1
        tensors[name := str(len(tensors))] = torch.from_numpy(array.view(f"i{array.itemsize}") if unsigned else array)
        return {"$unsigned" if unsigned else "$array": name}
    if isinstance(value, tuple):
        return {"$tuple": [pack(each, tensors, f"{place}[{i}]") for i, each in enumerate(value)]}
    if isinstance(value, list):
        return [pack(each, tensors, f"{place}[{i}]") for i, each in enumerate(value)]
    if isinstance(value, dict):
        entries = [[pack(key, tensors), pack(each, tensors, f"{place}.{key}")] for key, each in value.items()]
        return {"$dict": entries}
    raise VPTGymError(f"A checkpoint cannot hold {place}, which is a {type(value).__name__}.")


def unpack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """What `pack` was given."""
    if isinstance(value, list):
        return [unpack(each, tensors) for each in value]
    if not isinstance(value, dict):
        return value
    ((kind, inside),) = value.items()
    if kind == "$tensor":
        return tensors[inside]
    if kind in ("$array", "$unsigned"):
        array = tensors[inside].numpy()
        array = array.view(f"u{array.itemsize}") if kind == "$unsigned" else array
        return array if array.ndim else array[()]
    if kind == "$tuple":
        return tuple(unpack(each, tensors) for each in inside)
    if kind == "$dict":
        return {unpack(key, tensors): unpack(each, tensors) for key, each in inside}
    raise ValueError(f"it holds {kind!r}")


def write_tree(folder: Path, value: Any) -> None:
    """Writes a value into a folder; what the system refuses is an OSError."""
    tensors: dict[str, torch.Tensor] = {}
    packed = pack(value, tensors, "the state")
    data = safetensors.torch.save(tensors)
    (folder / TENSORS).write_bytes(data)
    text = json.dumps({"tensors_sha256": hashlib.sha256(data).hexdigest(), "value": packed})
    (folder / TREE).write_text(text, encoding="utf-8")


def read_tree(folder: Path) -> Any:
    """What `write_tree` has written.

    Raises:
        VPTGymError: a file is missing or damaged.
    """
    try:
        data = (folder / TENSORS).read_bytes()
        whole = json.loads((folder / TREE).read_text(encoding="utf-8"))
        told, is_whole = whole["value"], whole["tensors_sha256"] == hashlib.sha256(data).hexdigest()
        value = unpack(told, safetensors.torch.load(data)) if is_whole else None
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise VPTGymError(f"{folder} is no whole checkpoint ({error}).") from error
    except safetensors.SafetensorError as error:
        raise VPTGymError(f"{folder} is no whole checkpoint ({error}).") from error
    if not is_whole:
        raise VPTGymError(f"{folder} is no whole checkpoint ({TENSORS} is not what {TREE} says).")
    return value
