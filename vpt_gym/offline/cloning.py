"""`clone`: behaviour cloning of a policy of Stable-Baselines3 on a dataset of latents."""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from vpt_gym.errors import OptionError
from vpt_gym.offline import keyboard
from vpt_gym.offline.batches import Frames, one_thread_less, split_episodes
from vpt_gym.offline.dataset import LatentDataset
from vpt_gym.offline.losses import (
    cloning_loss,
    counted_parts,
    divergence,
    is_vpts,
    log_likelihood,
    most_likely,
)
from vpt_gym.offline.plan import CloningConfig
from vpt_gym.offline.recordings import GOAL, Array
from vpt_gym.offline.report import CloneReporter, CloneResult, Epoch
from vpt_gym.offline.students import Student, student_of
from vpt_gym.running.stopping import StopSignal

__all__ = ["clone"]


def clone(
    model: Any,
    dataset: LatentDataset | Path | str,
    config: CloningConfig | None = None,
    *,
    goal: Array | None = None,
    teacher: Any = None,
    reporter: CloneReporter | None = None,
) -> CloneResult:
    """Trains a policy to act as in the demonstrations, in place; reinforcement learning can go on from it.

    The loss is VPT's: the negative log-likelihood of the actions, for VPT's own buttons and camera with the camera left out
    where it stands still, and null actions left out; plus `kl_coef` times the divergence from a teacher, if there is one. Whole
    episodes are held out, and the policy ends as it was in the epoch with the least loss on them. Latents are read from disk
    as they are needed.

    Args:
        model: a model of Stable-Baselines3, or its policy. Its value function is not trained.
        dataset: of latents with actions, or its folder.
        config: how; None for the defaults.
        goal: float32 [G], of all episodes, for a policy that observes a Dict of `latent` and `goal`; None where the dataset has
            a label `goal`, [T, G].
        teacher: a model or policy that the clone stays close to, by `kl_coef`.
        reporter: is told how each epoch went.

    Raises:
        OptionError: policy, teacher and dataset do not fit together, or there is nothing to train on.
        RecordingError: the dataset cannot be read.
    """
    config = config or CloningConfig()
    reporter = reporter or CloneReporter()
    if isinstance(dataset, (str, Path)):
        with LatentDataset(dataset) as opened:
            return clone(model, opened, config, goal=goal, teacher=teacher, reporter=reporter)
    goal = None if goal is None else np.asarray(goal, np.float32).reshape(-1)
    student = student_of(model, dataset, goal)
    told = goal if isinstance(getattr(teacher, "observation_space", None), gym.spaces.Dict) else None
    master = None if teacher is None else student_of(teacher, dataset, told)
    if (config.kl_coef > 0) != (master is not None):
        raise OptionError("A teacher and kl_coef above 0 go together: give both, or neither.")
    return _Cloning(student, master, dataset, config, goal, reporter).run()


class _Cloning:
    def __init__(
        self,
        student: Student,
        teacher: Student | None,
        dataset: LatentDataset,
        config: CloningConfig,
        goal: Array | None,
        reporter: CloneReporter,
    ) -> None:
        self.student = student
        self.teacher = teacher
        self.config = config
        self.goal = goal
        self.reporter = reporter
        train, held = split_episodes(dataset, config.validation, config.seed)
        told = goal is None and any(each.goal_size for each in (student, teacher) if each is not None)
        names = ["actions", *([GOAL] if told else [])]
        self.training = Frames(dataset, train, names, acted=True, stack=student.stack)
        self.validation = Frames(dataset, held, names, acted=True, stack=student.stack)
        if not self.training.count or (held and not self.validation.count):
            raise OptionError(
                f"{dataset.path} has too few frames with actions to train on: {self.training.count} in {len(train)} episodes, "
                f"and {self.validation.count} in {len(held)} that are held out."
            )
        student.fit_scaling(self.training)
        # PPO's optimizer is left as it is, for PPO.
        self.optimizer = torch.optim.AdamW(
            student.policy.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: min(1.0, (step + 1) / config.warm_up)
        )

    def run(self) -> CloneResult:
        config, policy = self.config, self.student.policy
        rng = np.random.default_rng(config.seed)
        result = CloneResult(self.training.count, self.validation.count)
        best: dict[str, Tensor] | None = None
        begin = time.monotonic()
        with StopSignal() as stop, one_thread_less():
            for number in range(1, config.epochs + 1):
                policy.set_training_mode(True)
                loss = self._train(rng, stop)
                policy.set_training_mode(False)
                if stop.requested:
                    result.stopped = True
                    break
                measures = self._validate() if self.validation.count else {"loss": loss}
                epoch = Epoch(number, loss, measures.pop("loss"), measures, time.monotonic() - begin)
                result.epochs.append(epoch)
                if not math.isfinite(epoch.validation_loss):
                    raise OptionError(
                        f"The loss of epoch {number} is {epoch.validation_loss}: choose a smaller learning_rate than "
                        f"{config.learning_rate}."
                    )
                if epoch is result.best:
                    best = copy.deepcopy(policy.state_dict())
                self.reporter.epoch(epoch, better=epoch is result.best)
                if number - result.best.number >= config.patience:
                    break
        if best is not None:
            policy.load_state_dict(best)
        result.seconds = time.monotonic() - begin
        return result

    def _train(self, rng: np.random.Generator, stop: StopSignal) -> float:
        total = torch.zeros((), device=self.student.policy.device)
        seen = 0
        for batch in self.training.batches(self.config.batch_size, rng, reuse=True):
            loss = self._loss(batch)[0]
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.schedule.step()
            count = len(batch["latents"])
            total += loss.detach() * count
            seen += count
            if stop.requested:
                break
        return float(total) / max(1, seen)

    def _loss(self, batch: dict[str, Array]) -> tuple[Tensor, list[Distribution], Tensor]:
        """The loss, what the policy makes of the latents, and the targets [N, A]."""
        targets_na = self.student.targets(batch["actions"])
        parts = self.student.parts(self.student.observations(batch, self.goal))
        likelihood_np = log_likelihood(parts, targets_na)
        counted_np = counted_parts(self.student.space, targets_na, likelihood_np.shape[1])
        # A frame by itself is a sequence of one step: the policy keeps no state, so sequences would be the same sum.
        loss = cloning_loss(likelihood_np[:, None], counted_np[:, None]).sum()
        if self.teacher is not None:
            with torch.no_grad():
                wanted = self.teacher.parts(self.teacher.observations(batch, self.goal))
            loss = loss + self.config.kl_coef * divergence(wanted, parts).mean()
        return loss, parts, targets_na

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        sums: dict[str, float] = {}
        counts: dict[str, float] = {}
        for batch in self.validation.batches(self.config.batch_size, reuse=True):
            loss, parts, targets_na = self._loss(batch)
            count = len(targets_na)
            found = measures(self.student.space, most_likely(parts).cpu().numpy(), targets_na.cpu().numpy())
            for name, (value, weight) in {"loss": (float(loss), count), **found}.items():
                sums[name] = sums.get(name, 0.0) + value * weight
                counts[name] = counts.get(name, 0.0) + weight
        return {name: sums[name] / counts[name] if counts[name] else math.nan for name in sums}


def measures(space: gym.Space[Any], likely_na: Array, targets_na: Array) -> dict[str, tuple[float, int]]:
    """How near the likeliest actions are to those of the demonstrations: a mean by name, and over how many frames.

    `accuracy` of numbers, part by part where there are several; of VPT's actions also of each key that is in its buttons, and
    `camera_error` in degrees where the demonstrator turned the camera; `error` of real-valued actions.
    """
    count = len(targets_na)
    if not isinstance(space, (gym.spaces.Discrete, gym.spaces.MultiDiscrete, gym.spaces.MultiBinary)):
        return {"error": (float(np.abs(likely_na - targets_na).mean()), count)}
    same_na = likely_na == targets_na
    found = {"accuracy": (float(same_na.all(axis=1).mean()), count)}
    if is_vpts(space):
        found["accuracy/buttons"] = (float(same_na[:, 0].mean()), count)
        ours, theirs = keyboard.pressed(likely_na[:, 0]), keyboard.pressed(targets_na[:, 0])
        found |= {f"accuracy/{key}": (float((ours[key] == theirs[key]).mean()), count) for key in theirs}
        turns = targets_na[:, 1] != keyboard.NULL_CAMERA
        degrees = np.abs(keyboard.turned(likely_na[:, 1]) - keyboard.turned(targets_na[:, 1]))[turns]
        found["camera_error"] = (float(degrees.mean()) if len(degrees) else 0.0, len(degrees))
    elif same_na.shape[1] > 1:
        found |= {f"accuracy/{part}": (float(same_na[:, part].mean()), count) for part in range(same_na.shape[1])}
    return found
