"""`train_diffusion`: a diffusion policy learns chunks of actions from a dataset of latents, on Lightning."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vpt_gym.encoders.loading import choose_device
from vpt_gym.errors import OptionError
from vpt_gym.offline.batches import Frames, split_episodes
from vpt_gym.offline.dataset import LatentDataset
from vpt_gym.offline.plan import DiffusionConfig
from vpt_gym.offline.pretraining.engine import import_lightning, stopping
from vpt_gym.offline.recordings import GOAL, IN_LOSS, Array
from vpt_gym.running.stopping import StopSignal

__all__ = ["DiffusionResult", "train_diffusion"]

FRAMES_PER_SUM = 4096


@dataclass
class DiffusionResult:
    """How a training went.

    Attributes:
        frames: that chunks began at, in the episodes trained on; and `held_frames` in those held out.
        steps: gradient steps taken.
        losses: of training, the mean since the entry before, by the step.
        validation: losses of the averaged weights on what is held out, by the step.
        stopped: whether Ctrl-C or SIGTERM ended it.
    """

    frames: int
    held_frames: int
    steps: int = 0
    losses: dict[int, float] = field(default_factory=dict)
    validation: dict[int, float] = field(default_factory=dict)
    stopped: bool = False


class Chunks(Frames):
    """Frames with the actions that follow: beside the latents `actions` [n, H, ...] and `valid`, bool [n, H].

    Behind an episode's end its last action is repeated, and not valid. The loss mask says which frames chunks begin at, and no
    more: an action that is masked is part of a chunk that begins before it, and is learned there, since the chunk is played as
    it was recorded, and without the action what follows would come too early.
    """

    def __init__(
        self, dataset: LatentDataset, episodes: Sequence[int], names: Sequence[str], *, horizon: int, stack: int
    ) -> None:
        super().__init__(dataset, episodes, names, acted=True, stack=stack)
        self.horizon = horizon

    def read(self, number: int, start: int, stop: int) -> dict[str, Array]:
        """Some frames of an episode, without those outside the loss."""
        rows = super().read(number, start, stop)
        steps = self.dataset.episodes[number].steps
        (actions,) = self.dataset.read(number, ["actions"], start, min(stop + self.horizon - 1, steps))
        places = np.arange(start, stop)[:, None] + np.arange(self.horizon)
        if IN_LOSS in self.dataset.labels:
            places = places[self.dataset.read(number, [IN_LOSS], start, stop)[0].astype(bool)]
        return {**rows, "actions": actions[np.minimum(places, steps - 1) - start], "valid": places < steps}


def train_diffusion(
    policy: Any,
    dataset: LatentDataset | Path | str,
    config: DiffusionConfig | None = None,
    *,
    goal: Array | None = None,
    progress: bool = True,
) -> DiffusionResult:
    """Trains a `vpt_gym.heads.DiffusionPolicy` to act as in the demonstrations, in place.

    It ends with the moving average of its weights. Ctrl-C ends it early, with what was learned until then.

    Args:
        policy: is trained.
        dataset: of latents with actions, or its folder; for a policy with goals, perhaps with a label `goal`, [T, G].
        config: how; None for the defaults.
        goal: float32 [G], of all episodes, where the dataset has none.
        progress: whether a bar is shown.

    Raises:
        OptionError: policy and dataset do not fit together, a chunk is longer than every episode, an action is outside the
            policy's space, there is nothing to train on, or no such device.
        RecordingError: the dataset cannot be read, or has no goals.
        VPTGymError: Lightning is not installed.
    """
    config = config or DiffusionConfig()
    if isinstance(dataset, (str, Path)):
        with LatentDataset(dataset) as opened:
            return train_diffusion(policy, opened, config, goal=goal, progress=progress)
    if config.device == "cuda":
        choose_device(config.device)
    _check(policy, dataset, goal)
    names = [GOAL] if policy.goal_size and goal is None else []
    train, held = (
        Chunks(dataset, episodes, names, horizon=policy.horizon, stack=policy.stack)
        for episodes in split_episodes(dataset, config.validation, config.seed)
    )
    if not train.count:
        raise OptionError(f"{dataset.path} has no frames with actions to train on.")
    _fit(policy, train, str(dataset.path))
    for batch in held.batches(FRAMES_PER_SUM):
        policy.code.check(_flat(batch["actions"]), str(dataset.path))
    policy.latents = dataset.fingerprint
    policy.latents_from = {key: dataset.encoder[key] for key in ("source", "options") if key in dataset.encoder}
    policy.set_random_seed(config.seed)
    policy.train()
    learning = _Learning(policy, held, config, goal, DiffusionResult(train.count, held.count))
    _run(learning, train, progress=progress)
    learning.average.put_in(policy)
    policy.set_random_seed(config.seed)
    policy.eval()
    return learning.result


def _check(policy: Any, dataset: LatentDataset, goal: Array | None) -> None:
    if dataset.action_space is None:
        raise OptionError(f"{dataset.path} has no actions to learn: encode recordings that have them.")
    if policy.latent_size != dataset.latent_size:
        raise OptionError(
            f"The policy observes latents of {policy.latent_size} numbers, but {dataset.path} holds latents of "
            f"{dataset.latent_size}: make it for them, with the encoder {dataset.encoder['source']}."
        )
    longest = max((episode.steps for episode in dataset.episodes), default=0)
    if policy.horizon > longest:
        raise OptionError(
            f"A chunk of {policy.horizon} actions is longer than every episode of {dataset.path}, of which the longest has "
            f"{longest}: give the policy a smaller horizon."
        )
    if goal is not None and goal.shape != (policy.goal_size,):
        raise OptionError(f"goal must be the policy's {policy.goal_size} numbers, but {goal.shape} came.")
    if policy.goal_size and goal is None:
        for episode in dataset.episodes:
            size = int(dataset.read(episode.number, [GOAL], 0, 1)[0][0].size)
            if size != policy.goal_size:
                raise OptionError(
                    f"The policy is told goals of {policy.goal_size} numbers, but in episode {episode.number} of "
                    f"{dataset.path} the label {GOAL!r} has {size}: make the policy for them, or write one kind of goal."
                )


def _fit(policy: Any, frames: Chunks, name: str) -> None:
    """Checks all actions, and takes over the range of real-valued ones and the mean and deviation of latents."""
    count, mean_d, square_d = 0, 0.0, 0.0
    lows, highs = [], []
    size = policy.latent_size
    for batch in frames.batches(FRAMES_PER_SUM):
        # Those that no chunk begins at too: they are learned inside of chunks.
        actions = _flat(batch["actions"])
        policy.code.check(actions, name)
        lows.append(actions.min(axis=0))
        highs.append(actions.max(axis=0))
        latents_nd = batch["latents"][:, -size:].astype(np.float64)
        mean_d = mean_d + latents_nd.sum(axis=0)
        square_d = square_d + np.square(latents_nd).sum(axis=0)
        count += len(latents_nd)
    if not count:
        raise OptionError(f"{name} has no frames with actions that count to train on.")
    policy.code.fit(np.stack([np.min(lows, axis=0), np.max(highs, axis=0)]))
    mean_d = mean_d / count
    variance_d = np.maximum(square_d / count - np.square(mean_d), 0.0)
    for module in policy.modules():
        if callable(getattr(module, "fit", None)) and hasattr(module, "fitted"):
            module.fit(torch.as_tensor(mean_d), torch.as_tensor(variance_d))


def _flat(chunks: Array) -> Array:
    """Chunks [n, H, ...] as actions [n * H, ...]."""
    return chunks.reshape(-1, *chunks.shape[2:])


class _Average:
    """The exponential moving average of a policy's parameters."""

    def __init__(self, policy: Any, decay: float) -> None:
        self.decay = decay
        self.values = {name: parameter.detach().clone() for name, parameter in policy.named_parameters()}

    @torch.no_grad()
    def update(self, policy: Any, step: int) -> None:
        # At first it follows closely, or the weights of the start would stay in it.
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in policy.named_parameters():
            self.values[name] = self.values[name].to(parameter.device).lerp_(parameter, 1 - decay)

    @torch.no_grad()
    def put_in(self, policy: Any) -> None:
        for name, parameter in policy.named_parameters():
            parameter.copy_(self.values[name])

    @contextmanager
    def inside(self, policy: Any) -> Iterator[None]:
        """Inside, the policy has these weights."""
        own = {name: parameter.detach().clone() for name, parameter in policy.named_parameters()}
        self.put_in(policy)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in policy.named_parameters():
                    parameter.copy_(own[name])


@dataclass
class _Learning:
    """What a gradient step does, free of Lightning."""

    policy: Any
    held: Chunks
    config: DiffusionConfig
    goal: Array | None
    result: DiffusionResult

    def __post_init__(self) -> None:
        self.average = _Average(self.policy, self.config.ema)
        self._sum, self._count = 0.0, 0

    def loss(self, batch: dict[str, Array]) -> Tensor:
        device = self.policy.device
        latents = torch.as_tensor(batch["latents"]).to(device, torch.float32)
        goals = None
        if self.policy.goal_size:
            given = batch[GOAL] if self.goal is None else np.broadcast_to(self.goal, (len(latents), *self.goal.shape))
            goals = torch.as_tensor(np.ascontiguousarray(given)).to(device, torch.float32).flatten(1)
        actions, valid = (torch.as_tensor(batch[name]).to(device) for name in ("actions", "valid"))
        loss: Tensor = self.policy.loss(latents, goals, actions, valid)
        return loss

    def after_step(self, loss: Tensor) -> float | None:
        """Averages, and looks at what is held out when it is time to; gives the loss there."""
        result, every = self.result, self.config.validate_every
        result.steps += 1
        self.average.update(self.policy, result.steps)
        self._sum += float(loss)
        self._count += 1
        if result.steps % every and result.steps != self.config.steps:
            return None
        result.losses[result.steps] = self._sum / self._count
        self._sum, self._count = 0.0, 0
        if not math.isfinite(result.losses[result.steps]):
            raise OptionError(
                f"The loss at step {result.steps} is {result.losses[result.steps]}: choose a smaller learning_rate than "
                f"{self.config.learning_rate}."
            )
        if not self.held.count:
            return None
        result.validation[result.steps] = self._validate()
        return result.validation[result.steps]

    @torch.no_grad()
    def _validate(self) -> float:
        """With the same noise every time, so that two losses differ by the weights alone."""
        state = self.policy.generator.get_state()
        self.policy.set_random_seed(self.config.seed)
        total, count = 0.0, 0
        with self.average.inside(self.policy):
            for batch in self.held.batches(self.config.batch_size):
                total += float(self.loss(batch)) * len(batch["latents"])
                count += len(batch["latents"])
        self.policy.generator.set_state(state)
        return total / max(1, count)


class _Batches:
    """Batches of chunks for ever, pass after pass, in an order that the seed gives."""

    def __init__(self, frames: Chunks, size: int, seed: int) -> None:
        self.frames, self.size, self.seed = frames, size, seed

    def __iter__(self) -> Iterator[dict[str, Array]]:
        rng = np.random.default_rng(self.seed)
        while True:
            yield from self.frames.batches(self.size, rng)


def _run(learning: _Learning, frames: Chunks, *, progress: bool) -> None:
    lightning = import_lightning()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    config = learning.config
    stop = StopSignal()

    class Module(import_lightning().LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.policy = learning.policy

        def training_step(self, batch: dict[str, Array], _number: int) -> Tensor:
            loss = learning.loss(batch)
            self.log("loss", loss.detach(), prog_bar=True, batch_size=len(batch["latents"]))
            return loss

        def transfer_batch_to_device(self, batch: Any, _device: Any, _number: int) -> Any:
            return batch  # arrays, which the loss takes to the device

        def on_train_batch_end(self, outputs: Any, _batch: Any, _number: int) -> None:
            held = learning.after_step(outputs["loss"])
            if held is not None:
                self.log("held out", held, prog_bar=True, batch_size=1)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(
                self.policy.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
            )
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / config.warm_up))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    with warnings.catch_warnings(), stop:
        # Lightning's advice on workers and on logging.
        warnings.filterwarnings("ignore", module="lightning")
        trainer = lightning.Trainer(
            accelerator={"auto": "auto", "cpu": "cpu"}.get(config.device, "gpu"),
            devices=1,
            max_steps=config.steps,
            max_epochs=-1,
            gradient_clip_val=1.0,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=progress,
            callbacks=[stopping(stop, lambda _: setattr(learning.result, "stopped", True))],
        )
        trainer.fit(Module(), _Batches(frames, config.batch_size, config.seed))
