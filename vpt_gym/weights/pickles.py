"""What may be read out of a pickle from a stranger: plain data and tensors, and never a call."""

from __future__ import annotations

import io
import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from vpt_gym.errors import WeightsError

__all__ = ["plain_data", "refused_global", "require_safe_torch"]

_SAFE_TORCH = (2, 10)
_DAMAGE = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
    MemoryError,
)
"""What the standard unpickler raises on bytes that are no pickle, or only part of one."""


def require_safe_torch(path: Path) -> None:
    """Refuse to open a pickled tensor file with a torch whose `weights_only` can be got round.

    Raises:
        WeightsError: torch is older than 2.10 (CVE-2025-32434 before 2.6, CVE-2026-24747 before 2.10).
    """
    found = re.match(r"(\d+)\.(\d+)", torch.__version__)
    assert found is not None
    if (int(found[1]), int(found[2])) < _SAFE_TORCH:
        raise WeightsError(
            f"{path} is a pickle, and torch {torch.__version__} cannot open one safely (CVE-2026-24747): "
            "install torch 2.10 or newer, or convert the file to .safetensors with one."
        )


def refused_global(message: str) -> str | None:
    """The global at which torch's `weights_only` unpickler stopped, from its message; None if it stopped elsewhere."""
    found = re.search(r"\bGLOBAL (\S+)", message)
    return found[1] if found else None


def plain_data(path: Path, content: bytes) -> object:
    """Unpickle dicts, lists, strings and numbers; anything that would name a class or a function is refused.

    Args:
        path: where the bytes come from, for messages.
        content: a pickle of any protocol.

    Raises:
        WeightsError: the pickle names a global outside the allowlist (the message tells which), or is damaged.
    """
    try:
        return _PlainUnpickler(io.BytesIO(content)).load()
    except _RefusedGlobalError as refusal:
        raise WeightsError(
            f"{path} is refused: its pickle asks for {refusal}, which is not plain data and could run code. "
            "Load the .weights without it, since the architecture is also read from the tensors: move "
            "this file aside."
        ) from None
    except _DAMAGE as error:
        raise WeightsError(
            f"{path} is damaged or no pickle ({error}): get it again from its source, or move it aside, "
            "since the architecture is also read from the tensors."
        ) from error


class _RefusedGlobalError(Exception):
    """The pickle named something outside the allowlist."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # A pickle acts only through what this method returns, so the allowlist is the whole of the defence.
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise _RefusedGlobalError(f"{module}.{name}")
