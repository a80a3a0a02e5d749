"""The study's own environments (benchmarks/study_envs.py)."""

from __future__ import annotations

import importlib
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="benchmarks/ is in the repository alone")


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("study_envs")


def white(frame: Any) -> tuple[bool, bool, bool]:
    """Whether there is a bar at the left, at the right, at the top."""
    return tuple(bool((part == 255).all()) for part in (frame[:, :30], frame[:, 130:], frame[:20]))  # type: ignore[return-value]


def test_the_cue_of_recall_is_gone_when_it_counts(study: Any) -> None:
    pytest.importorskip("vizdoom")
    sides = []
    with closing(study.Recall()) as env:
        for seed in range(6):
            frame, _ = env.reset(seed=seed)
            assert env.observation_space.contains(frame)
            side = white(frame).index(True)
            assert side in (0, 1)
            sides.append(side)
            for step in range(1, 16):
                frame, reward, terminated, truncated, _ = env.step(int(np.random.default_rng(step).integers(4)))
                assert (reward, terminated, truncated) == (0.0, False, False)
                bars = [False, False, step == 15]
                if step < 3:
                    bars[side] = True
                assert white(frame) == tuple(bars), step
            right = seed % 2 == 0
            _, reward, terminated, _, _ = env.step(1 + (side if right else 1 - side))
            assert terminated
            assert reward == (1.0 if right else -1.0)
    assert set(sides) == {0, 1}


def test_racing_is_car_racing_with_actions_held(study: Any) -> None:
    pytest.importorskip("Box2D")
    car = gym.make("CarRacing-v3", continuous=True).unwrapped
    with closing(gym.make("vpt_gym_study/Racing-v0")) as env, closing(car):
        frame, _ = env.reset(seed=3)
        seen, _ = car.reset(seed=int(np.random.Generator(np.random.PCG64(3)).integers(2**31)))
        np.testing.assert_array_equal(frame, seen)
        for action in np.random.default_rng(0).uniform((-0.2, 0, 0), (0.2, 0.5, 0.1), (20, 3)):
            frame, reward, terminated, truncated, _ = env.step(action.astype(np.float32))
            held = [car.step(action.astype(np.float32)) for _ in range(4)]
            np.testing.assert_array_equal(frame, held[-1][0])
            assert reward == pytest.approx(sum(each[1] for each in held))
        assert not terminated
        assert not truncated
        for count in range(20, 250):
            _, _, terminated, truncated, _ = env.step(np.float32([0, 0, 0.8]))
            assert not terminated
            assert truncated == (count == 249)
