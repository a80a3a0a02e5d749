"""The one door to Lightning, which comes with an extra."""

from __future__ import annotations

import importlib.util
from typing import Any

from vpt_gym.extras import import_extra, let_torchvision_import

__all__ = ["import_lightning"]


def import_lightning() -> Any:
    """The package.

    Raises:
        VPTGymError: it is not installed.
    """
    # Lightning imports torchmetrics, and that imports torchvision where it finds one.
    if importlib.util.find_spec("torchvision") is not None:
        let_torchvision_import("Lightning")
    return import_extra("lightning", "pretrain", "Pre-training")
