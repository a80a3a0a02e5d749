"""Triton where it can be imported; where it cannot, the modules with kernels still load, and say so when they are used."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["MISSING", "TritonError", "jit", "launch", "power_of_two", "tl", "triton"]

triton: Any = None
tl: Any = None
MISSING: str | None = None
"""Why there is no Triton, in words, or None where there is."""

try:
    triton = importlib.import_module("triton")
    tl = importlib.import_module("triton.language")
except ModuleNotFoundError:
    MISSING = "triton is not installed: pip install triton"  # builds of torch for CUDA on Linux bring it along
except (ImportError, OSError) as error:
    MISSING = f"triton cannot be imported ({error})"

TritonError: type[Exception] = RuntimeError if triton is None else importlib.import_module("triton.errors").TritonError
"""What Triton raises when a kernel cannot be compiled or does not fit the GPU."""


def jit(kernel: Callable[..., Any]) -> Any:
    """`triton.jit`; without Triton the plain function, which nobody launches."""
    return kernel if triton is None else triton.jit(kernel)


def launch(kernel: Any, programs: int, like: Tensor, *arguments: Any, warps: int, **constants: Any) -> None:
    """Starts `programs` programs of a kernel on the GPU that `like` is on, which need not be the current one."""
    if MISSING is not None:
        raise RuntimeError(f"A Triton kernel was asked for, but {MISSING}.")
    with torch.cuda.device(like.get_device()):
        # Fused multiply-adds are asked for by name, since releases of Triton differ in whether they are the default.
        kernel[(programs,)](*arguments, **constants, num_warps=warps, enable_fp_fusion=True)


def power_of_two(number: int) -> int:
    """The smallest power of two that is no smaller: Triton's blocks come in no other length."""
    return 1 << (number - 1).bit_length()
