from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.quick import quicken
from tests.bench.strangers import Stranger
from vpt_gym.bench import accuracy
from vpt_gym.cli.main import main
from vpt_gym.encoders import registry
from vpt_gym.errors import VPTGymError

ROOT = Path(__file__).parents[2]
SHORT = ("bench", "--encoder", "random:tiny", "--device", "cpu", "--batch", "2", "--seconds", "0.001", "--threads", "1")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quicken(monkeypatch.setattr)


def misused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The last line of a refusal, which comes before anything is measured."""
    with pytest.raises(SystemExit) as leaving:
        main([*SHORT, *argv])
    assert leaving.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()[-1]


def test_a_run_prints_tables_and_leaves_a_json(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*SHORT, "--precision", "float32,bfloat16", "--accuracy-steps", "4"]) == 0
    out, err = capsys.readouterr()
    (written,) = (tmp_path / "runs").glob("bench-*/bench.json")
    assert out.splitlines()[-1] == f"Every number is in {written.relative_to(tmp_path)}."
    assert "frames/s" in out
    assert "cosine min" in out
    assert err == "  measuring batch 2\n  measuring accuracy\n"
    record = json.loads(written.read_text())
    assert record["complete"] is True
    assert record["arguments"]["encoder"] == "random:tiny"
    assert list(written.parent.iterdir()) == [written]


def test_an_interrupted_run_says_so_and_exits_130(tmp_path: Path) -> None:
    target = tmp_path / "bench.json"
    code = (
        "import os, signal, sys\n"
        "from tests.bench.quick import quicken\n"
        "from vpt_gym.bench.run import Bench\n"
        "from vpt_gym.cli.main import main\n"
        "quicken()\n"
        "Bench._accuracy = lambda *_: (os.kill(os.getpid(), signal.SIGINT), _[1](0.0))\n"
        f"sys.exit(main({[*SHORT, '--precision', 'float32', '--json', str(target)]}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 130, done.stderr
    assert "INCOMPLETE" in done.stdout
    assert "frames/s" in done.stdout
    record = json.loads(target.read_text())
    assert record["complete"] is False
    assert len(record["cells"]) == 1


def test_wrong_arguments_are_one_sentence_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert "'float32,half' is not a list of any of auto, float32, tf32" in misused(
        capsys, "--precision", "float32,half"
    )
    for batch in ("0", "a,b", "1,", "8,-1", ""):
        assert f"{batch!r} is not a list of whole numbers of 1 or more" in misused(capsys, "--batch", batch)
    assert "'0' is not a whole number of 1 or more" in misused(capsys, "--threads", "0")
    assert "'0' is not a number above 0" in misused(capsys, "--seconds", "0")
    assert "'layer' is not KEY=VALUE" in misused(capsys, "--encoder-arg", "layer")
    assert "device is given twice" in misused(capsys, "--encoder-arg", "device=cpu")
    twice = misused(capsys, "--precision", "float32", "--encoder-arg", "precision=float32")
    assert "are the same option; give one of them" in twice
    assert "'3' is not 0, or a whole number of 4 or more" in misused(capsys, "--accuracy-steps", "3")
    assert "'mine' is not a list of any of minestudio" in misused(capsys, "--against", "mine")


@pytest.mark.usefixtures("quick")
def test_an_encoders_own_options_reach_it(tmp_path: Path) -> None:
    target = tmp_path / "bench.json"
    assert main([*SHORT, "--precision", "float32", "--encoder-arg", "layer=cnn", "--json", str(target)]) == 0
    record = json.loads(target.read_text())
    assert record["encoder"]["options"]["layer"] == "cnn"
    assert record["arguments"]["encoder_options"] == {"device": "cpu", "layer": "cnn"}


@pytest.mark.usefixtures("quick")
def test_a_registered_encoder_that_is_no_vpt(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(source: str, *, width: int = 5) -> Stranger:
        assert (source, width) == ("stranger:x", 7)
        return Stranger()

    monkeypatch.setitem(registry._registered, "stranger", load)
    target = tmp_path / "bench.json"
    given = ["--encoder", "stranger:x", "--encoder-arg", "width=7", "--batch", "3", "--seconds", "0.001"]
    assert main(["bench", *given, "--threads", "1", "--json", str(target)]) == 0
    assert "no choice of precision" in capsys.readouterr().out
    (cell,) = json.loads(target.read_text())["cells"]
    assert (cell["batch"], cell["candidate"]) == (3, "float32")
    assert main(["bench", *given, "--precision", "bfloat16"]) == 1
    assert "the options of this kind of encoder are width" in capsys.readouterr().err
    assert main(["bench", *given, "--device", "cpu"]) == 1


def test_wrong_files_are_refused_before_anything_is_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no film")
    assert "is not a file" in misused(capsys, "--video", str(tmp_path / "nowhere.mp4"))
    assert "holds no frame that OpenCV can read" in misused(capsys, "--video", str(text))
    assert "is a folder; name a file in it" in misused(capsys, "--json", str(tmp_path))
    assert "cannot be written" in misused(capsys, "--json", str(text / "bench.json"))


def test_a_rival_that_is_not_installed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "minestudio" else find(name))
    refusal = misused(capsys, "--against", "minestudio")
    assert "needs the package minestudio, which is not installed" in refusal
    assert "uv pip install" in refusal


def test_an_encoder_that_is_not_there_leaves_no_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*SHORT, "--encoder", "random:nano"]) == 1
    assert "random:nano" in capsys.readouterr().err
    assert list(tmp_path.glob("runs/*")) == []


@pytest.mark.usefixtures("quick")
def test_a_run_that_breaks_off_leaves_no_half_written_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(*_: object, **__: object) -> None:
        raise VPTGymError("The latents are not finite.")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(accuracy, "compare", break_off)
    assert main([*SHORT, "--precision", "float32,bfloat16"]) == 1
    (written,) = tmp_path.glob("runs/bench-*/*")
    record = json.loads(written.read_text())
    assert record["complete"] is False
    assert len(record["cells"]) == 2


def test_the_help_reads_well(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as leaving:
        main(["bench", "--help"])
    assert leaving.value.code == 0
    out = capsys.readouterr().out
    for word in ("--against", "three steps at least", "default: 1,8,64,256", "Ctrl-C", "examples:"):
        assert word in out
    assert max(map(len, out.splitlines())) < 80


def test_the_help_does_not_load_torch() -> None:
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('loaded:', [m for m in ('torch', 'stable_baselines3', 'cv2') if m in sys.modules]))\n"
        "from vpt_gym.cli.main import main\n"
        "main(['bench', '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded: []"
