"""Pickles from strangers: a planted command never runs, and the refusal names what it asked for."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.weights.checkpoints import (
    SMALL,
    model_content,
    network,
    refusal,
    write_safetensors,
    write_weights,
)
from vpt_gym.weights import load_checkpoint
from vpt_gym.weights.pickles import plain_data

REFUSED = f"pickle asks for {os.system.__module__}.system"


class Planted:
    """Pickles as a call of os.system that leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f'echo ran > "{self._trace}"',)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Where the planted command would write, after seeing that it does when nobody prevents it."""
    path = tmp_path / "trace"
    pickle.loads(pickle.dumps(Planted(path)))
    assert path.exists()
    path.unlink()
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_command_in_model(tmp_path: Path, trace: Path, protocol: int) -> None:
    content = model_content() | {"planted": Planted(trace)}
    with pytest.raises(ValueError, match=r"its pickle asks for \w+\.system, which is not plain data") as caught:
        plain_data(tmp_path / "a.model", pickle.dumps(content, protocol))
    assert "Load the .weights without it" in str(caught.value)
    assert not trace.exists()


def test_command_in_model_beside_weights(tmp_path: Path, trace: Path) -> None:
    source = write_weights(tmp_path / "a.weights")
    (tmp_path / "a.model").write_bytes(pickle.dumps(Planted(trace)))
    refusal(source, REFUSED)
    assert not trace.exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("key", ["net.planted", "pi_head.planted"])
def test_command_in_weights(tmp_path: Path, trace: Path, key: str, zipped: bool) -> None:
    path = tmp_path / "a.weights"
    torch.save(network() | {key: Planted(trace)}, path, _use_new_zipfile_serialization=zipped)
    refusal(str(path), "a.weights", REFUSED)
    assert not trace.exists()


def test_command_in_checkpoint(tmp_path: Path, trace: Path) -> None:
    path = tmp_path / "a.ckpt"
    state = {f"mine_policy.{name}": tensor for name, tensor in network().items()}
    torch.save({"state_dict": state, "callbacks": Planted(trace)}, path)
    refusal(str(path), "a.ckpt", REFUSED)
    assert not trace.exists()


def test_bare_pickle_as_weights(tmp_path: Path, trace: Path) -> None:
    path = tmp_path / "a.weights"
    path.write_bytes(pickle.dumps(Planted(trace), protocol=2))
    refusal(str(path), "a.weights")
    assert not trace.exists()


def test_bare_pickle_as_safetensors(tmp_path: Path, trace: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(pickle.dumps(Planted(trace), protocol=2))
    refusal(str(path), "a.safetensors")
    assert not trace.exists()


def test_globals_without_harm_are_named_too(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": network(), "hyper_parameters": Path("x")}, path)
    refusal(str(path), "its pickle asks for pathlib.", "convert the file where you trust it")


@pytest.mark.parametrize("innocent", [print, np.float32(1), Path("x"), {1, 2}.__class__, torch.float32])
def test_model_may_name_nothing_but_plain_data(tmp_path: Path, innocent: Any) -> None:
    with pytest.raises(ValueError, match="its pickle asks for "):
        plain_data(tmp_path / "a.model", pickle.dumps({"model": innocent}))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_comes_through(tmp_path: Path, protocol: int) -> None:
    content = model_content() | {"more": OrderedDict(a=(1, 2.5, None, True, "text", ["more"]))}
    assert plain_data(tmp_path / "a.model", pickle.dumps(content, protocol)) == content


@pytest.mark.parametrize("version", ["2.6.0", "2.9.1+cu128", "2.13.0"])
@pytest.mark.parametrize("ending", ["weights", "safetensors"])
def test_nothing_depends_on_how_safe_torchs_own_reader_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, ending: str
) -> None:
    """`torch.load(weights_only=True)` could be got round before torch 2.10 (CVE-2026-24747)."""

    def opened(*args: object, **kwargs: object) -> None:
        pytest.fail("torch opened the file")

    write = write_weights if ending == "weights" else write_safetensors
    source = write(tmp_path / f"a.{ending}")
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(torch, "load", opened)
    assert load_checkpoint(source).config == SMALL
