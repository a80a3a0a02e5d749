"""What the network computes in: the names users choose from, what each needs, and the switches of torch that it depends on."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import torch

from vpt_gym.config import PRECISIONS
from vpt_gym.errors import OptionError, VPTGymError
from vpt_gym.nn.cpu import onednn

__all__ = ["DTYPES", "arithmetic", "choose_precision", "computing_dtype", "memory_dtype"]

DTYPES: Final[Mapping[str, torch.dtype]] = MappingProxyType(
    {
        "float32": torch.float32,
        "tf32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
    }
)
"""Precisions by name, each with the type of the weights, the memory and, where the device has it, of the activations.

`tf32` rounds the factors of products to 10 bits on a GPU's tensor cores.
"""


def memory_dtype(precision: str) -> torch.dtype:
    """What a memory keeps keys and values in."""
    return DTYPES[precision]


def computing_dtype(precision: str, device: torch.device) -> torch.dtype:
    """What weights and activations are held in.

    It is the precision's own type, but for bfloat16 on a CPU without it: torch would emulate it several times slower than
    float32, and float32 on weights that were rounded to bfloat16 is nearer to them.
    """
    if precision == "bfloat16" and device.type == "cpu" and onednn.unavailable(torch.bfloat16) is not None:
        return torch.float32
    return DTYPES[precision]


def choose_precision(name: object, device: torch.device) -> str:
    """A key of `DTYPES` for `auto` or one of its keys.

    `auto` is bfloat16 on a GPU that computes it natively, else float32.

    Raises:
        OptionError: there is no such precision, or not on this device.
    """
    cuda = device.type == "cuda"
    if name == "auto":
        return "bfloat16" if cuda and _native_bfloat16(device) else "float32"
    if not isinstance(name, str) or name not in DTYPES:
        raise OptionError(f"precision must be one of {', '.join(PRECISIONS)}, not {name!r}.")
    if name in {"tf32", "float16"} and not cuda:
        raise OptionError(
            f"precision={name!r} needs a CUDA GPU, but the encoder's device is {device}; use float32 or bfloat16."
        )
    if name == "tf32" and torch.cuda.get_device_capability(device) < (8, 0):
        raise OptionError(
            f"precision='tf32' needs a GPU of compute capability 8.0, but {torch.cuda.get_device_name(device)} has "
            f"{'.'.join(map(str, torch.cuda.get_device_capability(device)))}; use float32 or float16."
        )
    return name


def _native_bfloat16(device: torch.device) -> bool:
    with torch.cuda.device(device):  # torch asks the current one
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


@contextmanager
def arithmetic(device: torch.device, precision: str) -> Iterator[None]:
    """Inside, what is computed in is `precision`, whatever modes and switches of torch the caller has set."""
    with ExitStack() as modes:
        # Tensors made in inference mode could never again be written to outside of it, and the memory is written to.
        modes.enter_context(torch.inference_mode(mode=False))
        modes.enter_context(torch.no_grad())
        modes.enter_context(torch.autocast(device.type, enabled=False))
        switches = (
            _switches(device.type, tf32=precision == "tf32")
            if computing_dtype(precision, device) == torch.float32
            else ()
        )
        if device.type == "cuda":
            # cuDNN tries its algorithms once for each size of batch and keeps the fastest; last bits may differ between them.
            switches += (Switch(torch.backends.cudnn, "benchmark", wanted=True),)
        if switches:
            modes.enter_context(_SWITCHES.held(switches))
        yield


@dataclass(frozen=True)
class Switch:
    """A setting of torch, and what it is to be.

    Attributes:
        place: the module or object of torch that has it.
        name: of the attribute.
        wanted: its value while the network computes.
        parent: what the setting follows as long as it has no value of its own, or None.
    """

    place: Any
    name: str
    wanted: object
    parent: Any = None

    def inherited(self, before: object) -> object:
        """What puts the setting back: torch reads a parent's value as the setting's own, and only "none" follows on."""
        return "none" if self.parent is not None and getattr(self.parent, self.name) == before else before


def _switches(device_type: str, *, tf32: bool) -> tuple[Switch, ...]:
    """What torch may round the factors of float32 products to: nothing, or TF32."""
    backends: Any = torch.backends
    cuda = device_type == "cuda"
    # Since torch 2.9 there are settings by name; before, switches for CUDA alone, and one of torch's for all devices. Reading
    # the old ones where the new ones have been used is an error.
    if hasattr(backends.cuda.matmul, "fp32_precision"):
        wanted = "tf32" if tf32 else "ieee"
        if cuda:
            return (
                Switch(backends.cuda.matmul, "fp32_precision", wanted, backends),
                Switch(backends.cudnn.conv, "fp32_precision", wanted, backends.cudnn),
            )
        return tuple(
            Switch(place, "fp32_precision", wanted, backends.mkldnn)
            for place in (backends.mkldnn.matmul, backends.mkldnn.conv)
        )
    products = Switch(_MatmulPrecision(), "value", "high" if tf32 else "highest")
    return (products, Switch(backends.cudnn, "allow_tf32", tf32)) if cuda else (products,)


class _MatmulPrecision:
    """torch's own setting for float32 products on every device, as an attribute."""

    def __repr__(self) -> str:
        return "float32 matmul precision"

    @property
    def value(self) -> str:
        """One of highest, high and medium."""
        return torch.get_float32_matmul_precision()

    @value.setter
    def value(self, precision: str) -> None:
        torch.set_float32_matmul_precision(precision)


class _Held:
    """One setting that somebody holds: its wanted value, the one it had before, and how often each thread holds it.

    Where a thread that holds it needs another value meanwhile, `outer` is what it held until then.
    """

    def __init__(self, wanted: object, before: object, outer: _Held | None = None) -> None:
        self.wanted, self.before, self.outer = wanted, before, outer
        self.users: Counter[int] = Counter()


class _Switches:
    """Holds settings, which are the whole process's, at the wanted values while somebody computes, from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held: dict[tuple[str, str], _Held] = {}
        self._waiting: set[int] = set()

    @contextmanager
    def held(self, switches: tuple[Switch, ...]) -> Iterator[None]:
        """Sets what nobody holds yet, and puts it back behind its last user; who wishes another value waits for that.

        A thread never waits for itself: inside one value it may hold another, alone.

        Raises:
            VPTGymError: two threads would wait for each other for ever.
        """
        me = threading.get_ident()
        with self._changed:
            self._wait(switches, me)
            for switch in switches:
                self._take(switch, me)
        try:
            yield
        finally:
            with self._changed:
                for switch in switches:
                    self._leave(switch, me)
                self._changed.notify_all()

    def _wait(self, switches: tuple[Switch, ...], me: int) -> None:
        try:
            while not all(self._free(switch, me) for switch in switches):
                self._waiting.add(me)
                for switch in switches:
                    held = self._held.get(_key(switch))
                    if held is not None and held.users[me] and self._waiting & set(held.users) - {me}:
                        raise VPTGymError(
                            f"Two threads hold torch's {switch.name} at {held.wanted!r} and both need another value meanwhile, "
                            "so each would wait for the other: use encoders of one precision inside another, or one thread."
                        )
                self._changed.wait()
        finally:
            self._waiting.discard(me)

    def _free(self, switch: Switch, me: int) -> bool:
        held = self._held.get(_key(switch))
        if held is None or set(held.users) == {me}:
            return True
        # What a thread holds inside another value is its own, because it puts that value back when it leaves.
        return held.wanted == switch.wanted and held.outer is None

    def _take(self, switch: Switch, me: int) -> None:
        held = self._held.get(_key(switch))
        if held is None or held.wanted != switch.wanted:
            held = _Held(switch.wanted, getattr(switch.place, switch.name), outer=held)
            self._held[_key(switch)] = held
            if held.before != held.wanted:
                setattr(switch.place, switch.name, held.wanted)
        held.users[me] += 1

    def _leave(self, switch: Switch, me: int) -> None:
        held = self._held[_key(switch)]
        held.users[me] -= 1
        held.users = +held.users  # without those at 0
        if held.users:
            return
        if held.outer is None:
            del self._held[_key(switch)]
            before = switch.inherited(held.before)
        else:
            self._held[_key(switch)] = held.outer
            before = held.before
        if held.before != held.wanted:
            setattr(switch.place, switch.name, before)


def _key(switch: Switch) -> tuple[str, str]:
    return repr(switch.place), switch.name


_SWITCHES = _Switches()
if hasattr(os, "register_at_fork"):
    # The child of a fork has one thread, which holds nothing, whatever the parent's others were doing.
    os.register_at_fork(after_in_child=_SWITCHES.__init__)  # type: ignore[misc]
