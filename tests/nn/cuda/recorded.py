"""What a CUDA graph does, done on a CPU: operators are recorded once with their tensors, and later run again on the same ones.

As in a graph, whatever Python did in between stays as it was at the recording: attributes that were set, numbers that were
read, tensors that were put in the place of others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vpt_gym.nn import Memory

__all__ = ["Recorder"]


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        result = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        for function, args, kwargs, result in self.calls:
            again = function(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Recorder:
    """A `Capture` for steps of `memory`.

    Attributes:
        captures: how many were made.
        replays: how often any was played.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.captures = self.replays = 0

    def __call__(self, warm_up: Callable[[], None], run: Callable[[], None]) -> Callable[[], None]:
        warm_up()
        kept = {name: tensor.clone() for name, tensor in self._memory.tensors().items()}
        with _Recording() as recording:
            run()
        # A capture is without effect: nothing has run yet.
        for name, tensor in self._memory.tensors().items():
            tensor.copy_(kept[name])
        self.captures += 1

        def replay() -> None:
            self.replays += 1
            recording.replay()

        return replay
