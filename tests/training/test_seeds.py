"""No two runs, and no two purposes of a run, play the same episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.training.test_train import config
from vpt_gym.rollout.workers import WorkerVecEnv
from vpt_gym.training import EvaluationConfig
from vpt_gym.training.evaluate import evaluate
from vpt_gym.training.seeds import Purpose, seeds_of
from vpt_gym.training.train import train


def test_seeds_of_a_study_are_disjoint() -> None:
    drawn = [seed for run in range(500) for purpose in Purpose for seed in seeds_of(run, purpose, 8).envs]
    assert len(set(drawn)) == len(drawn) == 500 * len(Purpose) * 8
    # What simulators keep in a signed C int.
    assert all(0 <= seed < 2**31 for seed in drawn)


def test_they_follow_from_the_runs_seed_alone() -> None:
    assert seeds_of(3, Purpose.TRAINING, 2) == seeds_of(3, Purpose.TRAINING, 2)
    assert seeds_of(3, Purpose.TRAINING, 8).envs[:2] == seeds_of(3, Purpose.TRAINING, 2).envs
    largest = seeds_of(2**32 - 1, Purpose.EVALUATION, 8)
    assert len({largest.actions, *largest.envs}) == 9


def test_a_run_and_its_evaluation_play_these(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environments are really reset with, in `train` and `eval`, over two runs of a study."""
    opened: dict[str, list[int]] = {}
    now = ""
    reset = WorkerVecEnv.reset

    def noted(self: WorkerVecEnv) -> Any:
        opened.setdefault(now, []).extend(seed for seed in self._seeds if seed is not None)
        return reset(self)

    monkeypatch.setattr(WorkerVecEnv, "reset", noted)
    for seed in (0, 1):
        now = f"train {seed}"
        train(config(seed=seed, video="none", steps=64, eval_episodes=2), tmp_path / str(seed))
        now = f"eval {seed}"
        evaluate(EvaluationConfig(tmp_path / str(seed), episodes=2, video="none"))
    for seed in (0, 1):
        training, evaluation = (seeds_of(seed, p, 2).envs for p in (Purpose.TRAINING, Purpose.EVALUATION))
        # The random policy opens on the seeds of the evaluation.
        assert opened[f"train {seed}"] == [*evaluation, *training, *evaluation]
        assert opened[f"eval {seed}"] == list(seeds_of(seed, Purpose.EVAL_COMMAND, 2).envs)
    sets = [set(seeds) for seeds in opened.values()]
    assert len(set.union(*sets)) == sum(map(len, sets)) == 2 * (2 + 2 + 2)
