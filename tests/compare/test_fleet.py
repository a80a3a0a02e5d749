"""Where the environments of a matrix are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.training.pixel_env import ENV_ID
from vpt_gym.cli.arguments import record_of
from vpt_gym.cli.main import build_parser, main
from vpt_gym.compare import ComparisonConfig
from vpt_gym.compare.comparison import compare
from vpt_gym.training import FleetConfig

FAILING = f"{ENV_ID}?odd=reward&odd_from=1"


def test_the_fleet_reaches_every_training_and_the_report(tmp_path: Path) -> None:
    fleet = FleetConfig(max_failures=1)
    training = {"steps": 64, "n_envs": 1, "eval_episodes": 1, "encoder_options": {"layer": "cnn"}}
    matrix = ComparisonConfig(
        (FAILING,), ("random:tiny",), tmp_path, seeds=1, diagnose=False, training=training, fleet=fleet
    )
    result = compare(matrix)
    (why,) = result.failed.values()
    assert "failed once, which is all that max_failures allows" in why
    assert json.loads((tmp_path / "report.json").read_text())["matrix"]["fleet"]["max_failures"] == 1
    assert "fleet='processes', deadline=120.0, max_failures=1" in (tmp_path / "report.md").read_text()


def test_the_command_takes_the_options_of_a_fleet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", ENV_ID, "--encoders", "cnn", "--out", str(tmp_path)]
    arguments = build_parser().parse_args(
        [*words, "--fleet", "ray", "--address", "auto", "--env-resource", "minecraft=1"]
    )
    fleet = record_of(FleetConfig, arguments)
    assert (fleet.fleet, fleet.address, fleet.env_resources) == ("ray", "auto", {"minecraft": 1})
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--address", "auto"])
    assert "give --fleet ray too" in capsys.readouterr().err
