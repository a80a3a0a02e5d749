"""What the network computes in: the names users choose from, what each needs, and the switches of torch that it depends on."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import Any, Final

import torch

from vpt_gym.config import PRECISIONS
from vpt_gym.errors import VPTGymError

__all__ = ["DTYPES", "arithmetic", "choose_precision"]

DTYPES: Final[Mapping[str, torch.dtype]] = MappingProxyType(
    {
        "float32": torch.float32,
        "tf32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
        "int8": torch.float32,
    }
)
"""Precisions by name, each with the type of the weights, the activations and the memory.

`tf32` rounds the factors of products to 10 bits on a GPU's tensor cores; `int8` computes the convolutions on integers on a CPU.
"""


def choose_precision(name: str, device: torch.device) -> str:
    """A key of `DTYPES` for `auto` or one of its keys.

    `auto` is bfloat16 on a GPU that computes it natively, else float32.

    Raises:
        VPTGymError: there is no such precision, or not on this device.
    """
    cuda = device.type == "cuda"
    if name == "auto":
        return "bfloat16" if cuda and torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if name not in DTYPES:
        raise VPTGymError(f"precision must be one of {', '.join(PRECISIONS)}, not {name!r}.")
    if name in {"tf32", "float16"} and not cuda:
        raise VPTGymError(
            f"precision={name!r} needs a CUDA GPU, but the encoder's device is {device}; use float32 or bfloat16."
        )
    if name == "tf32" and torch.cuda.get_device_capability(device) < (8, 0):
        raise VPTGymError(
            f"precision='tf32' needs a GPU of compute capability 8.0, but {torch.cuda.get_device_name(device)} has "
            f"{'.'.join(map(str, torch.cuda.get_device_capability(device)))}; use float32 or float16."
        )
    if name == "int8" and cuda:
        raise VPTGymError("precision='int8' is for CPUs; use bfloat16 or float16 on a GPU.")
    return name


@contextmanager
def arithmetic(device: torch.device, precision: str) -> Iterator[None]:
    """Inside, results depend on `precision` alone, whatever modes and switches of torch the caller has set."""
    with ExitStack() as modes:
        # Tensors made in inference mode could never again be written to outside of it, and the memory is written to.
        modes.enter_context(torch.inference_mode(mode=False))
        modes.enter_context(torch.no_grad())
        modes.enter_context(torch.autocast(device.type, enabled=False))
        switches = _switches(device.type, tf32=precision == "tf32") if DTYPES[precision] == torch.float32 else ()
        if device.type == "cuda":
            # cuDNN tries its algorithms once for each size of batch, of which a stream has few, and keeps the fastest.
            switches += ((torch.backends.cudnn, "benchmark", True),)
        if switches:
            modes.enter_context(_SWITCHES.held(switches))
        yield


Switch = tuple[Any, str, object]
"""A module of torch, the name of a setting in it, and its wanted value."""


def _switches(device_type: str, *, tf32: bool) -> tuple[Switch, ...]:
    """What torch may round the factors of float32 products to: nothing, or TF32."""
    backends: Any = torch.backends
    # Since torch 2.9 there are settings by name; before, switches for CUDA alone. Reading the old ones where the new ones have
    # been used is an error.
    if hasattr(backends.cuda.matmul, "fp32_precision"):
        wanted = "tf32" if tf32 else "ieee"
        places = (
            (backends.cuda.matmul, backends.cudnn.conv)
            if device_type == "cuda"
            else (backends.mkldnn.matmul, backends.mkldnn.conv)
        )
        return tuple((place, "fp32_precision", wanted) for place in places)
    if device_type == "cuda":
        return (backends.cuda.matmul, "allow_tf32", tf32), (backends.cudnn, "allow_tf32", tf32)
    return ()


class _Switches:
    """Holds settings, which are the whole process's, at the wanted values while somebody computes, from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held: tuple[Switch, ...] = ()
        self._before: list[Switch] = []
        self._users = 0

    @contextmanager
    def held(self, switches: tuple[Switch, ...]) -> Iterator[None]:
        """Sets them for the first to come in, and puts them back behind the last one out; other wishes wait meanwhile."""
        with self._changed:
            while self._users and self._held != switches:
                self._changed.wait()
            if not self._users:
                self._before = [(place, name, getattr(place, name)) for place, name, _ in switches]
                _set(switches)
                self._held = switches
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                if not self._users:
                    _set(self._before)
                    self._changed.notify_all()


def _set(switches: tuple[Switch, ...] | list[Switch]) -> None:
    for place, name, value in switches:
        if getattr(place, name) != value:
            setattr(place, name, value)


_SWITCHES = _Switches()
