"""The one door to the package MineStudio: is it there, and how its modules are imported."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
from types import ModuleType
from typing import Any

import numpy as np

from vpt_gym.errors import VPTGymError
from vpt_gym.extras import let_torchvision_import

__all__ = ["check_installed", "import_minestudio", "import_simulator"]


def check_installed(user: str) -> None:
    """Raises VPTGymError, which names the `user` of MineStudio and how to install it, unless it is installed."""
    if importlib.util.find_spec("minestudio") is None:
        raise VPTGymError(
            f"{user} needs the package minestudio, which is not installed; from a clone, run: "
            "uv pip install --override requirements/minestudio-overrides.txt '.[minestudio]'"
        )


def import_minestudio(name: str) -> ModuleType:
    """Imports a module of MineStudio, beside a CPU build of torch too, and without the old Gym's advertisement.

    Raises:
        VPTGymError: MineStudio is not installed.
    """
    check_installed(name)
    let_torchvision_import()
    with contextlib.redirect_stderr(io.StringIO()):
        importlib.import_module("gym")
    return importlib.import_module(name)


def import_simulator() -> ModuleType:
    """Imports MineStudio's `simulator.entry`, under NumPy 2 too.

    One module of MineStudio 1.1.6 asks NumPy for `unicode_`, a name of `str_` that NumPy 2 gave up. That module gets a view of
    NumPy which still has it; NumPy itself stays as it is.

    Raises:
        VPTGymError: as `import_minestudio`.
    """
    spaces = import_minestudio("minestudio.simulator.minerl.herobraine.hero.spaces")
    if not hasattr(np, "unicode_"):
        spaces.np = _OlderNumPy("numpy")  # type: ignore[attr-defined]
    return import_minestudio("minestudio.simulator.entry")


class _OlderNumPy(ModuleType):
    def __getattr__(self, name: str) -> Any:
        return np.str_ if name == "unicode_" else getattr(np, name)
