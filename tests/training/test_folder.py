from __future__ import annotations

import re
from pathlib import Path

import pytest

from vpt_gym.errors import VPTGymError
from vpt_gym.running.files import write_atomically
from vpt_gym.training.folder import RunFolder


def test_the_default_name_is_env_and_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    folder = RunFolder.plan(None, "some.module:ALE/Pong-v5")
    assert re.fullmatch(r"runs/ALE-Pong-v5-\d{8}-\d{6}", folder.path.as_posix())
    assert not folder.path.exists()
    folder.make()
    assert folder.path.is_dir()


def test_an_empty_folder_is_taken_and_a_used_one_refused(tmp_path: Path) -> None:
    assert RunFolder.plan(tmp_path, "x").path == tmp_path
    (tmp_path / "notes.txt").touch()
    with pytest.raises(VPTGymError, match="holds something already; name a new one with --run"):
        RunFolder.plan(tmp_path, "x")
    with pytest.raises(VPTGymError, match="holds something already"):
        RunFolder.plan(tmp_path / "notes.txt", "x")


def test_a_place_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(VPTGymError, match="cannot be made"):
        RunFolder(tmp_path / "file" / "run").make()


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    target = tmp_path / "model.zip"
    write_atomically(target, lambda path: path.write_text("old"))

    def fail(path: Path) -> None:
        assert path.suffix == ".zip"
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
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
    ],
)
def test_a_damaged_section_is_named(section: str, value: object, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_config({"training": {}, "encoder": {"fingerprint": "f", "source": "s"}, section: value})
    with pytest.raises(VPTGymError, match=rf"'{section}' of .*config\.json is damaged"):
        folder.read_config()
