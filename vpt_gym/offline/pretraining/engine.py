"""The one door to Lightning and peft, which come with an extra."""

from __future__ import annotations

from typing import Any

from vpt_gym.extras import import_extra, let_torchvision_import

__all__ = ["import_lightning", "import_peft"]


def import_lightning() -> Any:
    """Lightning.

    Raises:
        VPTGymError: it is not installed.
    """
    let_torchvision_import()
    return import_extra("lightning", "pretrain", "Pre-training")


def import_peft(user: str) -> Any:
    """peft, for low-rank adapters.

    Raises:
        VPTGymError: it is not installed.
    """
    let_torchvision_import()
    return import_extra("peft", "pretrain", user)
