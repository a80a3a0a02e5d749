"""The one door to Lightning and peft, which come with an extra."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import torch

from vpt_gym.errors import OptionError
from vpt_gym.extras import import_extra, let_torchvision_import
from vpt_gym.offline.pretraining.config import PretrainingConfig
from vpt_gym.running.stopping import StopSignal

__all__ = ["accelerator", "end_with", "import_lightning", "import_peft", "progress", "rank", "stopping"]


def import_lightning() -> Any:
    """Lightning.

    Raises:
        VPTGymError: it is not installed.
    """
    let_torchvision_import()
    return import_extra("lightning", "pretrain", "Pre-training")


def accelerator(config: PretrainingConfig) -> str:
    """Lightning's name for the config's device, where there are enough of it and they can compute so.

    Raises:
        OptionError: they are not, or cannot; or the environment says that this is a process of a larger training.
    """
    if rank() >= config.devices:
        raise OptionError(
            f"The environment (RANK, LOCAL_RANK or SLURM_PROCID) says that this is process {rank()} of a training, which is to "
            f"have {config.devices}: ask for as many devices, or unset it."
        )
    if config.devices > 1 and torch.distributed.is_available() and torch.distributed.is_initialized():
        raise OptionError(
            "A training on several devices takes a process of its own, and this one has had another: run `vpt-gym pretrain`."
        )
    there = torch.cuda.device_count()
    if config.device == "cpu" or (config.device == "auto" and not there):
        if config.precision == "16-mixed":
            raise OptionError("A CPU computes in bfloat16, not in float16: use precision bf16-mixed, or a GPU.")
        return "cpu"
    if config.devices > there:
        raise OptionError(
            f"There are {there} GPUs, and {config.devices} were asked for: ask for fewer devices, or for device cpu."
        )
    return "gpu"


def rank() -> int:
    """Which of the processes of a training on several devices this is: 0 for the one that was called and writes files.

    Lightning calls the command again for each of the others, and tells them in the environment.
    """
    found: int = import_lightning().pytorch.utilities.rank_zero_only.rank
    return found


def end_with(parent: int) -> None:
    """Ends this process when its parent is gone, also where it waits for the others on a GPU and hears nothing."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def stopping(stop: StopSignal, asked: Callable[[Any], None], patience: int | None = None) -> Any:
    """A callback of Lightning that ends a training between two steps after Ctrl-C or SIGTERM; `asked` gets the trainer first.

    Lightning itself would leave the program: with status 1 after Ctrl-C, with 0, as if all were well, after SIGTERM. And it
    would take a training that goes on by the patience that it had before.
    """

    class Stopping(import_lightning().pytorch.Callback):  # type: ignore[misc]
        def on_train_start(self, trainer: Any, _module: Any) -> None:
            stop.take_back()
            for each in trainer.early_stopping_callbacks if patience is not None else ():
                each.patience = patience

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            # One is asked and all stop at the same step, else they would wait for one another forever.
            requested = trainer.strategy.reduce_boolean_decision(stop.requested, all=False)
            if requested and not trainer.should_stop:
                asked(trainer)
                trainer.limit_val_batches = 0  # else it would validate once more
                trainer.should_stop = True

    return Stopping()


def progress(frames: int) -> Any:
    """Lightning's progress bar with frames/s; a step is of so many frames."""

    class Progress(import_lightning().pytorch.callbacks.TQDMProgressBar):  # type: ignore[misc]
        def get_metrics(self, trainer: Any, module: Any) -> dict[str, Any]:
            metrics: dict[str, Any] = super().get_metrics(trainer, module)
            metrics.pop("v_num", None)
            bar = self.train_progress_bar.format_dict
            # Not the bar's own rate, which is of `update`: Lightning sets where it stands.
            done = bar["n"] - (bar["initial"] or 0)  # None on further devices, which show no bar
            return metrics | ({"frames/s": f"{done * frames / bar['elapsed']:,.0f}"} if done and bar["elapsed"] else {})

    return Progress(refresh_rate=10)


def import_peft(user: str) -> Any:
    """peft, for low-rank adapters.

    Raises:
        VPTGymError: it is not installed.
    """
    let_torchvision_import()
    return import_extra("peft", "pretrain", user)
