"""The run folder: which file lies where."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from vpt_gym.errors import OptionError, VPTGymError
from vpt_gym.running.files import write_atomically, write_json

__all__ = ["RunFolder"]


class RunFolder:
    """Paths inside one run folder, and atomic writes into it.

    Every file is written beside its place and then moved there in one step, so that a reader, a crash or a second
    Ctrl-C meets either the old file or the new one. The two live logs, progress.csv and the TensorBoard file, grow line
    by line instead.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = path / "model.zip"
        self.statistics = path / "vecnormalize.pkl"
        self.config = path / "config.json"
        self.curve = path / "learning_curve.png"
        self.episodes = path / "episodes.csv"
        self.progress = path / "progress.csv"
        self.tensorboard = path / "tensorboard"

    @classmethod
    def plan(cls, path: Path | None, env_id: str) -> RunFolder:
        """A folder that `make` can make: `path`, or `runs/<env>-<time>` under the current directory.

        Raises:
            OptionError: there is something at `path` already.
        """
        if path is None:
            name = re.sub(r"[^A-Za-z0-9._-]+", "-", env_id.rpartition(":")[2])
            path = Path("runs") / f"{name}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise OptionError(f"The run folder {path} holds something already; name a new one with --run.")
        return cls(path)

    def make(self) -> None:
        """Make the folder on disk.

        Raises:
            OptionError: the place is not writable.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OptionError(f"The run folder {self.path} cannot be made: {error.strerror}.") from error

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """A folder that `vpt-gym train` has left.

        Raises:
            OptionError: it holds no config.json or no model.zip.
        """
        folder = cls(path)
        for needed in (folder.config, folder.model):
            if not needed.is_file():
                raise OptionError(
                    f"{path} is not a run folder of vpt-gym train: it holds no {needed.name}. "
                    f"Give the folder that the last lines of vpt-gym train name."
                )
        return folder

    def video(self, suffix: str, name: str = "episode") -> Path:
        """Where a video of this run lies."""
        return self.path / f"{name}.{suffix}"

    def read_config(self) -> dict[str, Any]:
        """config.json as written.

        Raises:
            VPTGymError: the file is not JSON or lacks the sections that `vpt-gym train` writes.
        """
        try:
            values = json.loads(self.config.read_text(encoding="utf-8"))
        except ValueError as error:
            raise VPTGymError(f"{self.config} is not valid JSON ({error}); restore the file or train again.") from error
        if not isinstance(values, dict) or not {"training", "encoder"} <= set(values):
            raise VPTGymError(f"{self.config} lacks the sections 'training' and 'encoder'; train again.")
        random = values.get("random_policy")
        returns = random.get("returns") if isinstance(random, dict) else None
        good = {
            "training": isinstance(values["training"], dict),
            "encoder": isinstance(values["encoder"], dict)
            and all(isinstance(values["encoder"].get(name), str) for name in ("fingerprint", "source")),
            "random_policy": random is None
            or (isinstance(returns, list) and bool(returns) and all(type(x) in (int, float) for x in returns)),
        }
        for section, whole in good.items():
            if not whole:
                raise VPTGymError(
                    f"The section {section!r} of {self.config} is damaged; restore the file or train again."
                )
        return values

    def write_config(self, values: dict[str, Any]) -> None:
        """Write config.json."""
        write_json(self.config, values)

    def write_episodes(self, rows: Iterable[Sequence[float]]) -> None:
        """Write episodes.csv: steps of the run when the episode ended, its return, its length in steps."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["steps", "return", "length"])
        writer.writerows(rows)
        write_atomically(self.episodes, lambda temporary: temporary.write_text(text.getvalue(), encoding="utf-8"))
