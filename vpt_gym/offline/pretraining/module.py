"""One step of training, for Lightning: memory handed on, objectives added up, what is not finite refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vpt_gym.errors import VPTGymError
from vpt_gym.nn import Memory
from vpt_gym.offline.pretraining.engine import import_lightning
from vpt_gym.offline.pretraining.objectives import Objective
from vpt_gym.offline.pretraining.pieces import Pieces
from vpt_gym.offline.pretraining.policy import TrunkPolicy

__all__ = ["Pretraining", "lightning_module"]


if TYPE_CHECKING:
    from lightning import LightningModule
else:
    # Without the extra this file can be imported all the same; `lightning_module` brings the base.
    LightningModule = object


class Pretraining(LightningModule):
    """Trains a policy by objectives on pieces whose rows go on from batch to batch."""

    def __init__(
        self,
        policy: TrunkPolicy,
        objectives: Mapping[str, Objective],
        pieces: Mapping[str, Pieces],
        *,
        steps: int,
        learning_rate: float,
        weight_decay: float,
        warm_up: int,
    ) -> None:
        """For one training.

        Args:
            policy: what is trained; parameters without gradients stay as they are.
            objectives: by name; those with parameters are trained along.
            pieces: `training` and `validation`, for the names of recordings in messages.
            steps: of the optimiser in all: the learning rate falls to a tenth by a cosine until then.
            learning_rate: AdamW's, after the warm-up.
            weight_decay: AdamW's, for matrices; norms and biases have none.
            warm_up: steps in which the learning rate rises from zero.
        """
        super().__init__()
        self.policy = policy
        self.objectives = dict(objectives)
        self.trained_along = nn.ModuleDict({name: o for name, o in objectives.items() if isinstance(o, nn.Module)})
        self._pieces = pieces
        self._steps, self._warm_up = steps, warm_up
        self._learning_rate, self._weight_decay = learning_rate, weight_decay
        self._memory: dict[str, Memory] = {}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The loss of one batch."""
        loss, figures = self._run(batch, batch_idx, "training")
        self.log_dict({f"train/{name}": value for name, value in figures.items()}, on_step=True, on_epoch=False)
        self.log("loss", loss.detach(), prog_bar=True, logger=False)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Figures of one batch, averaged over frames."""
        if batch_idx == 0:
            self._memory.pop("validation", None)
        _, figures = self._run(batch, batch_idx, "validation")
        weight = int(batch["mask"].sum())
        for name, value in figures.items():
            self.log(
                f"val/{name}",
                value,
                on_step=False,
                on_epoch=True,
                batch_size=max(1, weight),
                prog_bar=name == "loss",
                # Every device looks at all of it: this only makes sure that they agree which is the best.
                sync_dist=True,
            )

    def _run(self, batch: dict[str, Any], batch_idx: int, step_name: str) -> tuple[Tensor, dict[str, Any]]:
        policy, frames_bthwc = self.policy, batch["frames"]
        memory = self._memory.get(step_name)
        if memory is None:
            config = policy.net.config
            memory = Memory.empty(
                config, len(frames_bthwc), blocks=config.blocks, device=frames_bthwc.device, dtype=policy.net.dtype
            )
        else:
            # Lightning hands checkpoints out before it moves the network to its device.
            memory = Memory(**{name: tensor.to(frames_bthwc.device) for name, tensor in memory.tensors().items()})
        actions = policy.pi_head.split(batch["actions"])
        # `image` is what MineStudio's own batches call the frames.
        batch = batch | {"agent_action": actions, "image": frames_bthwc}
        latents, after = policy(frames_bthwc, batch["first"], memory)
        # Cut here: gradients reach as far back as the piece, the memory further.
        self._memory[step_name] = after.detach()
        total, figures = torch.zeros((), device=frames_bthwc.device), {}
        for name, objective in self.objectives.items():
            result = objective(batch, batch_idx, step_name, latents, policy)
            if "loss" in result:
                total = total + result["loss"]
                figures[f"{name}_loss"] = result["loss"].detach()
            figures |= {key: value for key, value in result.items() if key != "loss"}
        recordings_b = self._of_broken(total, batch["recording"])
        if recordings_b is not None:
            names = sorted({self._pieces[step_name].name(int(i)) for i in recordings_b})
            raise VPTGymError(
                f"The loss is not finite at step {self.global_step} ({step_name}), in one of: "
                f"{', '.join(names[:8])}. The last"
                " checkpoint is kept. Look at these recordings, or train with a smaller --learning-rate."
            )
        figures["loss"] = total.detach()
        return total, figures

    def _of_broken(self, total: Tensor, recording_b: Tensor) -> Tensor | None:
        """The recordings of all devices' rows, when the loss of one of them is not finite: all stop at the same step."""
        finite = math.isfinite(float(total.detach()))
        if self._trainer is None or self.trainer.world_size == 1:
            return None if finite else recording_b
        if self.trainer.strategy.reduce_boolean_decision(finite, all=True):
            return None
        everywhere: Any = self.all_gather(recording_b)
        return torch.as_tensor(everywhere).flatten()

    def configure_optimizers(self) -> Any:
        """AdamW, a linear warm-up, a cosine to a tenth."""
        trained = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.dim() > 1], "weight_decay": self._weight_decay},
            {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self._learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _share(self, step: int) -> float:
        if step < self._warm_up:
            return (step + 1) / self._warm_up
        done = min(1.0, (step - self._warm_up) / max(1, self._steps - self._warm_up))
        return 0.1 + 0.45 * (1 + math.cos(math.pi * done))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The memory of the training rows goes along: without it, going on would not be going on."""
        memory = self._memory.get("training")
        if memory is not None and self.trainer.world_size > 1:
            gathered = {name: self.all_gather(tensor) for name, tensor in memory.tensors().items()}
            parts = [
                Memory(**{name: each[i] for name, each in gathered.items()}) for i in range(self.trainer.world_size)
            ]
            memory = Memory.joined(parts)
        checkpoint["vpt_gym_memory"] = None if memory is None else memory.tensors()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Puts the memory back, on each device that of its own rows."""
        if checkpoint["vpt_gym_memory"] is not None:
            memory = Memory(**checkpoint["vpt_gym_memory"])
            rows = len(memory.slot_b) // self.trainer.world_size
            self._memory["training"] = memory.of_rows(torch.arange(rows) + self.trainer.global_rank * rows)


def lightning_module(*arguments: Any, **options: Any) -> Pretraining:
    """A `Pretraining`, made of the same arguments, that Lightning can train.

    Raises:
        VPTGymError: Lightning is not installed.
    """

    class Module(Pretraining, import_lightning().LightningModule):  # type: ignore[misc]
        pass

    return Module(*arguments, **options)
