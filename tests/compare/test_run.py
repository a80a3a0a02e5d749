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

import gymnasium as gym
import pytest
import torch

from tests.training.pixel_env import ENV_ID
from vpt_gym.compare import Cell, ComparisonConfig, ComparisonReporter, Standing, diagnosis, recording
from vpt_gym.compare.comparison import compare
from vpt_gym.encoders import load_encoder
from vpt_gym.errors import OptionError, WeightsError
from vpt_gym.heads import DiffusionPolicy
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


def saved_policy(path: Path, seed: int = 0) -> str:
    """A policy on the matrix's encoder, untrained; its name in a matrix."""
    encoder = load_encoder("random:mini", layer="cnn")
    torch.manual_seed(seed)
    small = {"horizon": 2, "width": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1}
    policy = DiffusionPolicy(encoder.latent_space, gym.make(ENV_ID).action_space, **small)
    policy.latents, policy.latents_from = encoder.fingerprint, encoder.describe()
    policy.save(path)
    return f"policy:{path}"


def test_a_policy_is_played_beside_what_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "FRAMES", 120)
    monkeypatch.setattr(recording, "AHEAD", 5)
    monkeypatch.setattr(diagnosis, "AHEAD", 5)
    name = saved_policy(tmp_path / "policy.safetensors")
    # Its own encoder, with its own options: those of the matrix are for the others.
    training = {**SMALL, "encoder_options": {}}
    matrix = ComparisonConfig((ENV_ID,), ("random:mini", name), tmp_path / "m", seeds=1, training=training)
    listener = Listener()
    result = compare(matrix, listener)
    assert not result.failed
    assert [cell.encoder for _, cell in listener.ends] == ["random:mini", name]
    of_env = result.summary["environments"][ENV_ID]
    (trained,), (played,) = (of_env["encoders"][each]["runs"] for each in ("random:mini", name))
    assert played["random"] == trained["random"], "the same episodes"
    assert (played["training_seconds"], of_env["encoders"][name]["training_seconds"]) == (None, None)
    assert name not in (of_env["threshold"] or {"encoders": {}})["encoders"]
    assert set(of_env["diagnosis"]["latents"]) == {diagnosis.REFERENCE, "random:mini"}
    (row,) = (line for line in result.text.splitlines() if line.startswith(f"| {name} (its encoder untrained) |"))
    assert row.endswith("| one run | " + row.split(" | ")[3] + " | 1 | - |")
    cell = matrix.cells()[1]
    recorded = RunFolder(cell.folder).read_config()
    assert recorded["encoder"]["options"]["layer"] == "cnn"
    assert len(recorded["evaluation"]["returns"]) == SMALL["eval_episodes"]

    # It is not played twice, and what is played is what was.
    listener = Listener()
    compare(matrix, listener)
    assert listener.ends == []
    saved_policy(tmp_path / "policy.safetensors", seed=1)
    with pytest.raises(OptionError, match=r"is not what .* was played with"):
        compare(ComparisonConfig((ENV_ID,), (name,), matrix.out, seeds=2, training=training))


def test_a_policy_that_cannot_be_had_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is no policy that"):
        ComparisonConfig((ENV_ID,), (f"policy:{tmp_path / 'absent'}",), tmp_path / "m")
    name = saved_policy(tmp_path / "policy.safetensors")
    policy = DiffusionPolicy.load(tmp_path / "policy.safetensors")
    policy.latents = "f" * 64
    policy.save(tmp_path / "policy.safetensors")
    with pytest.raises(OptionError, match="is for other latents"):
        compare(ComparisonConfig((ENV_ID,), (name,), tmp_path / "m", training=SMALL))
    policy.latents_from = None
    policy.save(tmp_path / "policy.safetensors")
    with pytest.raises(WeightsError, match="does not say which encoder"):
        ComparisonConfig((ENV_ID,), (name,), tmp_path / "n")


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
