"""Packages that a plain installation does not bring: imported when they are asked for, or a sentence with the command."""

from __future__ import annotations

import importlib
import importlib.util
from importlib.machinery import ModuleSpec
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
        VPTGymError: it is not installed, or it is broken.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (
            error.name is None
        ):  # raised by a package of parts that load when asked for (transformers), over what really failed
            causes = [str(each) for each in (error, error.__cause__) if each is not None]
            raise VPTGymError(
                f"{user} needs the package {module}, which cannot be imported: {'; '.join(causes)}"
            ) from error
        raise VPTGymError(
            f"{user} needs the package {error.name}, which is not installed; run: pip install 'vpt-gym[{extra}]'"
        ) from error


def let_torchvision_import() -> None:
    """Makes `import torchvision` work beside a CPU build of torch. Where it works anyway, or there is none, nothing is done.

    MineStudio and timm import it; so do Lightning (by torchmetrics), transformers, diffusers and peft where they find it.

    The index's torchvision is built for CUDA. Beside a CPU torch its compiled operators cannot load, and `import torchvision`
    stops at two operators of unknown schema. Declaring the two is enough: no policy and no image network calls them.
    """
    spec = importlib.util.find_spec("torchvision")
    if _declared or spec is None or _operators_load(spec):
        return
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    _declared.append(library)


def _operators_load(spec: ModuleSpec) -> bool:
    try:
        torch.ops.load_library(Path(str(spec.origin)).with_name("_C.so"))  # type: ignore[no-untyped-call]
    except OSError:
        return False
    return True
