"""Training a Stable-Baselines3 head on VPT latents, and playing what was trained: what the command line calls.

Importing this package loads neither Stable-Baselines3 nor matplotlib nor any environment; `train` and `evaluate` do.
"""

from __future__ import annotations

from vpt_gym.training.config import ALGORITHMS, EvaluationConfig, FleetConfig, TrainingConfig
from vpt_gym.training.report import Facts, Progress, Reporter, Score

__all__ = ["ALGORITHMS", "EvaluationConfig", "Facts", "FleetConfig", "Progress", "Reporter", "Score", "TrainingConfig"]
