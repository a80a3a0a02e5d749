"""The one door to Lightning and peft, which come with an extra."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vpt_gym.extras import import_extra, let_torchvision_import
from vpt_gym.running.stopping import StopSignal

__all__ = ["import_lightning", "import_peft", "stopping"]


def import_lightning() -> Any:
    """Lightning.

    Raises:
        VPTGymError: it is not installed.
    """
    let_torchvision_import()
    return import_extra("lightning", "pretrain", "Pre-training")


def stopping(stop: StopSignal, asked: Callable[[Any], None]) -> Any:
    """A callback of Lightning that ends a training between two steps after Ctrl-C or SIGTERM; `asked` gets the trainer first.

    Lightning itself would leave the program: with status 1 after Ctrl-C, with 0, as if all were well, after SIGTERM.
    """

    class Stopping(import_lightning().pytorch.Callback):  # type: ignore[misc]
        def on_train_start(self, _trainer: Any, _module: Any) -> None:
            stop.take_back()

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if stop.requested and not trainer.should_stop:
                asked(trainer)
                trainer.limit_val_batches = 0  # else it would validate once more
                trainer.should_stop = True

    return Stopping()


def import_peft(user: str) -> Any:
    """peft, for low-rank adapters.

    Raises:
        VPTGymError: it is not installed.
    """
    let_torchvision_import()
    return import_extra("peft", "pretrain", user)
