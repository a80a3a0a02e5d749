"""What stands against what in a matrix: sources of encoders, networks that are trained from scratch, and saved policies."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from vpt_gym.config import FRAME_SIZE

__all__ = ["HELP", "policy_of", "training_of"]

HELP: Final = """\
sources as for vpt-gym train, by spaces or commas. SOURCE@cnn, @block0 ... @final: another layer of VPT's, of which cnn has no
memory; SOURCE@reset: its memory wiped at every frame; SOURCE+pixels: a small network on the frame of the moment is trained
beside the latent. cnn: no encoder, Stable-Baselines3's CNN trained from scratch; impala: VPT's convolutions trained from
scratch; both on frames of 128 pixels a side, or as many as cnn:64 says. policy:FILE: a policy of vpt-gym diffuse, which is not
trained but played, on its own encoder and the same episodes"""

_FROM_SCRATCH: Final = re.compile(r"(cnn|impala)(?::(\d+))?")
_LAYER: Final = re.compile(r"(.+)@(cnn|block\d+|final|all)")
_RESET, _PIXELS = "@reset", "+pixels"
_POLICY: Final = "policy:"


def training_of(name: str, encoder_options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a `TrainingConfig` that a name in a matrix stands for.

    Args:
        name: as `HELP` says.
        encoder_options: what every encoder of the matrix is opened with; but that of a policy with its own.

    Raises:
        WeightsError: a policy's file cannot be had, or does not say which encoder it was trained on.
    """
    policy = policy_of(name)
    if policy is not None:
        from vpt_gym.heads import DiffusionPolicy  # brings torch

        known = DiffusionPolicy.encoder_of(policy)
        return {"encoder": known["source"], "encoder_options": known["options"]}
    scratch = _FROM_SCRATCH.fullmatch(name)
    if scratch is not None:
        return {"encoder": f"frames:{scratch[2] or FRAME_SIZE}", "pixels": scratch[1]}
    source, pixels = name.removesuffix(_PIXELS), name.endswith(_PIXELS)
    source, reset = source.removesuffix(_RESET), source.endswith(_RESET)
    options = dict(encoder_options)
    layered = _LAYER.fullmatch(source)
    if layered is not None:
        source, options["layer"] = layered[1], layered[2]
    changes: dict[str, Any] = {"encoder": f"reset:{source}" if reset else source, "encoder_options": options}
    return {**changes, "pixels": "cnn"} if pixels else changes


def policy_of(name: str) -> Path | None:
    """The file of a policy that is played and not trained; None where a name in a matrix stands for a training."""
    return Path(name.removeprefix(_POLICY)) if name.startswith(_POLICY) else None
