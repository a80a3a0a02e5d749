"""Recordings: latents once, kept in a dataset, and what is learned from it without an environment."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vpt_gym.offline.cloning import clone
    from vpt_gym.offline.dataset import LatentDataset
    from vpt_gym.offline.diffusion import train_diffusion
    from vpt_gym.offline.encoding import encode
    from vpt_gym.offline.neighbours import nearest
    from vpt_gym.offline.pretraining.config import PretrainingConfig
    from vpt_gym.offline.pretraining.run import pretrain
    from vpt_gym.offline.probing import probe
    from vpt_gym.offline.recorder import record

__all__ = [
    "LatentDataset",
    "PretrainingConfig",
    "clone",
    "encode",
    "nearest",
    "pretrain",
    "probe",
    "record",
    "train_diffusion",
]

_HOMES = {
    "LatentDataset": "vpt_gym.offline.dataset",
    "PretrainingConfig": "vpt_gym.offline.pretraining.config",
    "clone": "vpt_gym.offline.cloning",
    "encode": "vpt_gym.offline.encoding",
    "nearest": "vpt_gym.offline.neighbours",
    "pretrain": "vpt_gym.offline.pretraining.run",
    "probe": "vpt_gym.offline.probing",
    "record": "vpt_gym.offline.recorder",
    "train_diffusion": "vpt_gym.offline.diffusion",
}


def __getattr__(name: str) -> Any:
    # What is used is imported: h5py and the rest come with an extra, and a reader of docstrings need not have it.
    if name in _HOMES:
        value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
