from __future__ import annotations

from pathlib import Path

import pytest

from vpt_gym.cli.terminal import TerminalReporter, duration, score_words
from vpt_gym.training import Facts, Progress, Score, TrainingConfig

CONFIG = TrainingConfig(env_id="Light-v0", encoder="random:tiny", env_kwargs={"frame_skip": 4}, steps=1024)


def test_durations() -> None:
    assert [duration(s) for s in (0.4, 59.4, 60, 185, 3600, 7384)] == [
        *("0 s", "59 s", "1 min 00 s", "3 min 05 s", "1 h 00 min", "2 h 03 min")
    ]


def test_scores() -> None:
    assert score_words(Score.of([1.0, 3.0])) == "+2.0 ± 1.0 mean return over 2 episodes"
    assert score_words(Score.of([-1.0])) == "-1.0 ± 0.0 mean return over 1 episode"


def test_a_terminal_gets_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with TerminalReporter(CONFIG) as reporter:
        reporter.live = True
        reporter.progress(Progress(256, 1024, 2.0, None))
        reporter.progress(Progress(512, 1024, 4.0, 12.34))
        reporter.progress(Progress(1024, 1024, 8.0, 12.34))
        once = capsys.readouterr()
        # SB3 tells the end of the training once more after the last step.
        reporter.progress(Progress(1024, 1024, 8.0, 12.34))
        assert capsys.readouterr().err == ""
    assert once.out == ""
    err = once.err
    assert "256/1,024 steps, 128 frames/s, return -, 0:06 left" in err
    assert "50%" in err
    assert "512/1,024 steps, 128 frames/s, return +12.3, 0:04 left" in err


def test_a_log_file_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with TerminalReporter(CONFIG) as reporter:
        reporter.live = False
        for step in range(1, 1025):
            reporter.progress(Progress(step, 1024, step / 100, -1.0))
        reporter.playing("evaluation", 1, 1)
    out, err = capsys.readouterr()
    assert err == ""
    assert len(out.splitlines()) == 10
    assert out.splitlines()[-1] == "  training     1,024 of 1,024 steps, 100 frames/s, return -1.0, 0:00 left"
    assert out.splitlines()[0] == "  training     103 of 1,024 steps, 100 frames/s, return -1.0, 0:09 left"


def test_faults_are_in_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = TerminalReporter(CONFIG)
    reporter.live = False
    reporter.progress(Progress(1024, 1024, 8.0, 1.0, faults=2))
    assert "return +1.0, 2 faults, 0:00 left" in capsys.readouterr().out


def test_a_slow_run_gets_a_line_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = TerminalReporter(CONFIG)
    reporter.live = False
    for step in range(1, 11):
        reporter.progress(Progress(step, 1024, step * 30.0, None))
    assert len(capsys.readouterr().out.splitlines()) == 5


@pytest.mark.parametrize("untrained", [True, False])
def test_untrained_weights_are_called_so(untrained: bool, capsys: pytest.CaptureFixture[str]) -> None:
    TerminalReporter(CONFIG).starting(Facts("random:tiny", untrained, 2, Path("runs/x")))
    out = capsys.readouterr().out
    assert ("UNTRAINED" in out) == untrained
    for word in ("Light-v0", "frame_skip=4", "2 threads", "runs/x", "1,024 steps", "linear"):
        assert word in out
