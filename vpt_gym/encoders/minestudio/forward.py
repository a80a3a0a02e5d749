"""One forward of a live policy, with what enters its `pi_head`, and without what it would leave behind."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vpt_gym.encoders.minestudio.states import Tree
from vpt_gym.errors import VPTGymError
from vpt_gym.precision import arithmetic

__all__ = ["Pass", "computing", "latents_of", "run"]

_locks: weakref.WeakKeyDictionary[nn.Module, threading.RLock] = weakref.WeakKeyDictionary()
_finding = threading.Lock()


@dataclass(frozen=True)
class Pass:
    """What one forward gave.

    Attributes:
        heads_read: the tensors that entered `pi_head`, one for each time that it was called.
        outputs: the policy's dict of `pi_logits`, `vpred` and whatever else.
        state: the state after it.
    """

    heads_read: list[Tensor]
    outputs: Mapping[str, Any]
    state: Tree


@contextmanager
def computing(policy: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside, this thread alone uses the policy (masks, caches and hooks are its modules' own) and computes in float32."""
    with _finding:
        lock = _locks.setdefault(policy, threading.RLock())
    with lock, arithmetic(device, "float32"):
        yield


def run(policy: Any, inputs: dict[str, Any], state: Tree, size: int) -> Pass:
    """Calls `policy.forward`, as `get_action` does; to be called inside `computing`.

    Args:
        policy: the policy.
        inputs: what its forward is given.
        state: of the same rows.
        size: of the latents that its `pi_head` reads.

    Raises:
        VPTGymError: `pi_head` is called with something of another size; or what comes back is no pair of outputs and state.
    """
    read: list[Tensor] = []
    thread = threading.get_ident()

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() == thread:  # not when the user's own thread calls the policy meanwhile
            read.extend([value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)][:1])
            # Said here, because the head itself would fail on it with words on matrices.
            if read and read[-1].shape[-1:] != (size,):
                raise VPTGymError(
                    f"{type(policy).__name__}.pi_head reads latents of {size} numbers, but the policy's forward called it with "
                    f"a tensor of shape {tuple(read[-1].shape)}; give the policy a pi_head for the latents that it makes."
                )

    hook = policy.pi_head.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with _shapes_forgotten(policy), _errors_let_through(policy):
            result = policy.forward(inputs, state)
    finally:
        hook.remove()
    if not isinstance(result, (tuple, list)) or len(result) != 2 or not isinstance(result[0], Mapping):
        raise VPTGymError(
            f"{type(policy).__name__}.forward must return a dict of outputs and a state, as every MinePolicy, but a "
            f"{type(result).__name__} came."
        )
    return Pass(read, result[0], result[1])


def latents_of(done: Pass, rows: int, size: int, owner: str) -> Tensor:
    """What entered `pi_head`, of one frame for each row: float32 [rows, size], a fresh tensor.

    Raises:
        VPTGymError: the forward did not call `pi_head` exactly once, or not on latents of that size.
    """
    if len(done.heads_read) != 1:
        raise VPTGymError(
            f"{owner}.forward must call self.pi_head once with the latents, which are what enters it, but it did so "
            f"{len(done.heads_read)} times; put all rows through one call."
        )
    read = done.heads_read[0]
    if read.shape[-1:] != (size,) or read.numel() != rows * size:
        raise VPTGymError(
            f"{owner}.forward must call self.pi_head with latents [rows, 1, {size}], here of {rows} rows, but a tensor of "
            f"shape {tuple(read.shape)} entered it."
        )
    return read.detach().reshape(rows, size).to(torch.float32, copy=True)


@contextmanager
def _shapes_forgotten(policy: nn.Module) -> Iterator[None]:
    """Sets aside every `first` that GROOT's Decoder and ROCKET made for the batch shape they saw first, and kept for any."""
    kept = [(module, vars(module).pop("first")) for module in _with_first(policy)]
    try:
        yield
    finally:
        for module in _with_first(policy):
            del module.first
        for module, first in kept:
            module.first = first


def _with_first(policy: nn.Module) -> list[nn.Module]:
    return [module for module in policy.modules() if _is_first(vars(module).get("first"))]


def _is_first(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.bool and value.dim() == 2


class _Escape(BaseException):
    """Carries an error past the `except Exception` of `VPTPolicy.forward`."""

    def __init__(self, error: Exception) -> None:
        self.error = error


@contextmanager
def _errors_let_through(policy: nn.Module) -> Iterator[None]:
    """Lets an error of `policy.net` reach the caller, where `VPTPolicy.forward` would open a debugger and wait for ever."""
    net: Any = getattr(policy, "net", None)
    if not isinstance(net, nn.Module):
        yield
        return
    forward, own = net.forward, vars(net).get("forward")

    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return forward(*args, **kwargs)
        except Exception as error:
            raise _Escape(error) from error

    net.forward = guarded
    try:
        yield
    except _Escape as escape:
        raise escape.error from None
    finally:
        if own is None:
            del net.forward
        else:
            net.forward = own
