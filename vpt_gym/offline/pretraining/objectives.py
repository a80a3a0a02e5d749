"""What a network is trained for. The calls are those of MineStudio's `ObjectiveCallback`, so that either side's work with both.

An objective is called with `(batch, batch_idx, step_name, latents, mine_policy)` and gives a dictionary: `loss`, which is added
up and goes backward, and figures to log. Losses are sums over time and means over rows, as MineStudio's are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpt_gym.errors import OptionError
from vpt_gym.offline.keyboard import NULL_CAMERA
from vpt_gym.offline.losses import cloning_loss
from vpt_gym.offline.pretraining.policy import TrunkPolicy

__all__ = [
    "BehaviorClone",
    "Frame",
    "InverseDynamics",
    "KLDivergence",
    "NextLatent",
    "Objective",
    "Target",
    "make_objectives",
]


class Objective(Protocol):
    """What MineStudio's `ObjectiveCallback` does."""

    def __call__(
        self, batch: dict[str, Any], batch_idx: int, step_name: str, latents: dict[str, Any], mine_policy: Any
    ) -> Mapping[str, Any]:
        """The loss and what is logged with it."""
        ...


class BehaviorClone(nn.Module):
    """Negative log-likelihood of the recorded actions.

    Where there is a part `camera`, frames that do not move it are left out of its loss. The same numbers as MineStudio's
    `BehaviorCloneCallback` (minestudio/offline/mine_callbacks/behavior_clone.py).
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(
        self, batch: dict[str, Any], batch_idx: int, step_name: str, latents: dict[str, Any], mine_policy: Any
    ) -> dict[str, Any]:
        """Loss, loss of each part, entropy, and how many frames are right in every part, or how far off they are."""
        del batch_idx, step_name
        actions, logits = batch["agent_action"], latents["pi_logits"]
        log_prob = mine_policy.pi_head.logprob(actions, logits, return_dict=True)
        entropy = mine_policy.pi_head.entropy(logits, return_dict=True)
        some = next(iter(log_prob.values()))
        mask_bt = batch.get("mask", torch.ones_like(some))
        counted_btp = torch.stack([torch.ones_like(some)] * len(log_prob), dim=-1)
        if "camera" in log_prob:
            camera = list(log_prob).index("camera")
            counted_btp[..., camera] = (actions["camera"] != NULL_CAMERA).float().squeeze(-1)
        losses_p = cloning_loss(torch.stack(list(log_prob.values()), dim=-1), counted_btp, mask_bt)
        entropy_btp = torch.stack([entropy[part] for part in log_prob], dim=-1)
        result = {
            f"{part.removesuffix('s')}_loss": loss
            for part, loss in zip(log_prob, losses_p, strict=True)
            if part in ("buttons", "camera")
        }
        chosen = [part for part in log_prob if not actions[part].is_floating_point()]
        if chosen:
            right_bt = torch.stack([logits[part].argmax(-1).eq(actions[part]).all(-1) for part in chosen]).all(0)
            result["accuracy"] = _mean(right_bt.float(), mask_bt)
        for part in log_prob.keys() - set(chosen):
            result["error"] = _mean((logits[part][..., 0] - actions[part]).detach().abs().mean(-1), mask_bt)
        return result | {
            "loss": losses_p.sum() * self.weight,
            "entropy": -cloning_loss(entropy_btp, counted_btp, mask_bt).sum(),
            "bc_weight": self.weight,
        }


def _mean(values_bt: Tensor, mask_bt: Tensor) -> Tensor:
    """Of the frames that count."""
    return (values_bt * mask_bt).sum() / mask_bt.sum().clamp(min=1)


class KLDivergence(nn.Module):
    """Divergence of two Gaussians that a policy left in its latents, as MineStudio's `KLDivergenceCallback` has it."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(
        self, batch: dict[str, Any], batch_idx: int, step_name: str, latents: dict[str, Any], mine_policy: Any
    ) -> dict[str, Any]:
        """KL(posterior || prior) from `posterior_dist` and `prior_dist`: `mu` and `log_var`, [B, D] each."""
        del batch, batch_idx, step_name, mine_policy
        posterior, prior = latents["posterior_dist"], latents["prior_dist"]
        ratio_bd = posterior["log_var"] - prior["log_var"]
        distance_bd = (posterior["mu"] - prior["mu"]).square() / prior["log_var"].exp()
        kl = 0.5 * (ratio_bd.exp() + distance_bd - 1 - ratio_bd).sum(-1).mean()
        return {"loss": kl * self.weight, "kl_div": kl, "kl_weight": self.weight}


class Target(nn.Module):
    """Predicts an array of the recordings from the latent: maps of depth, of what is where, or whatever else was kept.

    uint8 is a share of 255, by cross-entropy; other numbers are taken as they are, by squared error.
    """

    def __init__(self, weight: float, key: str, policy: TrunkPolicy, batch: Mapping[str, Any]) -> None:
        super().__init__()
        self.weight, self.key = weight, key
        example_bt = self.wanted(batch)
        self.share = example_bt.dtype == torch.uint8
        self.decoder = nn.Linear(policy.net.config.hidden_size, max(1, example_bt[0, 0].numel()))

    def wanted(self, batch: Mapping[str, Any]) -> Tensor:
        """What is to be predicted, [B, T, ...]."""
        wanted: Tensor = batch[self.key]
        return wanted

    def forward(
        self, batch: dict[str, Any], batch_idx: int, step_name: str, latents: dict[str, Any], mine_policy: Any
    ) -> dict[str, Any]:
        """Loss, and the mean error of a number."""
        del batch_idx, step_name, mine_policy
        found_btn = self.decoder(latents["final"]).float()
        wanted_bt = self.wanted(batch).float()
        wanted_btn = wanted_bt.flatten(2) if wanted_bt.dim() > 2 else wanted_bt[..., None]
        if self.share:
            wanted_btn = wanted_btn / 255
            # The sum of many numbers' entropies is far from zero even where all is right: what is due is what is above it.
            entropy_btn = torch.special.entr(wanted_btn) + torch.special.entr(1 - wanted_btn)
            loss_btn = F.binary_cross_entropy_with_logits(found_btn, wanted_btn, reduction="none") - entropy_btn
            found_btn = found_btn.sigmoid()
        else:
            loss_btn = F.mse_loss(found_btn, wanted_btn, reduction="none")
        mask_bt = batch["mask"]
        error_bt = (found_btn - wanted_btn).detach().abs().mean(-1)
        return {
            "loss": (loss_btn.mean(-1) * mask_bt).sum(-1).mean() * self.weight,
            f"{self.key}_error": _mean(error_bt, mask_bt),
        }


class Frame(Target):
    """Predicts a coarse picture of the frame, 16 x 16 cells, from the latent: what no other objective asks for stays in it."""

    CELLS: Final = 16

    def wanted(self, batch: Mapping[str, Any]) -> Tensor:
        """The mean of each cell, uint8 [B, T, 3 x 16 x 16]."""
        frames_bthwc: Tensor = batch["frames"]
        cells_nchw = F.adaptive_avg_pool2d(frames_bthwc.flatten(0, 1).permute(0, 3, 1, 2).float(), self.CELLS)
        return cells_nchw.round().to(torch.uint8).reshape(*frames_bthwc.shape[:2], -1)


class InverseDynamics(nn.Module):
    """Predicts the action that was taken between two frames from what the convolutions see of both."""

    def __init__(self, weight: float, policy: TrunkPolicy) -> None:
        super().__init__()
        self.weight = weight
        size = policy.net.config.hidden_size
        self.body = nn.Sequential(nn.Linear(2 * size, size), nn.ReLU())
        self.heads = nn.ModuleDict({f"_{name}": nn.Linear(size, count) for name, count in policy.pi_head.parts.items()})

    def forward(
        self, batch: dict[str, Any], batch_idx: int, step_name: str, latents: dict[str, Any], mine_policy: Any
    ) -> dict[str, Any]:
        """Loss, and the share of parts that are right, or how far continuous actions are off."""
        del batch_idx, step_name
        cnn_btd = latents["cnn"]
        features_btd = self.body(torch.cat([cnn_btd[:, :-1], cnn_btd[:, 1:]], dim=-1))
        mask_bt = batch["mask"][:, 1:] * (~batch["first"][:, 1:]).float()
        head = mine_policy.pi_head
        actions = head.split(batch.get("played", batch["actions"]))
        losses, measures = [], []
        for name in head.parts:
            found_btn, wanted_bta = self.heads[f"_{name}"](features_btd).float(), actions[name][:, :-1]
            losses.append(head.misfit(found_btn, wanted_bta) * mask_bt)
            measures.append(head.measure(found_btn, wanted_bta).detach() * mask_bt)
        count = mask_bt.sum().clamp(min=1)
        return {
            "loss": torch.stack(losses).sum(0).sum(-1).mean() * self.weight,
            f"inverse_{head.measured}": torch.stack(measures).mean(0).sum() / count,
        }


class NextLatent(nn.Module):
    """Predicts what the convolutions will see in the next frame from the latent and the action: cosine distance."""

    def __init__(self, weight: float, policy: TrunkPolicy) -> None:
        super().__init__()
        self.weight = weight
        size = policy.net.config.hidden_size
        head = policy.pi_head
        self.actions = nn.ModuleDict({f"_{name}": head.embedding(n, size) for name, n in head.parts.items()})
        self.body = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, size))

    def forward(
        self, batch: dict[str, Any], batch_idx: int, step_name: str, latents: dict[str, Any], mine_policy: Any
    ) -> dict[str, Any]:
        """Loss: 0 where the direction is right, 1 where it is as good as any."""
        del batch_idx, step_name
        head = mine_policy.pi_head
        actions = head.split(batch.get("played", batch["actions"]))
        done = [self.actions[f"_{name}"](head.index(actions[name][:, :-1])) for name in head.parts]
        found_btd = self.body(latents["final"][:, :-1] + torch.stack(done).sum(0))
        # The target stands still: else the convolutions could make all frames alike.
        wanted_btd = latents["cnn"][:, 1:].detach()
        wanted_btd = wanted_btd - wanted_btd.mean((0, 1))
        mask_bt = batch["mask"][:, 1:] * (~batch["first"][:, 1:]).float()
        distance_bt = 1 - F.cosine_similarity(found_btd, wanted_btd, dim=-1)
        return {
            "loss": (distance_bt * mask_bt).sum(-1).mean() * self.weight,
            "next_distance": _mean(distance_bt, mask_bt),
        }


_SIMPLE: Final[Mapping[str, Callable[[float, TrunkPolicy], nn.Module]]] = {
    "clone": lambda weight, _: BehaviorClone(weight),
    "inverse": InverseDynamics,
    "next": NextLatent,
}


def make_objectives(
    weights: Mapping[str, float], policy: TrunkPolicy, batch: Mapping[str, Any]
) -> dict[str, nn.Module]:
    """Objectives by name: `clone`, `inverse`, `next`, `frame`, and every array of the recordings by its own name.

    Args:
        weights: of each.
        policy: whose latents they read.
        batch: one, as an example of what the recordings hold.

    Raises:
        OptionError: there is no such objective and no such array.
    """
    made: dict[str, nn.Module] = {}
    for name, weight in weights.items():
        if name in _SIMPLE:
            made[name] = _SIMPLE[name](weight, policy)
        elif name == "frame":
            made[name] = Frame(weight, name, policy, batch)
        elif isinstance(batch.get(name), Tensor):
            made[name] = Target(weight, name, policy, batch)
        else:
            arrays = sorted(set(batch) - {"frames", "first", "mask", "recording", "actions", "agent_action"})
            raise OptionError(
                f"There is no objective {name!r}: name clone, inverse, next or frame, or an array of the recordings"
                f"{': ' + ', '.join(arrays) if arrays else ', which have none beside frames and actions'}."
            )
    return made
