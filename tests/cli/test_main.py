from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import vpt_gym
from tests.training.pixel_env import ENV_ID
from vpt_gym.cli.main import main


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line that an error ends in."""
    assert main(argv) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("vpt-gym: error: ")
    assert err.count("\n") == 1
    return err


def misused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as leaving:
        main(argv)
    assert leaving.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--help",), ["train", "eval", "inspect", "examples:", "random:tiny"]),
        (
            ("train", "--help"),
            ["--env-arg KEY=VALUE", "default: 100,000", "0.001 ppo", "--layer", "Ctrl-C", "examples:"],
        ),
        (("eval", "--help"), ["--deterministic", "RUN/eval.gif", "default: 20", "examples:"]),
        (("inspect", "--help"), ["--json", "fingerprint", "examples:"]),
    ],
)
def test_help_reads_well(
    argv: tuple[str, ...], words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as leaving:
        main(argv)
    assert leaving.value.code == 0
    out = capsys.readouterr().out
    for word in words:
        assert word in out
    assert max(map(len, out.splitlines())) < 80


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"vpt-gym {vpt_gym.__version__}\n"


@pytest.mark.parametrize("argv", [["--help"], ["inspect", "random:tiny"]])
def test_help_and_inspect_load_neither_sb3_nor_environments_nor_plots(argv: list[str]) -> None:
    code = (
        "import atexit, sys\n"
        "heavy = ('stable_baselines3', 'vizdoom', 'matplotlib', 'minestudio', 'tensorboard')\n"
        "atexit.register(lambda: print('loaded:', [m for m in heavy if m in sys.modules]))\n"
        "from vpt_gym.cli.main import main\n"
        f"main({argv})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded: []"


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vpt_gym.cli", "inspect", "random:nano"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("vpt-gym: error: ")
    assert "Traceback" not in done.stderr


def test_mistakes_of_use_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    train = ("train", ENV_ID, "--encoder", "random:tiny")
    assert "--encoder" in misused(capsys, "train", ENV_ID)
    assert "'frame_skip' is not KEY=VALUE" in misused(capsys, *train, "--env-arg", "frame_skip")
    assert "frame_skip is given twice" in misused(
        capsys, *train, "--env-arg", "frame_skip=1", "--env-arg", "frame_skip=2"
    )
    assert "'1.5' is not a whole number" in misused(capsys, *train, "--steps", "1.5")
    for endless in ("inf", "nan", "1e999"):
        assert f"'{endless}' is not a whole number" in misused(capsys, *train, "--steps", endless)
    assert "'64,x' is not a list of layer widths" in misused(capsys, *train, "--net-arch", "64,x")
    assert "'2' is not a number from 0 to 1" in misused(capsys, *train, "--gamma", "2")
    assert "'0' is not a number above 0" in misused(capsys, *train, "--learning-rate", "0")
    assert "algo must be one of ppo, a2c, dqn, sac, or the class" in misused(capsys, *train, "--algo", "nothing")
    assert "layer is given twice" in misused(capsys, *train, "--layer", "cnn", "--encoder-arg", "layer=final")
    assert "'layer' is not KEY=VALUE" in misused(capsys, *train, "--encoder-arg", "layer")
    assert "seed must be from 0 to" in misused(capsys, *train, "--seed", "5000000000")
    assert "PPO has no buffer_size" in misused(capsys, *train, "--buffer-size", "9")
    assert "= 512 is not a multiple of 7" in misused(capsys, *train, "--batch-size", "7")
    assert "must end in .gif or .mp4" in misused(capsys, "eval", "x", "--video", "film.avi")
    assert "arguments are required: ENV_ID, --encoder" in misused(capsys, "train", "--steps", "5")
    assert "--resume takes all that decides a run" in misused(capsys, "train", "--resume", "x", "--seed", "5")
    assert "address is Ray's" in misused(capsys, *train, "--address", "auto")
    assert "'moon' is not one of processes, ray" in misused(capsys, *train, "--fleet", "moon")
    assert "unrecognized arguments: --stepz" in misused(capsys, *train, "--stepz", "1")


def test_errors_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    encoder = ("--encoder", "random:tiny")
    assert "no environment 'Nowhere-v0'" in refused(capsys, "train", "Nowhere-v0", *encoder)
    assert "CartPole-v1" in refused(capsys, "train", "CartPole-v1", *encoder)
    assert "random:nano" in refused(capsys, "train", ENV_ID, "--encoder", "random:nano", "--run", str(tmp_path / "a"))
    assert not (tmp_path / "a").exists()
    (tmp_path / "used").write_text("")
    assert "name a new one with --run" in refused(capsys, "train", ENV_ID, *encoder, "--run", str(tmp_path))
    assert "this kind of encoder are device, precision, layer" in refused(
        capsys, "train", ENV_ID, *encoder, "--encoder-arg", "width=3", "--run", str(tmp_path / "a")
    )
    assert "layer must be one of cnn" in refused(capsys, "inspect", "random:tiny", "--layer", "top")
    assert not (tmp_path / "a").exists()
    assert "holds no config.json" in refused(capsys, "eval", str(tmp_path))
    assert "holds no config.json" in refused(capsys, "train", "--resume", str(tmp_path))
    assert "random:nano" in refused(capsys, "inspect", "random:nano")


def test_inspect_prints_an_aligned_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "random:tiny"]) == 0
    printed = capsys.readouterr().out
    lines = dict(line.split("  ", 1) for line in printed.splitlines() if line)
    encoder = vpt_gym.load_encoder("random:tiny", device="cpu")
    assert lines["fingerprint"].strip() == encoder.fingerprint
    assert "UNTRAINED" in lines["files"]
    assert lines["attention heads"].strip() == str(encoder.config.heads)
    assert lines["all taken"].split() == ["125", "tensors", f"{encoder.report.parameters:,}", "parameters"]
    table = [line for line in printed.splitlines() if line.endswith("parameters")]
    assert len(table) == 5
    assert len({(line.index("tensors"), len(line)) for line in table}) == 1


def test_inspect_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "random:tiny", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["untrained"] is True
    assert len(facts["taken"]) == 125
    assert facts["aside"] == []
    assert sum(part["parameters"] for part in facts["parts"].values()) == facts["parameters"]
    assert sum(part["tensors"] for part in facts["parts"].values()) == 125
