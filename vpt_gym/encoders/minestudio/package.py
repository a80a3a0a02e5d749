"""The one door to the package MineStudio: is it there, and how its modules are imported."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from vpt_gym.errors import VPTGymError

__all__ = ["check_installed", "import_minestudio", "import_simulator"]

_declared: list[torch.library.Library] = []
"""Schemas live as long as the library object that declared them."""


def check_installed(user: str) -> None:
    """Raises VPTGymError, which names the `user` of MineStudio and how to install it, unless it is installed."""
    if importlib.util.find_spec("minestudio") is None:
        raise VPTGymError(
            f"{user} needs the package minestudio, which is not installed; from a clone, run: "
            "uv pip install --override requirements/minestudio-overrides.txt '.[minestudio]'"
        )


def import_minestudio(name: str) -> ModuleType:
    """Imports a module of MineStudio, beside a CPU build of torch too, and without the old Gym's advertisement.

    The index's torchvision is built for CUDA. Beside a CPU torch its compiled operators cannot load, and `import torchvision`,
    which MineStudio does, stops at two operators of unknown schema. Declaring the two is enough: no policy calls them.

    Raises:
        VPTGymError: MineStudio, or torchvision, is not installed.
    """
    check_installed(name)
    if not _declared and not _torchvision_operators_load():
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
        _declared.append(library)
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


def _torchvision_operators_load() -> bool:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        raise VPTGymError(
            "MineStudio needs the package torchvision, which is not installed; run: pip install torchvision"
        )
    try:
        torch.ops.load_library(Path(spec.submodule_search_locations[0]) / "_C.so")  # type: ignore[no-untyped-call]
    except OSError:
        return False
    return True
