"""Packages whose environments Gymnasium knows only after an import: found by the environment's id."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import gymnasium as gym

from vpt_gym.errors import VPTGymError

__all__ = ["check_registered", "make_folder", "qualified_id"]


@dataclass(frozen=True)
class Provider:
    """A package that registers environments only when a module of it is imported.

    Attributes:
        module: the module whose import registers them.
        install: the command that installs the package; None for a module of this package.
        folder: what every one of its environments makes in the working directory if it is not there; or None.
        check: a function, as `module:name`, that raises VPTGymError if the environments lack something to run on; or None.
    """

    module: str
    install: str | None = None
    folder: str | None = None
    check: str | None = None


PROVIDERS: Final[Mapping[str, Provider]] = MappingProxyType(
    {
        "Vizdoom": Provider("vizdoom.gymnasium_wrapper", "pip install 'vpt-gym[vizdoom]'", folder="_vizdoom"),
        "vpt_gym/Minecraft": Provider("vpt_gym.envs", check="vpt_gym.envs.engine:check_engine"),
    }
)
"""Known providers by how their ids begin."""


def qualified_id(env_id: str) -> str:
    """The id in Gymnasium's `module:EnvId` form when a known package provides it, else unchanged.

    Worker processes start without our imports; the module in the id makes each of them register the environment.

    Raises:
        VPTGymError: the package is known and not installed, or lacks what it runs on.
    """
    if ":" in env_id:
        return env_id
    for prefix, provider in PROVIDERS.items():
        if env_id.startswith(prefix):
            try:
                importlib.import_module(provider.module)
            except ModuleNotFoundError as error:
                if provider.install is None:
                    raise
                raise VPTGymError(
                    f"{env_id} needs the package {error.name}, which is not installed; run: {provider.install}"
                ) from error
            if provider.check is not None:
                module, _, name = provider.check.partition(":")
                getattr(importlib.import_module(module), name)()
            return f"{provider.module}:{env_id}"
    return env_id


def check_registered(env_id: str) -> None:
    """Looks the id up, importing the module in front of it, if any.

    Raises:
        VPTGymError: there is no such environment; found out here it costs a sentence, in a worker process a traceback each.
    """
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        gym.spec(name)
    except ModuleNotFoundError as error:
        raise VPTGymError(f"{env_id} needs a Python module that is not installed: {error}") from error
    except gym.error.UnregisteredEnv as error:
        raise VPTGymError(
            f"Gymnasium knows no environment {env_id!r} ({str(error).strip()}) If a module registers it, write module:{name}."
        ) from error


def make_folder(env_id: str) -> None:
    """Makes the provider's folder in the working directory, before several environments do so at once.

    ViZDoom 1.3's engine looks whether its folder exists and then creates it; of two that do so together one may crash.
    """
    for provider in PROVIDERS.values():
        if provider.folder is not None and env_id.startswith(f"{provider.module}:"):
            Path(provider.folder).mkdir(exist_ok=True)
