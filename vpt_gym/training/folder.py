"""The run folder: which file lies where, whose it is, and what may be read of it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from vpt_gym.errors import OptionError, VPTGymError
from vpt_gym.running.files import claimed, is_claimed, read_json, write_atomically, write_json

__all__ = ["RunFolder"]

UNDER_WAY: Final = ("running", "evaluating")
"""Statuses of a run that has not ended; without a process that holds its lock, it was killed."""


STEPS: Final = "time/total_timesteps"
"""The column of progress.csv that says when a line was written."""


class RunFolder:
    """Paths inside one run folder, and atomic writes into it.

    Every file is written beside its place and then moved there in one step, so that a reader, a crash or a second
    Ctrl-C meets either the old file or the new one. The two live logs, progress.csv and the TensorBoard file, grow line
    by line instead. While a command writes into it, it holds the folder's lock.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = path / "model.zip"
        self.scaling = path / "vecnormalize.json"
        self.pickled_scaling = path / "vecnormalize.pkl"
        self.config = path / "config.json"
        self.curve = path / "learning_curve.png"
        self.episodes = path / "episodes.csv"
        self.progress = path / "progress.csv"
        self.tensorboard = path / "tensorboard"
        self.checkpoints = path / "checkpoints"
        self.bad_frames = path / "non_finite.npz"
        self.lock = path / ".lock"

    @classmethod
    def plan(cls, path: Path | None, env_id: str) -> RunFolder:
        """A folder for `fresh`: `path`, or `runs/<env>-<time>` under the current directory."""
        if path is None:
            name = re.sub(r"[^A-Za-z0-9._-]+", "-", env_id.rpartition(":")[2])
            path = Path("runs") / f"{name}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
        return cls(path)

    @contextmanager
    def fresh(self) -> Iterator[None]:
        """Makes the folder and holds it; behind it, removes again what was made if nothing was written.

        Raises:
            OptionError: there is something in it already, another command holds it, or it cannot be made or written to.
        """
        made: list[Path] = []
        try:
            try:
                made += [place for place in (self.path, *self.path.parents) if not place.exists()]
                self._check_empty()
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OptionError(f"The run folder {self.path} cannot be made: {error.strerror}.") from error
            with self.held():
                # Another run may have begun and ended since.
                self._check_empty()
                yield
        finally:
            for place in made:
                with suppress(OSError):  # it holds the run, or was never made
                    place.rmdir()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds the folder: nobody else writes into it meanwhile.

        Raises:
            OptionError: another command holds it.
            WriteError: it cannot be written to.
        """
        with claimed(self.lock, f"The run folder {self.path}"):
            yield

    def _check_empty(self) -> None:
        if self.path.exists() and (not self.path.is_dir() or set(self.path.iterdir()) - {self.lock}):
            raise OptionError(f"The run folder {self.path} holds something already; name a new one with --run.")

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """A folder that `vpt-gym train` has left, or one that `vpt-gym push` has made of it, with safetensors as its model.

        Raises:
            OptionError: it holds no config.json or no model.zip.
        """
        folder = cls(path)
        for needed in (folder.config, folder.model):
            try:
                there = needed.is_file()
                published = [] if there else list(path.glob("*.safetensors"))
            except OSError as error:
                raise OptionError(f"{path} cannot be read: {error.strerror}; name a run folder.") from error
            if needed == folder.model and len(published) == 1:
                folder.model = published[0]
            elif not there:
                raise OptionError(
                    f"{path} is not a run folder of vpt-gym train: it holds no {needed.name}. "
                    f"Give the folder that the last lines of vpt-gym train name."
                )
        return folder

    def keep_progress(self, steps: int) -> str:
        """The lines of progress.csv that were written up to a step, with the heading; empty where there are none."""
        if not self.progress.is_file():
            return ""
        with self.progress.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        if not rows or STEPS not in rows[0]:
            return ""
        at = rows[0].index(STEPS)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(rows[0])
        # What was under way when the process was killed may be half a line.
        writer.writerows(
            row for row in rows[1:] if len(row) == len(rows[0]) and row[at].isdigit() and int(row[at]) <= steps
        )
        return text.getvalue()

    def video(self, suffix: str, name: str = "episode") -> Path:
        """Where a video of this run lies."""
        return self.path / f"{name}.{suffix}"

    def status(self, recorded: dict[str, Any]) -> str:
        """How the run stands: what its config says, or `killed` where it says that it goes on and no process holds it."""
        status = str(recorded.get("status", "unknown"))
        return "killed" if status in UNDER_WAY and not is_claimed(self.lock) else status

    def read_config(self) -> dict[str, Any]:
        """config.json as written.

        Raises:
            VPTGymError: the file is not JSON or lacks the sections that `vpt-gym train` writes.
        """
        values = read_json(self.config, "restore the file or train again")
        if not {"training", "encoder"} <= set(values):
            raise VPTGymError(f"{self.config} lacks the sections 'training' and 'encoder'; train again.")
        random = values.get("random_policy")
        returns = random.get("returns") if isinstance(random, dict) else None
        versions = values.get("versions", {})
        good = {
            "training": isinstance(values["training"], dict),
            "encoder": isinstance(values["encoder"], dict)
            and all(isinstance(values["encoder"].get(name), str) for name in ("fingerprint", "source")),
            "random_policy": random is None
            or (isinstance(returns, list) and bool(returns) and all(type(x) in (int, float) for x in returns)),
            "versions": isinstance(versions, dict) and all(isinstance(version, str) for version in versions.values()),
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
