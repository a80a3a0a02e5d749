"""Kernels compiled for a GPU that is not there: Triton's compiler and NVIDIA's assembler run on any machine.

The launchers do all they would do, on tensors of the CPU; only the launch itself is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction


class _AbsentGPU:
    """What the compiler asks a driver for."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return self.target.arch  # Triton keeps compiled kernels by device

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def compiling_for(capability: int) -> Iterator[list[Any]]:
    """Inside, every launch of a kernel compiles it for `capability` (90 is 9.0) and adds the result to the list."""
    kernels: list[Any] = []
    run = JITFunction.run

    def compile_only(self: JITFunction, *args: Any, grid: object, warmup: bool, **kwargs: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        kernels.append(kernel.result() if hasattr(kernel, "result") else kernel)
        return kernel

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "_active" if hasattr(driver, "_active") else "active", _AbsentGPU(capability))
        patch.setattr(JITFunction, "run", compile_only)
        yield kernels
