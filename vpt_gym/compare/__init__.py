"""Many trainings and what they say: environments x encoders x seeds, each an ordinary run folder, and a report over them.

Importing this package loads neither torch nor Stable-Baselines3; `compare` does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vpt_gym.compare.config import Cell, ComparisonConfig
from vpt_gym.compare.progress import ComparisonReporter, Standing

if TYPE_CHECKING:
    from vpt_gym.compare.comparison import Comparison, compare

__all__ = ["Cell", "Comparison", "ComparisonConfig", "ComparisonReporter", "Standing", "compare"]


def __getattr__(name: str) -> Any:
    if name in ("Comparison", "compare"):
        value = globals()[name] = getattr(importlib.import_module("vpt_gym.compare.comparison"), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
