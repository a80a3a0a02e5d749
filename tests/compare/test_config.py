from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.compare.finished import finish
from tests.training.pixel_env import ENV_ID
from vpt_gym.cli.arguments import record_of
from vpt_gym.cli.main import build_parser, main
from vpt_gym.compare import ComparisonConfig
from vpt_gym.compare.comparison import compare
from vpt_gym.compare.config import environment_of
from vpt_gym.compare.contestants import training_of
from vpt_gym.errors import OptionError, VPTGymError
from vpt_gym.training import TrainingConfig


def config(out: Path, **changes: Any) -> ComparisonConfig:
    return ComparisonConfig(**{"envs": (ENV_ID,), "encoders": ("random:tiny",), "out": out, "seeds": 1, **changes})


@pytest.mark.parametrize(
    ("name", "training"),
    [
        ("owner/name@v1", {"encoder": "owner/name@v1", "encoder_options": {"device": "cpu"}}),
        ("owner/name@v1@cnn", {"encoder": "owner/name@v1", "encoder_options": {"device": "cpu", "layer": "cnn"}}),
        ("random:tiny@reset", {"encoder": "reset:random:tiny", "encoder_options": {"device": "cpu"}}),
        (
            "random:tiny@block0@reset+pixels",
            {"encoder": "reset:random:tiny", "encoder_options": {"device": "cpu", "layer": "block0"}, "pixels": "cnn"},
        ),
        ("random:tiny+pixels", {"encoder": "random:tiny", "encoder_options": {"device": "cpu"}, "pixels": "cnn"}),
        ("cnn", {"encoder": "frames:128", "pixels": "cnn"}),
        ("impala:64", {"encoder": "frames:64", "pixels": "impala"}),
    ],
)
def test_names_stand_for_trainings(name: str, training: dict[str, Any]) -> None:
    assert training_of(name, {"device": "cpu"}) == training


def test_what_follows_a_question_mark_is_one_environments_own(tmp_path: Path) -> None:
    assert environment_of("Doom-v1?frame_skip=4&depth=false&name=x") == (
        "Doom-v1",
        {"frame_skip": 4, "depth": False, "name": "x"},
    )
    matrix = config(tmp_path, envs=(f"{ENV_ID}?frame_skip=2", ENV_ID), training={"env_kwargs": {"frame_skip": 3}})
    assert [cell.training.env_kwargs for cell in matrix.cells()] == [{"frame_skip": 2}, {"frame_skip": 3}]
    with pytest.raises(OptionError, match="what follows the \\? must be KEY=VALUE"):
        config(tmp_path, envs=(f"{ENV_ID}?frame_skip",))


def test_the_first_seed_of_every_pair_comes_first(tmp_path: Path) -> None:
    cells = config(tmp_path, encoders=("random:tiny", "cnn"), seeds=2).cells()
    assert [(cell.encoder, cell.seed) for cell in cells] == [
        *(("random:tiny", 0), ("cnn", 0)),
        *(("random:tiny", 1), ("cnn", 1)),
    ]
    assert len({cell.folder for cell in cells}) == 4


@pytest.mark.parametrize(
    ("name", "training"),
    [
        ("random:tiny@cnn", {}),
        ("cnn:64", {"net_arch": (64, 32), "keep": ("compass", "room"), "normalize": False, "eval_episodes": 3}),
        (
            "random:mini@reset+pixels",
            {
                "steps": 100,
                "hyperparameters": {"clip_range": 0.1, "n_steps": 32},
                "env_kwargs": {"odd": "a b", "x": [1]},
            },
        ),
    ],
)
def test_the_command_of_a_cell_is_the_cell(name: str, training: dict[str, Any], tmp_path: Path) -> None:
    (cell,) = config(tmp_path, encoders=(name,), training=training).cells()
    parsed = build_parser().parse_args(cell.command)
    assert record_of(TrainingConfig, parsed) == cell.training


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoders": ()}, "no encoders; name one"),
        ({"encoders": ("cnn", "cnn")}, "'cnn' stands twice among the encoders"),
        ({"encoders": ("./a/b", "./a-b")}, "would share a folder"),
        ({"seeds": 0}, "seeds must be a whole number of 1 or more"),
        ({"jobs": 0}, "jobs must be a whole number of 1 or more"),
        ({"training": {"steps": 0}}, "steps must be a whole number of 1 or more"),
        ({"training": {"seed": 3}}, "training has no 'seed'"),
        ({"training": {"algo": "ppo", "hyperparameters": {"colour": 1}}}, "PPO has no colour"),
    ],
)
def test_a_matrix_that_cannot_be_is_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=words):
        config(tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"envs": (ENV_ID, "Nowhere-v0")}, "Gymnasium knows no environment 'Nowhere-v0'"),
        ({"encoders": ("cnn", "nosuch:thing")}, "no kind of encoder is called 'nosuch'"),
        ({"encoders": ("cnn:20",)}, "36 or more"),
        ({"encoders": ("random:tiny@block9",)}, "layer must be one of"),
    ],
)
def test_what_cannot_be_had_is_found_before_the_first_training(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(VPTGymError, match=words):
        compare(config(tmp_path, **changes))
    assert [path.name for path in tmp_path.rglob("*")] == []


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(OptionError, match="holds something already, and no matrix; name a new folder with --out"):
        compare(config(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_weights_that_have_changed_under_a_name_are_refused(tmp_path: Path) -> None:
    matrix = config(tmp_path, seeds=2)
    first, second = matrix.cells()
    finish(first, 1.0)  # with another fingerprint than the encoder has
    (tmp_path / "matrix.json").write_text(json.dumps(matrix.to_dict()))
    with pytest.raises(
        OptionError, match=r"random:tiny is not what .* was trained with \(fingerprint .* 000000000000 then\)"
    ):
        compare(matrix)
    assert not second.folder.exists()


def test_the_command_refuses_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["compare", ENV_ID, "--encoders", "cnn,cnn", "--out", str(tmp_path)])
    assert "'cnn' stands twice" in capsys.readouterr().err
