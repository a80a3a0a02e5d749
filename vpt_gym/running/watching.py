"""A run on Weights & Biases, for those who watch theirs there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from vpt_gym.errors import VPTGymError
from vpt_gym.extras import import_extra

__all__ = ["wandb_run"]

PROJECT: Final = "vpt-gym"
"""Where WANDB_PROJECT names no other."""


@contextmanager
def wandb_run(folder: Path, config: Mapping[str, Any], axis: str) -> Iterator[Any]:
    """A run on Weights & Biases under the folder's name, which ends with the block: as failed where that fails.

    What wandb writes lies under `wandb/` in the folder. A run that is logged from the same folder once more goes on.

    Args:
        folder: of the run.
        config: what decides it, JSON values.
        axis: the logged number that others are drawn over.

    Yields:
        wandb's `Run`.

    Raises:
        VPTGymError: wandb is not installed, or takes no run.
    """
    wandb: Any = import_extra("wandb", "wandb", "Logging to Weights & Biases")
    before = _id(folder)
    try:
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.resolve().name,
            dir=str(folder),
            id=before,
            resume="allow" if before else None,
            config=dict(config),
            # The terminal is the command's own; what it prints is of no use without its cursor.
            settings=wandb.Settings(console="off"),
        )
    except wandb.errors.Error as error:
        said = " ".join(str(error).split()).rstrip(".")
        raise VPTGymError(
            f"Weights & Biases takes no run ({said}); log in with: wandb login; or set WANDB_MODE=offline, which keeps the "
            f"run in {folder} for wandb sync; or leave --wandb out."
        ) from error
    run.define_metric("*", step_metric=axis)
    try:
        yield run
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()


def _id(folder: Path) -> str | None:
    """Of the run that was logged from there last, which wandb puts into the names of its folders."""
    runs = sorted((folder / "wandb").glob("*run-*-*"), key=lambda path: path.name.partition("run-")[2])
    return runs[-1].name.rpartition("-")[2] if runs else None
