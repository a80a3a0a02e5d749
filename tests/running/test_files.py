from __future__ import annotations

import json
from pathlib import Path

import pytest

from vpt_gym.errors import VPTGymError
from vpt_gym.running.files import check_writable, write_json


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
