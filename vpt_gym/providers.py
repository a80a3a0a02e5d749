"""The registry of packages whose environments Gymnasium knows only after an import: found by how the id begins."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import gymnasium as gym

from vpt_gym.errors import VPTGymError

__all__ = ["Provider", "check_registered", "make_folder", "qualified_id", "register_provider"]


@dataclass(frozen=True)
class Provider:
    """A package that registers environments only when a module of it is imported.

    Attributes:
        module: the module whose import registers them.
        install: the command that installs the package; None where a missing module is a bug.
        folder: what every one of its environments makes in the working directory if it is not there; or None.
        check: raises VPTGymError if the environments lack something to run on; or None.
    """

    module: str
    install: str | None = None
    folder: str | None = None
    check: Callable[[], None] | None = None


_providers: Final[dict[str, Provider]] = {}
"""By how their environments' ids begin."""


def register_provider(prefix: str, provider: Provider) -> None:
    """Makes environments known whose ids begin with `prefix`; a second call for one prefix takes the place of the first."""
    _providers[prefix] = provider


def qualified_id(env_id: str) -> str:
    """The id in Gymnasium's `module:EnvId` form when a known package provides it, else unchanged.

    Worker processes start without our imports; the module in the id makes each of them register the environment.

    Raises:
        VPTGymError: the package is known and not installed, or lacks what it runs on.
    """
    if ":" in env_id:
        return env_id
    for prefix, provider in _providers.items():
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
                provider.check()
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
    for provider in _providers.values():
        if provider.folder is not None and env_id.startswith(f"{provider.module}:"):
            Path(provider.folder).mkdir(exist_ok=True)
