"""The matrix at work: checked whole, then trained cell by cell in processes, and gone on with after whatever ended it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from vpt_gym.compare.config import SHARED, Cell, ComparisonConfig, differences
from vpt_gym.compare.progress import ComparisonReporter, Running, Standing, seconds_left
from vpt_gym.encoders import load_encoder
from vpt_gym.errors import OptionError, VPTGymError
from vpt_gym.offline.recordings import digest_of_file
from vpt_gym.running.files import WriteError, claimed, is_claimed, read_json, write_json
from vpt_gym.running.options import options_of
from vpt_gym.running.stopping import StopSignal
from vpt_gym.training.chunks import open_policy
from vpt_gym.training.config import FleetConfig, TrainingConfig
from vpt_gym.training.environments import check_env
from vpt_gym.training.folder import RunFolder

__all__ = ["Trained", "train_matrix"]

PLAN: Final = "matrix.json"
POLL_SECONDS: Final = 0.2
TELL_SECONDS: Final = 1.0
REPORT_SECONDS: Final = 120.0
END_SECONDS: Final = 60.0
"""For a stopped cell to save what it has."""


@dataclass
class Trained:
    """How a call ended.

    Attributes:
        failed: cells that broke, and why.
        stopped: Ctrl-C or SIGTERM ended it early; the same call goes on from there.
    """

    failed: dict[Cell, str] = field(default_factory=dict)
    stopped: bool = False


def train_matrix(config: ComparisonConfig, reporter: ComparisonReporter, between: Callable[[], object]) -> Trained:
    """Train every cell that is not finished yet.

    Args:
        config: the matrix.
        reporter: told how it goes.
        between: called when a cell has finished, every two minutes at most.

    Raises:
        OptionError: the folder holds something else or another matrix, or an environment, an encoder or an option cannot be
            had; nothing has been trained then.
    """
    _make(config.out)
    with claimed(config.out / ".lock", f"The matrix {config.out}"), StopSignal() as stop:
        _take_folder(config)
        cells = config.cells()
        took = {cell: seconds for cell in cells if (seconds := finished_seconds(cell)) is not None}
        waiting = [cell for cell in cells if cell not in took]
        _check(config, waiting, list(took), reporter)
        write_json(config.out / PLAN, config.to_dict())
        return _Work(config, reporter, between, stop, waiting, took).go()


def finished_seconds(cell: Cell) -> float | None:
    """How long a finished cell took; None for one that is not.

    Raises:
        OptionError: its folder holds another run.
    """
    folder = RunFolder(cell.folder)
    if not folder.config.is_file():
        return None
    recorded = folder.read_config()
    wanted = cell.training.to_dict()
    # An option that the run did not know yet had what is its default now.
    defaults = {declared.name: declared.default for declared in options_of(TrainingConfig)}
    trained = {**defaults, **recorded["training"]}
    if trained != {**defaults, **wanted}:
        what = "; ".join(differences(trained, wanted, sorted({*trained, *wanted})))
        raise OptionError(
            f"{cell.folder} was trained otherwise ({what}); name another --out, or give the options of that matrix."
        )
    return float(recorded["seconds"]["total"]) if recorded.get("status") == "finished" else None


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"The folder {out} cannot be made: {error.strerror}; name another --out.") from error


def _take_folder(config: ComparisonConfig) -> None:
    plan = config.out / PLAN
    if not plan.is_file():
        if {path.name for path in config.out.iterdir()} - {".lock"}:
            raise OptionError(f"{config.out} holds something already, and no matrix; name a new folder with --out.")
        return
    remedy = "restore it, or name a new folder with --out"
    before = read_json(plan, remedy).get("training")
    if not isinstance(before, dict):
        raise VPTGymError(f"{plan} is damaged (it says nothing of trainings); {remedy}.")
    odd = differences(before, config.to_dict()["training"], [declared.name for declared in SHARED])
    if odd:
        raise OptionError(
            f"{config.out} is of another matrix ({'; '.join(odd)}); name a new folder with --out. Environments, encoders and "
            "seeds may be added to a matrix, options of its trainings not be changed."
        )


def _check(config: ComparisonConfig, waiting: list[Cell], finished: list[Cell], reporter: ComparisonReporter) -> None:
    """Opens every environment and every encoder that is still to be trained once; an encoder must be what it was."""
    for env in config.envs:
        for cell in [cell for cell in waiting if cell.env == env][:1]:
            reporter.checking(env)
            check_env(cell.training)
    for encoder in config.encoders:
        for cell in [cell for cell in waiting if cell.encoder == encoder][:1]:
            reporter.checking(encoder)
            with closing(load_encoder(cell.training.encoder, **cell.training.encoder_options)) as opened:
                fingerprint = opened.fingerprint
                if cell.policy is not None:
                    open_policy(cell.policy, opened)
                    fingerprint = digest_of_file(cell.policy)
                _check_same(encoder, fingerprint, [cell for cell in finished if cell.encoder == encoder])
    # What a killed call had under way hears of it at its next step, and saves.
    end = time.monotonic() + END_SECONDS
    for cell in waiting:
        while is_claimed(RunFolder(cell.folder).lock):
            if time.monotonic() > end:
                raise OptionError(f"{cell.folder} is being trained by another command; wait for its end, or stop it.")
            time.sleep(POLL_SECONDS)


def _check_same(encoder: str, fingerprint: str, finished: list[Cell]) -> None:
    """A name may stand for other weights than it did: seeds of the two would be averaged as if they were one encoder's."""
    for cell in finished:
        recorded = RunFolder(cell.folder).read_config()
        trained = recorded.get("policy", recorded["encoder"])["fingerprint"]
        if trained != fingerprint:
            how = "trained" if cell.policy is None else "played"
            raise OptionError(
                f"{encoder} is not what {cell.folder} was {how} with (fingerprint {fingerprint[:12]} now, {trained[:12]} "
                "then); bring back those weights, or name a new folder with --out."
            )


class _Work:
    """Processes that train cells, so many at a time."""

    def __init__(
        self,
        config: ComparisonConfig,
        reporter: ComparisonReporter,
        between: Callable[[], object],
        stop: StopSignal,
        waiting: list[Cell],
        took: dict[Cell, float],
    ) -> None:
        self.config, self.reporter, self.between, self.stop = config, reporter, between, stop
        self.waiting, self.took = waiting, took
        self.total = len(waiting) + len(took)
        self.processes: list[_Process] = []
        self.outcome = Trained()
        self.told = 0.0
        self.reported = time.monotonic()

    def go(self) -> Trained:
        try:
            while self.processes or (self.waiting and not self.stop.requested):
                while self.waiting and len(self.processes) < self.config.jobs and not self.stop.requested:
                    environment = _environment(self.config.jobs)
                    self.processes.append(_Process(self.waiting.pop(0), self.config.fleet, environment))
                for process in list(self.processes):
                    if process.ended():
                        self.processes.remove(process)
                        self.settle(process)
                if self.stop.requested:
                    self.outcome.stopped = True
                    for process in self.processes:
                        process.end()
                if time.monotonic() - self.told > TELL_SECONDS:
                    self.reporter.standing(self.standing())
                    self.told = time.monotonic()
                time.sleep(POLL_SECONDS)
        finally:
            for process in self.processes:
                process.kill()
        self.reporter.standing(self.standing())
        return self.outcome

    def settle(self, process: _Process) -> None:
        """Takes note of how a cell has ended."""
        cell = process.running.cell
        if process.code == 0:
            self.took[cell] = process.running.seconds
            evaluation = RunFolder(cell.folder).read_config()["evaluation"]
            self.reporter.ended(cell, float(evaluation["mean"]), process.running.seconds, self.standing())
            if time.monotonic() - self.reported > REPORT_SECONDS:
                self.between()
                self.reported = time.monotonic()
        elif process.ending is None:
            self.outcome.failed[cell] = process.reason()
            self.reporter.failed(cell, self.outcome.failed[cell], self.standing())

    def standing(self) -> Standing:
        running = [process.running for process in self.processes]
        left = seconds_left(self.waiting, running, self.took, self.config.jobs)
        return Standing(self.total, len(self.took), len(self.outcome.failed), running, left)


class _Process:
    """One cell's process; a thread reads what it tells."""

    def __init__(self, cell: Cell, fleet: FleetConfig, environment: dict[str, str]) -> None:
        self.running = Running(cell)
        self.error: str | None = None
        self.began = time.monotonic()
        self.ending: float | None = None
        try:
            # What an earlier call left there did not finish: a run starts from its beginning, in an empty folder.
            with suppress(FileNotFoundError):
                shutil.rmtree(cell.folder)
            cell.folder.parent.mkdir(parents=True, exist_ok=True)
            threads = environment["OMP_NUM_THREADS"]
            again = f"The same run again: OMP_NUM_THREADS={threads} vpt-gym {shlex.join(cell.command)}\n"
            cell.log.write_text(again if cell.policy is None else f"{cell.policy} plays.\n", encoding="utf-8")
        except OSError as error:
            raise WriteError.of(cell.folder, error) from error
        with cell.log.open("a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vpt_gym.compare.cell"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                # Ctrl-C in a terminal goes to the matrix, which ends its cells; they would hear of it twice.
                start_new_session=True,
            )
        facts = {"training": cell.training.to_dict(), "fleet": asdict(fleet), "folder": str(cell.folder)}
        plan = json.dumps({**facts, "policy": None if cell.policy is None else str(cell.policy)})
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended already, and says why
            self.process.stdin.write(f"{plan}\n")
            self.process.stdin.flush()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self) -> None:
        assert self.process.stdout is not None
        with closing(self.process.stdout) as lines:
            for line in lines:
                told = self.parsed(line)
                self.error = told.get("error", self.error)
                self.running.phase = told.get("phase", self.running.phase)
                self.running.steps = told.get("steps", self.running.steps)
                self.running.mean_return = told.get("mean_return", self.running.mean_return)

    def parsed(self, line: str) -> dict[str, Any]:
        """What a line tells; environments print to the same place, and what they print goes to the log."""
        with suppress(ValueError):
            told = json.loads(line)
            if isinstance(told, dict):
                return told
        with self.running.cell.log.open("a", encoding="utf-8") as log:
            log.write(line)
        return {}

    @property
    def code(self) -> int | None:
        return self.process.returncode

    def ended(self) -> bool:
        self.running.seconds = time.monotonic() - self.began
        if self.process.poll() is None:
            if self.ending is not None and time.monotonic() - self.ending > END_SECONDS:
                self.process.kill()
            return False
        self.reader.join(timeout=5)
        self.hang_up()
        return True

    def reason(self) -> str:
        if self.error is not None:
            return self.error
        last = [
            line for line in self.running.cell.log.read_text(encoding="utf-8", errors="replace").splitlines() if line
        ][-1:]
        if self.code == 1 and last:
            return f"{last[0].strip()} ({self.running.cell.log} has the traceback)"
        ended = f"by signal {-self.code}" if self.code is not None and self.code < 0 else f"with code {self.code}"
        return f"its process ended {ended}; {self.running.cell.log} has its last words."

    def end(self) -> None:
        """Asks it to save and stop, once."""
        if self.ending is None:
            self.ending = time.monotonic()
            self.hang_up()

    def hang_up(self) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.hang_up()


def _environment(jobs: int) -> dict[str, str]:
    """The environment of a cell: its share of the cores, and modules from where this process has them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    paths = os.pathsep.join(path for path in sys.path if path)
    return {
        "OMP_NUM_THREADS": str(max(1, cores // jobs)),
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "2000",
        **os.environ,
        "PYTHONPATH": paths,
    }
