from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.training.pixel_env import ENV_ID
from vpt_gym.cli.compare import _Terminal
from vpt_gym.compare import ComparisonConfig, Standing
from vpt_gym.compare.progress import Running, seconds_left


@pytest.fixture
def matrix(tmp_path: Path) -> ComparisonConfig:
    return ComparisonConfig((ENV_ID,), ("random:tiny", "cnn"), tmp_path, seeds=2, training={"steps": 51_200})


def test_without_a_terminal_lines_say_how_far_it_is(
    matrix: ComparisonConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = matrix.cells()[:2]
    with _Terminal(matrix) as reporter:
        for seconds in (0, 30, 61, 90):
            reporter.standing(Standing(4, 1, 0, [Running(two, "training", 5_000, seconds, 2.5)], 3600.0))
        reporter.ended(one, 7.0, 125.0, Standing(4, 2, 1, [], None))
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"1 environment, 2 encoders, 2 seeds; 1 at a time, in {matrix.out}",
        f"[1 of 4] {two.words}: training, 5,000 of 51,200 steps, return +2.5; 1 h 00 min left",
        f"[2 of 4, 1 failed] {one.words}: +7.00 in 2 min 05 s; time left unknown",
    ]


def test_on_a_terminal_each_running_cell_has_a_bar(
    matrix: ComparisonConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "160")  # else as wide as the terminal around the tests
    one, two = matrix.cells()[:2]
    with _Terminal(matrix) as reporter:
        running = [Running(one, "training", 12_800, 10.0, 1.0), Running(two, "starting")]
        reporter.standing(Standing(4, 1, 0, running, 60.0))
        assert len(reporter.bars) == 3
        reporter.standing(Standing(4, 2, 0, running[1:], 30.0))
        assert len(reporter.bars) == 2
    drawn = capsys.readouterr().err
    assert f"25%|█████               | 12,800/51,200 , {one.words}: training" in drawn
    assert "cells, 1 min 00 s left" in drawn


def test_the_time_left_is_what_cells_like_these_took(matrix: ComparisonConfig) -> None:
    (tiny0, cnn0, tiny1, cnn1) = matrix.cells()
    assert seconds_left([tiny0, cnn0], [], {}, 1) is None
    took = {tiny0: 100.0, cnn0: 10.0}
    assert seconds_left([tiny1, cnn1], [], took, 1) == 110
    assert seconds_left([cnn1], [Running(tiny1, "training", 100, 30.0)], took, 1) == 80
    # Two at a time can't be through before the longest is.
    assert seconds_left([cnn1], [Running(tiny1, "training", 100, 30.0)], took, 2) == 70
    # Before anything has ended, at the pace of what runs.
    assert seconds_left([cnn0], [Running(tiny0, "training", 12_800, 30.0)], {}, 1) == 120 - 30 + 120
