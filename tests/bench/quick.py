"""A benchmark of small convolutions on noise: those of VPT's 2x network take minutes where torch emulates bfloat16, and videos
take longer to read than all that is measured in tests. `tests/cli/test_bench.py` runs one with all of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import vpt_gym.bench.run
from vpt_gym.bench.pictures import Pictures

__all__ = ["quicken"]

SHAPES = ((8, 16), (16, 8), (16, 4))


def noise(_: object, size: int) -> Pictures:
    frames = np.random.default_rng(0).integers(0, 256, (2, 9, size, size, 3), dtype=np.uint8)
    return Pictures(tuple(frames), "noise")


def quicken(put: Callable[[Any, str, Any], None] = setattr) -> None:
    """Puts both in their place; `put` may be monkeypatch's."""
    put(vpt_gym.bench.run, "SHAPES", SHAPES)
    put(vpt_gym.bench.run, "load_pictures", noise)
