from __future__ import annotations

import json
from pathlib import Path

import pytest

from vpt_gym.errors import VPTGymError
from vpt_gym.running.files import check_writable, claimed_place, read_json, write_json


def test_a_check_leaves_nothing_and_changes_nothing(tmp_path: Path) -> None:
    target = tmp_path / "new" / "bench.json"
    check_writable(target)
    assert list(target.parent.iterdir()) == []
    target.write_text("old")
    check_writable(target)
    assert target.read_text() == "old"
    assert list(target.parent.iterdir()) == [target]


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VPTGymError, match="is a folder"):
        check_writable(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(VPTGymError, match="cannot be written"):
        check_writable(tmp_path / "file" / "x.json")


def test_values_that_are_no_json_leave_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "x.json"
    write_json(target, {"a": 1})
    with pytest.raises(TypeError):
        write_json(target, {"a": object()})
    assert json.loads(target.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("text", ['{"a": 1', "", "[1]", "\xff", "[" * 100_000])
def test_a_damaged_file_is_a_sentence_with_a_remedy(tmp_path: Path, text: str) -> None:
    target = tmp_path / "x.json"
    target.write_text(text, encoding="latin-1")
    with pytest.raises(VPTGymError, match=r"x\.json is (not valid JSON \(.*\)|damaged: .*); name another folder\.$"):
        read_json(target, "name another folder")
    target.write_text('{"a": 1}')
    assert read_json(target, "") == {"a": 1}


def test_one_command_at_a_time_is_at_a_place(tmp_path: Path) -> None:
    place = tmp_path / "new" / "folder"
    with claimed_place(place, folder=True):
        assert place.is_dir()
        assert list(place.iterdir()) == []
        with (
            pytest.raises(VPTGymError, match="folder belongs to a command that is running, process"),
            claimed_place(place, folder=True),
        ):
            pass
    with claimed_place(place, folder=True):
        pass
    assert list(place.parent.iterdir()) == [place]
    (tmp_path / "file").touch()
    for target, folder in ((tmp_path / "file", True), (tmp_path / "file" / "x", False)):
        with pytest.raises(VPTGymError, match="cannot be written"), claimed_place(target, folder=folder):
            pass
