from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tests.compare.finished import finish
from tests.training.pixel_env import ENV_ID
from vpt_gym.compare import ComparisonConfig
from vpt_gym.compare.comparison import compare
from vpt_gym.compare.results import band, results_of
from vpt_gym.errors import OptionError, VPTGymError

OTHER = f"{ENV_ID}?frame_skip=2"


def matrix(out: Path, seeds: int = 3) -> ComparisonConfig:
    return ComparisonConfig(
        (ENV_ID, OTHER), ("random:tiny", "cnn"), out, seeds=seeds, diagnose=False, training={"steps": 51_200}
    )


@pytest.fixture
def done(tmp_path: Path) -> ComparisonConfig:
    """Finished trainings: one encoder twice as good as the other in the first environment, both useless in the second."""
    config = matrix(tmp_path)
    for cell in config.cells():
        score = (10.0 if cell.encoder == "cnn" else 20.0) + cell.seed if cell.env == ENV_ID else -5.0
        finish(cell, score, seconds=300.0 if cell.encoder == "cnn" else 60.0)
    (tmp_path / "matrix.json").write_text(json.dumps(config.to_dict()))
    return config


def test_a_report_of_what_is_finished(done: ComparisonConfig) -> None:
    result = compare(done)
    assert not result.failed
    env = result.summary["environments"][ENV_ID]
    assert env["random"] == 0.0
    tiny, cnn = env["encoders"]["random:tiny"], env["encoders"]["cnn"]
    assert (tiny["iqm"]["value"], cnn["iqm"]["value"]) == (21.0, 11.0)
    assert 20 <= tiny["iqm"]["low"] < 21 < tiny["iqm"]["high"] <= 22
    assert [run["return"] for run in tiny["runs"]] == [20.0, 21.0, 22.0]
    assert result.summary["overall"]["environments"] == [ENV_ID]
    assert result.summary["overall"]["nobody_beats_random"] == [OTHER]
    assert result.summary["overall"]["encoders"]["cnn"]["value"] == pytest.approx(11 / 21)
    better = result.summary["improvement"]["encoders"]["random:tiny"]["cnn"]
    assert better == {"value": 0.75, "low": 0.75, "high": 0.75}  # certain in one environment, ties in the other
    threshold = env["threshold"]
    assert threshold["return"] == 10.5
    # A mean over the last tenth lags by half of that.
    assert threshold["encoders"]["random:tiny"]["steps"] == pytest.approx(51_200 * (10.5 / 21 + 0.05), rel=0.05)
    assert threshold["encoders"]["random:tiny"]["minutes"] == pytest.approx(0.55, rel=0.05)
    assert threshold["encoders"]["cnn"]["reached"] == 2  # the last of the three never has 10.5 as the mean of a tenth
    assert result.summary["environments"][OTHER]["threshold"] is None


def test_the_files_of_a_report(done: ComparisonConfig) -> None:
    result = compare(done)
    assert json.loads((done.out / "report.json").read_text()) == result.summary
    markdown = (done.out / "report.md").read_text()
    assert "| random:tiny (untrained) | +21.00 | [20.00, 22.00] | +21.00 | 3 | 60 |" in markdown
    assert "No encoder beats the random policy in" in markdown
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", markdown)
    assert len(pictures) == 5
    assert all((done.out / picture).stat().st_size > 5_000 for picture in pictures)
    text = (done.out / "report.html").read_text()
    assert "@media (prefers-color-scheme: dark)" in text
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.sources
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert len(page.sources) == 5


class Page(HTMLParser):
    """Notes what is open and where pictures come from."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href") and (value or "")[:1] != "#"]
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_what_an_earlier_version_did_not_record_was_its_default(done: ComparisonConfig) -> None:
    cell = done.cells()[0]
    values = json.loads((cell.folder / "config.json").read_text())
    del values["training"]["pixels"]
    (cell.folder / "config.json").write_text(json.dumps(values))
    assert compare(done).summary["cells"]["finished"] == 12


def test_another_matrix_is_refused(done: ComparisonConfig) -> None:
    with pytest.raises(OptionError, match=r"is of another matrix \(steps 51200 then, 64 now\)"):
        compare(ComparisonConfig(done.envs, done.encoders, done.out, seeds=3, training={"steps": 64}))
    (done.out / "matrix.json").write_text(json.dumps({**done.to_dict(), "training": {"steps": 64}}))
    with pytest.raises(OptionError, match=r"was trained otherwise \(steps 51200 then, 64 now\)"):
        compare(ComparisonConfig(done.envs, done.encoders, done.out, seeds=3, training={"steps": 64}))


def test_a_damaged_run_is_named(done: ComparisonConfig) -> None:
    cell = done.cells()[0]
    (cell.folder / "episodes.csv").unlink()
    with pytest.raises(VPTGymError, match="says that it is finished, but it is damaged"):
        results_of(done.cells())


def test_runs_that_did_not_finish_are_no_results(tmp_path: Path) -> None:
    config = matrix(tmp_path)
    finish(config.cells()[0], 3.0, status="interrupted")
    assert results_of(config.cells()) == []


def test_bands_pass_over_what_is_not_known() -> None:
    mean, low, high = band([np.array([np.nan, 1.0, 2.0]), np.array([np.nan, np.nan, 4.0])])
    assert np.isnan(mean[0])
    assert (mean[1], low[1], high[1]) == (1.0, 1.0, 1.0)
    assert (mean[2], low[2], high[2]) == (3.0, 2.0, 4.0)
