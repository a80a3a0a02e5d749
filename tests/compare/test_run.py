"""Real matrices of small trainings."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.training.pixel_env import ENV_ID
from vpt_gym.compare import Cell, ComparisonConfig, ComparisonReporter, Standing, diagnosis, recording
from vpt_gym.compare.comparison import compare
from vpt_gym.errors import OptionError
from vpt_gym.running.files import is_claimed
from vpt_gym.training.config import FleetConfig
from vpt_gym.training.folder import RunFolder

BROKEN = f"{ENV_ID}?odd=reward&odd_from=3"
SMALL = {
    "steps": 64,
    "n_envs": 1,  # in the cell's own process: one Python less that imports torch
    "hyperparameters": {"n_steps": 32, "batch_size": 32},
    "eval_episodes": 2,
    "encoder_options": {"layer": "cnn"},
    "env_kwargs": {"as_dict": True},
}


class Listener(ComparisonReporter):
    def __init__(self) -> None:
        self.ends: list[tuple[str, Cell]] = []
        self.last: Standing | None = None

    def ended(self, cell: Cell, score: float, seconds: float, standing: Standing) -> None:
        self.ends.append(("ended", cell))

    def failed(self, cell: Cell, error: str, standing: Standing) -> None:
        self.ends.append(("failed", cell))

    def standing(self, standing: Standing) -> None:
        self.last = standing


def test_a_broken_run_does_not_stop_the_rest_and_what_is_done_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "FRAMES", 120)
    monkeypatch.setattr(recording, "AHEAD", 5)
    monkeypatch.setattr(diagnosis, "AHEAD", 5)
    soon = FleetConfig(max_failures=2)  # ten, with longer and longer waits between them, take a minute
    matrix = ComparisonConfig(
        (BROKEN, ENV_ID), ("random:mini",), tmp_path / "m", seeds=1, jobs=2, training=SMALL, fleet=soon
    )
    listener = Listener()
    result = compare(matrix, listener)
    assert sorted((how, cell.env) for how, cell in listener.ends) == [("ended", ENV_ID), ("failed", BROKEN)]
    assert listener.last is not None
    assert (listener.last.total, listener.last.done, listener.last.failed) == (2, 1, 1)
    (why,) = result.failed.values()
    assert "the reward" in why
    assert BROKEN in (matrix.out / "report.md").read_text()
    found = result.summary["environments"][ENV_ID]["diagnosis"]["latents"]
    assert set(found) == {diagnosis.REFERENCE, "random:mini"}
    assert found["random:mini"]["size"] == 256
    # What the environment tells beside the picture and the policy was not given; what never changes is nothing to ask for.
    assert all(set(values["told"]) == {"compass.0"} for values in found.values())
    assert "compass.0" in (matrix.out / "report.md").read_text()

    # The command in the log gives the same numbers.
    cell = matrix.cells()[1]
    log = cell.log.read_text().splitlines()[0]
    words = shlex.split(log.partition(": ")[2])
    assert words[1:] == ["vpt-gym", *cell.command]
    again = subprocess.run(
        [sys.executable, "-m", "vpt_gym.cli", *cell.command, "--run", str(tmp_path / "again")],
        env={**os.environ, **dict([words[0].split("=")])},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert again.returncode == 0, again.stderr
    for name in ("episodes.csv", "vecnormalize.json"):
        assert (tmp_path / "again" / name).read_text() == (cell.folder / name).read_text()
    assert (
        RunFolder(tmp_path / "again").read_config()["evaluation"] == RunFolder(cell.folder).read_config()["evaluation"]
    )

    # The same command trains what broke once more, and nothing else.
    score = RunFolder(matrix.cells()[1].folder).read_config()["evaluation"]
    listener = Listener()
    compare(matrix, listener)
    assert [(how, cell.env) for how, cell in listener.ends] == [("failed", BROKEN)]
    assert RunFolder(matrix.cells()[1].folder).read_config()["evaluation"] == score


def wait_for(what: Callable[[], bool], seconds: float = 600) -> None:
    """Waits until it is so; a machine with other work to do takes its time."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "that took too long"
        time.sleep(0.1)


def command(out: Path, steps: str) -> list[str]:
    return [
        *(sys.executable, "-m", "vpt_gym.cli", "compare", ENV_ID, "--encoders", "random:mini", "--layer", "cnn"),
        *("--seeds", "2", "--out", str(out), "--no-diagnose", "--n-envs", "2", "--n-steps", "32", "--batch-size", "32"),
        *("--eval-episodes", "2", "--steps", steps),
    ]


@contextmanager
def started(words: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A command that does not outlive the test."""
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_a_matrix_that_is_killed_leaves_no_process_and_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "m"
    first, second = (out / "cells" / "tests.training.pixel_env-Light-v0" / "random-mini" / f"seed-{n}" for n in (0, 1))
    with started(command(out, "192")) as process:
        wait_for((second / "config.json").exists)
        process.send_signal(signal.SIGKILL)
        assert is_claimed(RunFolder(second).lock)
    assert RunFolder(first).read_config()["status"] == "finished"
    done = (first / "config.json").read_bytes()
    # At once: what was under way may still be saving.
    again = subprocess.run(command(out, "192"), capture_output=True, text=True, check=False, timeout=300)
    assert again.returncode == 0, again.stderr
    assert "[2 of 2]" in again.stdout
    assert "seed 0:" not in again.stdout
    assert (first / "config.json").read_bytes() == done
    assert RunFolder(second).read_config()["status"] == "finished"


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is a signal")
def test_nobody_else_works_on_a_matrix_and_ctrl_c_saves_what_is_under_way(tmp_path: Path) -> None:
    out = tmp_path / "m"
    folder = RunFolder(out / "cells" / "tests.training.pixel_env-Light-v0" / "random-mini" / "seed-0")
    with started(command(out, "1000000")) as process:
        wait_for(folder.progress.exists)
        with pytest.raises(OptionError, match="belongs to a command that is running"):
            compare(ComparisonConfig((ENV_ID,), ("random:mini",), out, seeds=1, training=SMALL))
        process.send_signal(signal.SIGINT)
        told, _ = process.communicate(timeout=240)
        assert process.returncode == 130
    assert "the same command goes on" in told
    assert folder.read_config()["status"] == "interrupted"
    assert not is_claimed(folder.lock)
