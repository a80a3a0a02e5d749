"""Many trainings and what they say: environments x encoders x seeds, each an ordinary run folder, and a report over them.

Importing this package loads neither torch nor Stable-Baselines3; `compare` does.
"""

from __future__ import annotations

from vpt_gym.compare.config import Cell, ComparisonConfig
from vpt_gym.compare.progress import ComparisonReporter, Standing

__all__ = ["Cell", "ComparisonConfig", "ComparisonReporter", "Standing"]
