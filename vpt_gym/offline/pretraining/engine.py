"""The one door to Lightning, which comes with an extra."""

from __future__ import annotations

import importlib.util

from vpt_gym.extras import import_extra, let_torchvision_import

__all__ = ["lightning"]

# Lightning imports torchmetrics, and that imports torchvision where it finds one.
if importlib.util.find_spec("torchvision") is not None:
    let_torchvision_import("Lightning")
import_extra("lightning", "pretrain", "Pre-training")

import lightning  # noqa: E402
