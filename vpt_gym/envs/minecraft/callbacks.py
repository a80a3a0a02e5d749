"""MineStudio's callbacks (rewards, tasks, commands, recordings) as an environment takes them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from vpt_gym.encoders.minestudio.package import import_minestudio
from vpt_gym.errors import VPTGymError

__all__ = ["make_callbacks", "step_limit", "without_limits"]


def make_callbacks(given: object) -> list[Any]:
    """An environment's own callbacks.

    Args:
        given: each a `minestudio.simulator.callbacks.MinecraftCallback`, or a pair of the name of one of that module's
            classes and its keyword arguments, such as `("CommandsCallback", {"commands": ["/time set day"]})`.

    Returns:
        New objects; those given are copied, since callbacks keep the state of one episode and environments in one process
        must not share it.

    Raises:
        VPTGymError: one is neither.
    """
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise VPTGymError(
            f"Minecraft: callbacks= must be a list of MineStudio's callbacks, but {given!r} came; put it in a list."
        )
    module = import_minestudio("minestudio.simulator.callbacks")
    return [_make_callback(entry, module) for entry in given]


def _make_callback(entry: Any, module: Any) -> Any:
    if isinstance(entry, module.MinecraftCallback):
        return copy.deepcopy(entry)
    if isinstance(entry, (tuple, list)) and len(entry) == 2:
        name, options = entry
        found = getattr(module, name, None) if isinstance(name, str) else None
        if isinstance(options, Mapping) and isinstance(found, type) and issubclass(found, module.MinecraftCallback):
            try:
                return found(**copy.deepcopy(dict(options)))
            except TypeError as error:
                raise VPTGymError(f"Minecraft: MineStudio's {name} does not take {dict(options)}: {error}.") from error
    raise VPTGymError(
        "Minecraft: a callback must be an instance of minestudio.simulator.callbacks.MinecraftCallback, or a pair of the name "
        f"of a class in that module and a dict of its arguments, but {entry!r} came."
    )


def step_limit(callbacks: Sequence[Any]) -> int | None:
    """The fewest steps that one of MineStudio's JudgeResetCallbacks allows, those inside a Compose included.

    It is a limit of time, yet it sets `terminated`, which tells an algorithm that no reward could follow. The environment
    counts the steps itself and sets `truncated`; what it hands to MineStudio is `without_limits`.

    Raises:
        VPTGymError: one is inside a Compose that draws some of its callbacks anew for each episode.
    """
    module = import_minestudio("minestudio.simulator.callbacks")
    limits = [callback.time_limit for callback in callbacks if type(callback) is module.JudgeResetCallback]
    for callback in callbacks:
        if isinstance(callback, module.Compose):
            inner = step_limit(callback.callbacks)
            if inner is not None and callback.options != -1:
                raise VPTGymError(
                    "Minecraft: a JudgeResetCallback is inside a Compose that draws its callbacks, but an episode's limit "
                    "must not be drawn; put it into callbacks= beside the Compose."
                )
            limits += [] if inner is None else [inner]
    return min(limits, default=None)


def without_limits(callbacks: Sequence[Any]) -> list[Any]:
    """The callbacks but for those that `step_limit` reads; a Compose that holds one is replaced by a copy without it."""
    module = import_minestudio("minestudio.simulator.callbacks")
    return [
        _without_limits(callback) if isinstance(callback, module.Compose) else callback
        for callback in callbacks
        if type(callback) is not module.JudgeResetCallback
    ]


def _without_limits(compose: Any) -> Any:
    if step_limit(compose.callbacks) is None:
        return compose
    compose = copy.copy(compose)
    compose.callbacks = without_limits(compose.callbacks)
    return compose
