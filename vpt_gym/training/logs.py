"""Where a training's numbers go: a table, TensorBoard, and Weights & Biases where that is asked for."""

from __future__ import annotations

import csv
from typing import Any

import numpy as np
from stable_baselines3.common.logger import CSVOutputFormat, KVWriter, Logger, TensorBoardOutputFormat
from torch.utils.tensorboard import SummaryWriter

from vpt_gym.training.folder import STEPS, RunFolder

__all__ = ["WandbOutputFormat", "open_logger"]


class WandbOutputFormat(KVWriter):
    """Hands the numbers that TensorBoard gets to a run on Weights & Biases.

    Args:
        run: as `vpt_gym.running.watching.wandb_run` opens one; its owner ends it.
    """

    def __init__(self, run: Any) -> None:
        self.run = run

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Logs what has a number, over the steps of the training."""
        numbers = {
            key: value
            for key, value in key_values.items()
            if isinstance(value, (int, float, np.number)) and "tensorboard" not in (key_excluded[key] or ())
        }
        self.run.log({**numbers, STEPS: step})

    def close(self) -> None:
        """Leaves the run open."""


def open_logger(folder: RunFolder, steps: int | None, run: Any) -> Logger:
    """The logs of a training.

    Args:
        folder: its run folder.
        steps: after which a run goes on: what belongs to it is kept, and what came after its checkpoint is lost. None for a new
            one.
        run: on Weights & Biases; None for none.
    """
    lines = folder.keep_progress(steps) if steps is not None else ""
    table = CSVOutputFormat(str(folder.progress))
    if lines:
        table.file.write(lines)
        table.keys = next(csv.reader([lines.partition("\n")[0]]))
    board = TensorBoardOutputFormat(str(folder.tensorboard))
    if steps is not None:
        board.writer.close()
        board.writer = SummaryWriter(str(folder.tensorboard), purge_step=steps + 1)
    return Logger(str(folder.path), [table, board, *([WandbOutputFormat(run)] if run is not None else [])])
