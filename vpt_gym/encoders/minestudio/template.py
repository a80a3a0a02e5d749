"""Which kind a policy is, among those that MineStudio's `MinePolicy` is the template of, and whether it can be an encoder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from vpt_gym.encoders.minestudio.groot import GrootKind
from vpt_gym.encoders.minestudio.kinds import IMAGE, Kind, OwnKind, RocketKind, VPTKind, class_of
from vpt_gym.encoders.minestudio.package import check_installed
from vpt_gym.encoders.minestudio.steve import SteveKind
from vpt_gym.errors import VPTGymError

__all__ = ["kind_of_policy"]


def kind_of_policy(policy: Any, also_reads: Sequence[str]) -> Kind:
    """How a policy is spoken to; arguments as for `encoder_from_policy`, whose errors are raised here."""
    _check_policy(policy)
    keys = _checked_keys(also_reads)
    models = "minestudio.models"
    kinds: tuple[tuple[str, str, type[Kind]], ...] = (
        (f"{models}.vpt.body", "VPTPolicy", VPTKind),
        (f"{models}.steve_one.body", "SteveOnePolicy", SteveKind),
        (f"{models}.groot_one.body", "GrootPolicy", GrootKind),
        (f"{models}.rocket_one.body", "RocketPolicy", RocketKind),
    )
    for module, name, kind in kinds:
        base = class_of(module, name)
        if base is None or not isinstance(policy, base):
            continue
        if kind is VPTKind and type(policy).forward is not base.forward:
            continue  # a forward of its own may read whatever it likes
        if keys:
            raise VPTGymError(f"also_reads is for policies of your own; what a {name} reads is known: leave it out.")
        return kind(policy)
    return OwnKind(policy, keys)


def _check_policy(policy: Any) -> None:
    name = type(policy).__name__
    base = class_of("minestudio.models.base_policy", "MinePolicy")
    if base is None or not isinstance(policy, base):
        check_installed("encoder_from_policy")
        raise VPTGymError(
            f"encoder_from_policy takes a loaded policy of MineStudio, such as VPTPolicy.from_pretrained(...).eval(), but a "
            f"{name} came; a policy of your own must derive from minestudio.models.base_policy.MinePolicy."
        )
    if not isinstance(getattr(policy, "pi_head", None), nn.Module):
        raise VPTGymError(
            f"{name} has no pi_head, and a latent is what enters it; call super().__init__(hiddim, action_space) in the "
            "policy's __init__, as MinePolicy expects."
        )
    training = [part or "the policy itself" for part, module in policy.named_modules() if module.training]
    if training:
        raise VPTGymError(
            f"{name} is in training mode ({training[0]}), in which latents are random; call policy.eval()."
        )
    others = {tensor.dtype for tensor in policy.parameters() if tensor.is_floating_point()} - {torch.float32}
    if others:
        raise VPTGymError(f"{name} holds parameters of {', '.join(sorted(map(str, others)))}; call policy.float().")
    for part, parameter in policy.named_parameters():
        if parameter.is_meta:
            raise VPTGymError(
                f"{name}.{part} is on the meta device, where there are no numbers; load the policy onto a CPU or GPU."
            )
        if parameter.is_floating_point() and not bool(parameter.isfinite().all()):
            raise VPTGymError(f"{name}.{part} holds NaN or infinity; load weights that are whole.")


def _checked_keys(also_reads: object) -> tuple[str, ...]:
    given: list[object] = list(also_reads) if isinstance(also_reads, Iterable) else [None]
    keys = tuple(key for key in given if isinstance(key, str))
    if isinstance(also_reads, str) or len(keys) != len(given) or IMAGE in keys:
        raise VPTGymError(
            f"also_reads must be a list of keys of the observation, without {IMAGE!r}, not {also_reads!r}."
        )
    return keys
