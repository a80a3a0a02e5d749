"""Packages that a plain installation does not bring: imported when they are asked for, or a sentence with the command."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import torch

from vpt_gym.errors import VPTGymError

__all__ = ["import_extra", "let_torchvision_import"]

_declared: list[torch.library.Library] = []
"""Schemas live as long as the library object that declared them."""


def import_extra(module: str, extra: str, user: str) -> ModuleType:
    """Imports a module that an extra of vpt_gym brings.

    Args:
        module: its name.
        extra: of vpt_gym, which brings it.
        user: what needs it, for the message.

    Raises:
        VPTGymError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise VPTGymError(
            f"{user} needs the package {error.name}, which is not installed; run: pip install 'vpt-gym[{extra}]'"
        ) from error


def let_torchvision_import(user: str) -> None:
    """Makes `import torchvision`, which `user` does, work beside a CPU build of torch; where it works anyway, nothing is done.

    The index's torchvision is built for CUDA. Beside a CPU torch its compiled operators cannot load, and `import torchvision`
    stops at two operators of unknown schema. Declaring the two is enough: no policy and no image network calls them.

    Raises:
        VPTGymError: torchvision is not installed.
    """
    if _declared or _operators_load(user):
        return
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    _declared.append(library)


def _operators_load(user: str) -> bool:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        raise VPTGymError(f"{user} needs the package torchvision, which is not installed; run: pip install torchvision")
    try:
        torch.ops.load_library(Path(spec.submodule_search_locations[0]) / "_C.so")  # type: ignore[no-untyped-call]
    except OSError:
        return False
    return True
