from __future__ import annotations

import csv
import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stable_baselines3 import PPO

from tests.training.pixel_env import ENV_ID
from vpt_gym.errors import EnvironmentFailedError, VPTGymError
from vpt_gym.training import EvaluationConfig, Facts, FleetConfig, Progress, Reporter, Score, TrainingConfig
from vpt_gym.training.evaluate import evaluate
from vpt_gym.training.train import TrainingResult, train


def film_seconds(film: Image.Image) -> float:
    """How long a GIF runs; equal pictures in a row are one frame of it."""
    durations = []
    for index in range(film.n_frames):  # type: ignore[attr-defined]
        film.seek(index)
        durations.append(film.info["duration"])
    return sum(durations) / 1000


FILES = {
    "model.zip",
    "vecnormalize.json",
    "config.json",
    "learning_curve.png",
    "episodes.csv",
    "progress.csv",
    "tensorboard",
    "checkpoints",
}


def config(**changes: Any) -> TrainingConfig:
    values: dict[str, Any] = {
        "env_id": ENV_ID,
        "encoder": "random:mini",
        "encoder_options": {"layer": "cnn"},
        "steps": 192,
        "n_envs": 2,
        "hyperparameters": {"n_steps": 32, "batch_size": 32},
        "eval_episodes": 4,
    }
    return TrainingConfig(**{**values, **changes})


class Listener(Reporter):
    """Remembers everything; presses Ctrl-C once, at the first report of one kind."""

    def __init__(self, interrupt_in: str = "") -> None:
        self.calls: list[tuple[str, Any]] = []
        self.interrupt_in = interrupt_in

    def _note(self, name: str, value: Any) -> None:
        self.calls.append((name, value))
        if name == self.interrupt_in:
            self.interrupt_in = ""
            signal.raise_signal(signal.SIGINT)

    def starting(self, facts: Facts) -> None:
        self._note("starting", facts)

    def baseline(self, score: Score) -> None:
        self._note("baseline", score)

    def progress(self, progress: Progress) -> None:
        self._note("progress", progress)

    def playing(self, what: str, done: int, total: int) -> None:
        self._note(what, (done, total))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingResult, Listener]:
    listener = Listener()
    return train(config(), tmp_path_factory.mktemp("run"), listener), listener


def test_a_run_leaves_everything(trained: tuple[TrainingResult, Listener]) -> None:
    result, _ = trained
    assert not result.interrupted
    assert result.steps == 192
    assert {path.name for path in result.folder.iterdir()} == {*FILES, "episode.gif"}
    written = json.loads((result.folder / "config.json").read_text())
    assert written["status"] == "finished"
    assert TrainingConfig.from_dict(written["training"]) == dataclasses.replace(
        config(), hyperparameters=config().resolved
    )
    assert written["encoder"]["untrained"] is True
    assert len(written["encoder"]["fingerprint"]) == 64
    assert written["versions"]["stable-baselines3"]
    assert result.evaluation is not None
    assert written["evaluation"]["returns"] == list(result.evaluation.returns)
    assert written["random_policy"]["episodes"] == written["evaluation"]["episodes"] == 4
    assert list((result.folder / "tensorboard").glob("events.out.tfevents.*"))
    with (result.folder / "episodes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 192 // 8
    assert {row["length"] for row in rows} == {"8"}
    with (result.folder / "progress.csv").open() as file:
        assert [row["time/total_timesteps"] for row in csv.DictReader(file)] == ["64", "128", "192"]
    with Image.open(result.folder / "learning_curve.png") as curve:
        assert curve.size[0] >= 640
    with Image.open(result.folder / "episode.gif") as film:
        # Two of the four episodes, in seven steps each before the opening picture of the next, at 20 frames a second.
        assert film_seconds(film) >= 2 * 7 / 20
    assert PPO.load(result.folder / "model.zip", device="cpu").num_timesteps == 192


def test_a_run_tells_how_it_goes(trained: tuple[TrainingResult, Listener]) -> None:
    result, listener = trained
    kinds = [kind for kind, _ in listener.calls]
    assert kinds[0] == "starting"
    assert kinds.index("baseline") < kinds.index("progress")
    assert ("random policy", (4, 4)) in listener.calls
    assert listener.calls[-1] == ("evaluation", (4, 4))
    facts = listener.calls[0][1]
    assert facts.untrained
    assert facts.folder == result.folder
    last = [value for kind, value in listener.calls if kind == "progress"][-1]
    assert (last.steps, last.total) == (192, 192)
    assert -8 <= last.mean_return <= 8


def test_the_run_plays_again(trained: tuple[TrainingResult, Listener], tmp_path: Path) -> None:
    folder = trained[0].folder
    again = evaluate(EvaluationConfig(folder, episodes=3, video=tmp_path / "film.gif", deterministic=True))
    assert len(again.score.returns) == 3
    assert again.baseline == trained[0].baseline
    assert (tmp_path / "film.gif").is_file()
    assert "eval.gif" not in {path.name for path in folder.iterdir()}


def test_another_encoder_is_refused(trained: tuple[TrainingResult, Listener]) -> None:
    with pytest.raises(VPTGymError, match=r"random:mini.seed=5 is not the one .* trained on: .* --encoder"):
        evaluate(EvaluationConfig(trained[0].folder, episodes=1, encoder="random:mini?seed=5", video="none"))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_an_impossible_seed_is_refused_before_playing(seed: int, trained: tuple[TrainingResult, Listener]) -> None:
    with pytest.raises(VPTGymError, match=f"seed must be from 0 to 4294967295, not {seed}"):
        evaluate(EvaluationConfig(trained[0].folder, episodes=2, seed=seed, video="none"))


def test_the_same_seed_gives_the_same_run_and_it_learns(tmp_path: Path) -> None:
    # A linear head soon sees which half of the picture is lit; 8 is the best possible return, 0 the random policy's.
    same = config(steps=256, n_envs=1, seed=3, video="none", eval_episodes=3, hyperparameters=FAST)
    runs = [train(same, tmp_path / name) for name in ("a", "b")]
    assert runs[0].evaluation == runs[1].evaluation
    assert runs[0].baseline == runs[1].baseline
    assert (tmp_path / "a/episodes.csv").read_text() == (tmp_path / "b/episodes.csv").read_text()
    assert runs[0].video is None
    assert runs[0].evaluation is not None
    assert runs[0].evaluation.mean >= 4.0


FAST: dict[str, int | float] = {"n_steps": 64, "batch_size": 32, "n_epochs": 10, "learning_rate": 3e-3}


@pytest.mark.parametrize("moment", ["starting", "progress", "evaluation"])
def test_ctrl_c_saves_what_there_is(moment: str, tmp_path: Path) -> None:
    result = train(config(steps=100_000 if moment == "progress" else 64, n_envs=1), tmp_path, Listener(moment))
    assert result.interrupted
    assert result.evaluation is None
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["status"] == "interrupted"
    assert written["steps"] == result.steps
    assert (result.steps > 0) == (moment != "starting")
    assert PPO.load(tmp_path / "model.zip", device="cpu").num_timesteps == result.steps
    with Image.open(tmp_path / "learning_curve.png") as curve:
        curve.load()
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


def test_a_dead_worker_ends_the_run_with_what_was_learnt(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailedError, match=r"failed 2 times in a row; .*exit code 3.* is saved in"):
        train(config(env_kwargs={"die_after": 5}, n_envs=1), tmp_path, fleet=FleetConfig(max_failures=2))
    assert json.loads((tmp_path / "config.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(
    ("algo", "changes"),
    [
        ("a2c", {"env_kwargs": {"as_dict": True}, "keep": ("compass",)}),
        ("dqn", {"hyperparameters": {"learning_starts": 20}}),
        ("sac", {"env_kwargs": {"continuous": True}, "hyperparameters": {"learning_starts": 20}}),
    ],
)
def test_every_algorithm_trains(algo: str, changes: dict[str, Any], tmp_path: Path) -> None:
    values = {"steps": 40, "n_envs": 1, "eval_episodes": 1, "video": "none", "hyperparameters": {}, **changes}
    result = train(config(algo=algo, **values), tmp_path)
    assert result.steps == 40
    assert result.evaluation is not None
    assert np.isfinite(result.evaluation.mean)
