"""Whatever ends a command is a sentence, and whatever can still be written says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_train_eval import SMALL
from tests.training.pixel_env import ENV_ID
from vpt_gym.cli.main import main
from vpt_gym.running.files import claimed, lock_of
from vpt_gym.training.folder import RunFolder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits, locks and pipes of POSIX")

LIMITED = """
import resource, sys
from vpt_gym.cli.main import main
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sys.exit(main(sys.argv[2:]))
"""


def train_command(run: Path, *more: str) -> list[str]:
    return ["train", ENV_ID, *SMALL, "--steps", "64", "--video", "none", "--run", str(run), *more]


@pytest.mark.parametrize("size", [3_000, 40_000])
def test_no_room_for_a_file(size: int, tmp_path: Path) -> None:
    """A limit on the size of files stops the model (3 KB) or the learning curve, as a full disk would."""
    command = [sys.executable, "-c", LIMITED, str(size), *train_command(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("vpt-gym: error: ")
    assert "cannot be written: File too large; free some space there." in last
    written = json.loads((tmp_path / "run/config.json").read_text())
    assert written["status"] == "failed"
    assert "File too large" in written["error"]
    assert not [path for path in (tmp_path / "run").iterdir() if "partial" in path.name or path.name == ".lock"]


def test_a_closed_output_ends_the_run_with_its_model(tmp_path: Path) -> None:
    """`vpt-gym train | head -1`."""
    command = [sys.executable, "-m", "vpt_gym.cli", *train_command(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith(ENV_ID)
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=300) == 1
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    assert "vpt-gym: error: Standard output cannot be written: Broken pipe." in err
    folder = RunFolder.open(tmp_path / "run")
    assert folder.read_config()["status"] == "failed"


def test_an_output_without_room(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "vpt_gym.cli", "inspect", "random:tiny"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=300)
    assert done.returncode == 1
    assert done.stderr.strip() == "vpt-gym: error: Standard output cannot be written: No space left on device."


def test_a_place_that_cannot_be_had_is_found_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in (Path("/proc/run"), tmp_path / ("x" * 300)):
        # Neither this encoder nor this environment exists.
        command = ["train", "Nowhere-v0", "--encoder", "absent.weights", "--run", str(place)]
        assert main(command) == 1
        assert "cannot be made" in capsys.readouterr().err


def test_a_second_command_is_told_whose_the_place_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, numbers = RunFolder(tmp_path / "run"), tmp_path / "bench.json"
    with folder.fresh(), claimed(lock_of(numbers), "x"):
        assert main(train_command(folder.path)) == 1
        assert "belongs to a command that is running, process" in capsys.readouterr().err
        assert main(["bench", "--encoder", "random:tiny", "--batch", "1", "--json", str(numbers)]) == 1
        assert "bench.json belongs to a command that is running, process" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
