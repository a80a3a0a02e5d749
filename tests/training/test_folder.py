from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vpt_gym.errors import OptionError, VPTGymError
from vpt_gym.running.files import WriteError, write_atomically
from vpt_gym.training.folder import RunFolder


def test_the_default_name_is_env_and_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    folder = RunFolder.plan(None, "some.module:ALE/Pong-v5")
    assert re.fullmatch(r"runs/ALE-Pong-v5-\d{8}-\d{6}", folder.path.as_posix())
    assert not folder.path.exists()
    with folder.fresh():
        folder.config.touch()
    assert set(folder.path.iterdir()) == {folder.config}


def test_an_empty_folder_is_taken_and_a_used_one_refused(tmp_path: Path) -> None:
    with RunFolder(tmp_path).fresh():
        (tmp_path / "notes.txt").touch()
    for used in (tmp_path, tmp_path / "notes.txt"):
        with (
            pytest.raises(OptionError, match="holds something already; name a new one with --run"),
            RunFolder(used).fresh(),
        ):
            pass


@pytest.mark.parametrize("name", ["file/run", "x" * 300, "y/" + "x" * 300])
def test_a_place_that_cannot_be_made(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    made = RunFolder(tmp_path / name).fresh()
    with pytest.raises(OptionError, match=r"cannot be made: (Not a directory|File name too long)"), made:
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(VPTGymError, match=r"cannot be read|is not a run folder"):
        RunFolder.open(tmp_path / name)


def test_a_run_that_writes_nothing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="planted"), RunFolder(tmp_path / "a/b/c").fresh():
        raise ValueError("planted")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_belongs_to_one_command(tmp_path: Path) -> None:
    first, second = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    with first.fresh():
        running = f"belongs to a command that is running, process {os.getpid()}"
        with pytest.raises(OptionError, match=running), second.fresh():
            pass
        with pytest.raises(OptionError, match="belongs to a command that is running"), second.held():
            pass
        first.config.touch()
    with second.held():
        pass


HOLD = """
import sys, time
from pathlib import Path
from vpt_gym.training.folder import RunFolder
folder = RunFolder(Path(sys.argv[1]))
with folder.fresh():
    folder.write_config({"status": "running", "training": {}, "encoder": {}})
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_run_is_known_by_its_lock(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    folder = RunFolder(tmp_path)
    assert folder.status({"status": "running"}) == "running"
    with pytest.raises(OptionError, match=f"process {process.pid}"), folder.held():
        pass
    process.kill()
    process.communicate()
    assert folder.lock.exists()
    assert folder.status({"status": "running"}) == folder.status({"status": "evaluating"}) == "killed"
    assert folder.status({"status": "finished"}) == "finished"
    with folder.held():  # what a killed process has left is in nobody's way
        pass


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(VPTGymError, match="Permission denied"), RunFolder(tmp_path).fresh():
        pass


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    target = tmp_path / "model.zip"
    write_atomically(target, lambda path: path.write_text("old"))

    def fail(path: Path) -> None:
        assert path.suffix == ".zip"
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(WriteError, match=r"model\.zip cannot be written: disk full; name a place"):
        write_atomically(target, fail)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_what_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VPTGymError, match=r"holds no config\.json"):
        RunFolder.open(tmp_path)
    folder = RunFolder(tmp_path)
    folder.model.touch()
    folder.config.write_text("{")
    with pytest.raises(VPTGymError, match="not valid JSON"):
        RunFolder.open(tmp_path).read_config()
    folder.config.write_text("[" * 100_000)
    with pytest.raises(VPTGymError, match="not valid JSON"):
        folder.read_config()
    folder.write_config({"training": {}})
    with pytest.raises(VPTGymError, match="lacks the sections"):
        folder.read_config()


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("training", []),
        ("encoder", {"fingerprint": 1, "source": "x"}),
        ("random_policy", {"returns": ["x"]}),
        ("random_policy", [1]),
        ("versions", {"torch": 2}),
    ],
)
def test_a_damaged_section_is_named(section: str, value: object, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_config({"training": {}, "encoder": {"fingerprint": "f", "source": "s"}, section: value})
    with pytest.raises(VPTGymError, match=rf"'{section}' of .*config\.json is damaged"):
        folder.read_config()
