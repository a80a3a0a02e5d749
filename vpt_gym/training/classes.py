"""Any algorithm of Stable-Baselines3, of sb3-contrib and of vpt_gym by the name of its class, and what it can be told."""

from __future__ import annotations

import importlib
import inspect
from typing import Any, Final

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from vpt_gym.errors import OptionError
from vpt_gym.training.config import ALGORITHMS, Algorithm

__all__ = ["algorithm_class", "describe", "parameters_of"]

MODULES: Final = ("stable_baselines3", "sb3_contrib", "vpt_gym.heads")
OURS: Final = frozenset(
    {"policy", "env", "policy_kwargs", "seed", "device", "verbose", "tensorboard_log", "_init_setup_model"}
)
"""Arguments of algorithms that the run itself gives, or that have no use in it."""


def _classes() -> dict[str, type[BaseAlgorithm]]:
    found = {}
    for module in MODULES:
        try:
            place = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            continue
        for name in getattr(place, "__all__", ()):
            value = getattr(place, name)
            if isinstance(value, type) and issubclass(value, BaseAlgorithm):
                found[name] = value
    return found


def algorithm_class(name: str) -> type[BaseAlgorithm]:
    """The class of that name, in capitals or small letters.

    Raises:
        OptionError: there is none; the message names all.
    """
    classes = _classes()
    for each, found in classes.items():
        if each.lower() == name.lower():
            return found
    more = "" if importlib.util.find_spec("sb3_contrib") else "; pip install 'vpt-gym[contrib]' brings more"
    raise OptionError(
        f"algo must be one of {', '.join(ALGORITHMS)}, or the class of an algorithm, not {name!r}; there are "
        f"{', '.join(sorted(classes))}{more}."
    )


def parameters_of(algorithm: type[BaseAlgorithm]) -> dict[str, Any]:
    """Every hyperparameter of a class by name, with its default."""
    found: dict[str, Any] = {}
    # A class that passes *args and **kwargs on takes what its parent takes.
    for owner in algorithm.__mro__:
        signature = inspect.signature(owner).parameters
        for name, parameter in signature.items():
            if name not in OURS and parameter.kind not in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
                found.setdefault(name, parameter.default)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.values()):
            break
    return found


def describe(algorithm: type[BaseAlgorithm]) -> Algorithm:
    """As the entries of `ALGORITHMS`, with the class's own defaults; only its constructor knows what it can act in."""
    defaults = {
        name: default for name, default in parameters_of(algorithm).items() if isinstance(default, (int, float, str))
    }
    return Algorithm((), defaults, on_policy=issubclass(algorithm, OnPolicyAlgorithm))
