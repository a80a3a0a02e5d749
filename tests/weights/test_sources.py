"""The grammar of source strings: what each means, and what is said about the rest."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.weights.checkpoints import write_safetensors
from vpt_gym.errors import WeightsError
from vpt_gym.weights import Untrained, resolve
from vpt_gym.weights import source as grammar


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """An empty working folder, and a list in place of the hub."""
    monkeypatch.chdir(tmp_path)
    asked: list[tuple[str, str | None]] = []

    def fetch(repository: str, revision: str | None, weights: Sequence[str], config: str) -> tuple[Path, None]:
        asked.append((repository, revision))
        return Path(write_safetensors(tmp_path / "cache" / weights[0])), None

    monkeypatch.setattr(grammar, "fetch", fetch)
    return asked


@pytest.mark.parametrize(
    ("source", "repository", "revision"),
    [
        ("CraftJarvis/MineStudio_VPT.rl_from_early_game_2x", "CraftJarvis/MineStudio_VPT.rl_from_early_game_2x", None),
        ("owner/name@v1.0", "owner/name", "v1.0"),
        ("owner/name@refs/pr/3", "owner/name", "refs/pr/3"),
        ("a-b/c_d.e", "a-b/c_d.e", None),
    ],
)
def test_hub_repositories(
    source: str, repository: str, revision: str | None, nowhere: list[tuple[str, str | None]]
) -> None:
    assert resolve(source).untrained is None
    assert nowhere == [(repository, revision)]


@pytest.mark.parametrize(
    ("source", "preset", "seed"),
    [("random:tiny", "tiny", 0), ("random:2x?seed=7", "2x", 7), (f"random:1x?seed={2**63 - 1}", "1x", 2**63 - 1)],
)
def test_untrained(source: str, preset: str, seed: int) -> None:
    resolved = resolve(source)
    assert resolved.untrained == Untrained(preset, seed)
    assert resolved.files == ()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("random:4x", "unknown preset '4x': choose from 1x, 2x, 3x, tiny"),
        ("random:", "unknown preset ''"),
        ("random:tiny?size=3", "unknown option 'size=3': the one option is seed"),
        ("random:tiny?seed=1&seed=2", "unknown option"),
        ("random:tiny?", "unknown option"),
        ("random:tiny?seed=", "has the seed '': a seed is a whole number from 0"),
        ("random:tiny?seed=-1", "has the seed '-1'"),
        ("random:tiny?seed=1.5", "has the seed '1.5'"),
        ("random:tiny?seed=²", "has the seed '²'"),
        (f"random:tiny?seed={2**63}", "has the seed"),
        (f"random:tiny?seed={'9' * 5000}", "has the seed"),
        ("", "names no weights"),
        ("  ", "names no weights"),
        ("./nowhere", "looks like a path, but no file or folder is there"),
        ("/nowhere/at/all", "looks like a path"),
        ("~nobody-of-this-name/x", "looks like a path"),
        ("runs/vpt.weights", "looks like a path"),
        ("runs/VPT.CKPT", "looks like a path"),
        ("a/b/c", "looks like a path"),
        ("a\\b", "looks like a path"),
        ("name", "looks like a path"),
        ("owner/name@", "neither an existing file or folder nor a hub repository"),
        ("owner/name@a b", "neither an existing"),
        ("own er/name", "neither an existing"),
        ("nowhere.weights?model=x.model", "names no weights"),
        ("owner/name?revision=x", "names no weights"),
        ("a\0b.safetensors", "looks like a path"),
        ("~\0/x", "looks like a path"),
        (f"{'a' * 300}.safetensors", "cannot be looked into (File name too long)"),
    ],
)
def test_refusals(source: str, message: str, nowhere: list[tuple[str, str | None]]) -> None:
    with pytest.raises(WeightsError) as caught:
        resolve(source)
    assert message in str(caught.value)
    assert repr(source) in str(caught.value)
    assert nowhere == []


def test_a_source_is_a_string(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"is a string, not \w+Path: give a hub"):
        resolve(tmp_path)  # type: ignore[arg-type]


def test_files_come_before_the_hub(tmp_path: Path, nowhere: list[tuple[str, str | None]]) -> None:
    write_safetensors(tmp_path / "owner" / "x.safetensors")
    write_safetensors(tmp_path / "a?b.safetensors")
    assert resolve("owner/x.safetensors").weights == tmp_path / "owner" / "x.safetensors"
    assert resolve("a?b.safetensors").weights == tmp_path / "a?b.safetensors"
    assert nowhere == []


def test_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write_safetensors(tmp_path / "x.safetensors")
    assert resolve("~/x.safetensors").weights == tmp_path / "x.safetensors"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.onnx", "ends in none of .safetensors, .weights, .ckpt, .pt, .pth, .bin"),
        ("x", "ends in none of"),
        ("x.model", "describes a network and holds no weights: name the .weights file"),
        ("x.safetensors?model=x", "the one option of a file is ?model=PATH"),
        ("x.weights?size=3", "has the unknown option 'size=3'"),
        ("x.weights?model=gone.model", "names the description 'gone.model', but no such file is there"),
    ],
)
def test_files_that_cannot_be_meant(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name.partition("?")[0]).write_bytes(b"x")
    with pytest.raises(WeightsError) as caught:
        resolve(name)
    assert message in str(caught.value)


def test_folders_without_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds no model\.safetensors; name a folder that has one"):
        resolve(str(tmp_path))
    (tmp_path / "foundation.weights").touch()
    with pytest.raises(WeightsError, match=r"it has foundation\.weights: name the file itself"):
        resolve(str(tmp_path))


def test_identity_follows_content_and_not_spelling(tmp_path: Path) -> None:
    path = tmp_path / "x" / "model.safetensors"
    write_safetensors(path)
    first = resolve("x")
    assert hash(first.identity) == hash(resolve("x/model.safetensors").identity)
    assert first.identity == resolve("x/model.safetensors").identity == resolve(str(path)).identity
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    changed = resolve("x")
    assert changed.identity != first.identity
    (tmp_path / "x" / "config.json").write_text("{}")
    assert resolve("x").identity != changed.identity
    assert resolve("random:tiny").identity == resolve("random:tiny?seed=0").identity
    assert resolve("random:tiny").identity != resolve("random:tiny?seed=1").identity
    assert resolve("random:1x").identity != resolve("random:tiny").identity
