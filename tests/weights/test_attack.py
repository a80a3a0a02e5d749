"""The short version of benchmarks/attack.py: damage of every kind to every kind of file, and the reader that judges it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="benchmarks/ is in the repository alone"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from Linux's /proc"),
]


@pytest.fixture
def attack(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("attack")


def test_two_hundred_mutations(attack: ModuleType) -> None:
    endings = list(attack.attack(range(210), seed=7, workers=1))
    assert sorted(ending.number for ending in endings) == list(range(210))
    assert [ending for ending in endings if ending.word in attack.BAD] == []
    assert {ending.word for ending in endings} == {attack.REFUSED, attack.LOADED}
    loaded = {ending.container for ending in endings if ending.word == attack.LOADED}
    assert len(loaded) >= 5, "damage that loads, such as another value of a weight, is held against the other reader"
    assert attack.counts(endings).splitlines()[-1].startswith("| all |")


class Deaf:
    """A pipe that nobody listens at."""

    def send(self, said: object) -> None:
        pass


def test_a_wrong_network_is_seen(attack: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = attack.attack_files
    files.write(tmp_path)
    for container in files.CONTAINERS:
        assert attack.load(Deaf(), tmp_path / container, container) == (attack.LOADED, "whole")
    read = torch.frombuffer
    monkeypatch.setattr(torch, "frombuffer", lambda content, dtype: read(content, dtype=dtype) * 1.001)
    word, detail = attack.load(Deaf(), tmp_path / "weights zip", "weights zip")
    assert (word, "net." in detail) == (attack.WRONG, True)


def test_whatever_else_is_raised_is_seen(attack: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attack.attack_files.write(tmp_path)

    def broken(*_: object) -> None:
        raise RecursionError("too deep")

    monkeypatch.setattr(attack, "load_checkpoint", broken)
    assert attack.load(Deaf(), tmp_path / "model", "model") == (attack.RAISED, "RecursionError: too deep")
