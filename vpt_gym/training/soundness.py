"""A head whose parameters are no longer finite is noticed before it is saved; what environments give, workers check."""

from __future__ import annotations

from typing import Final

from stable_baselines3.common.base_class import BaseAlgorithm

from vpt_gym.errors import VPTGymError

__all__ = ["NonFiniteRunError", "is_sound"]


class NonFiniteRunError(VPTGymError, ArithmeticError):
    """A parameter of a head is NaN or infinite."""


LARGEST: Final = 1e18
"""Of a sound parameter: the products of two larger ones are near the end of float32."""


def is_sound(model: BaseAlgorithm) -> bool:
    """Whether every number of a model's policy is finite, and small enough for its products to be."""
    return all(bool((tensor.abs() <= LARGEST).all()) for tensor in model.policy.state_dict().values())
