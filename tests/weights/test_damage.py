"""What is left of a checkpoint after a bad download: one line that names the file and the remedy."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest
import torch

from tests.weights.checkpoints import (
    model_content,
    network,
    refusal,
    write_safetensors,
    write_weights,
)

AGAIN = "get it again from its source"
PAGE = b'<!DOCTYPE html>\n<html lang="en"><head><title>Sign in</title></head></html>\n'
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 993980184\n"
ENDINGS = ["safetensors", "weights", "ckpt"]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("content", "message", "remedy"),
    [
        (b"", "is empty", AGAIN),
        (PAGE, "is a web page", "download from a link that leads to the file itself"),
        (b"\xef\xbb\xbf \r\n<?xml version='1.0'?><Error/>", "is a web page", "download from a link"),
        (POINTER, "is a git-LFS pointer", "run `git lfs pull`"),
    ],
)
def test_what_download_tools_leave(tmp_path: Path, ending: str, content: bytes, message: str, remedy: str) -> None:
    path = tmp_path / f"model.{ending}"
    path.write_bytes(content)
    refusal(str(path), str(path), message, remedy)


@pytest.mark.parametrize("kept", [1, 7, 8, 9, 100, 20_000, -1])
def test_truncated_safetensors(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path)
    path.write_bytes(path.read_bytes()[:kept])
    refusal(str(tmp_path), str(path), "is truncated or no safetensors file", AGAIN)


@pytest.mark.parametrize("kept", [10, 1_000, 100_000, -1, -200])
@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_weights(tmp_path: Path, kept: int, zipped: bool) -> None:
    path = tmp_path / "a.weights"
    torch.save(network(), path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:kept])
    refusal(str(path), str(path), "damaged", AGAIN)


@pytest.mark.parametrize("ending", ["weights", "ckpt"])
def test_something_else_altogether(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    refusal(str(path), "was not written by torch.save", AGAIN)


def test_safetensors_under_another_ending(tmp_path: Path) -> None:
    path = Path(write_safetensors(tmp_path / "a.safetensors")).rename(tmp_path / "a.weights")
    refusal(str(path), "holds safetensors: rename it to end in .safetensors")


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_under_another_ending(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "a.safetensors"
    torch.save(network(), path, _use_new_zipfile_serialization=zipped)
    refusal(str(path), "is a PyTorch archive and not safetensors: rename it to end in .weights")


def test_weights_and_checkpoint_taken_for_one_another(tmp_path: Path) -> None:
    torch.save({"state_dict": network()}, tmp_path / "a.weights")
    refusal(str(tmp_path / "a.weights"), "is a Lightning checkpoint: rename it to end in .ckpt")
    refusal(write_weights(tmp_path / "a.ckpt"), "has no 'state_dict': if it is OpenAI's, rename it to end in .weights")


def test_archives_that_hold_no_tensors_by_name(tmp_path: Path) -> None:
    torch.save([torch.zeros(3)], tmp_path / "a.weights")
    refusal(str(tmp_path / "a.weights"), "holds list and not a dict of tensors")
    source = write_weights(tmp_path / "b.weights", network() | {"net.final_ln.bias": [0.0] * 32})
    refusal(source, "net.final_ln.bias is no plain tensor but list")
    sparse = network() | {"net.final_ln.bias": torch.zeros(32).to_sparse()}
    refusal(write_weights(tmp_path / "c.weights", sparse), "net.final_ln.bias is no plain tensor but sparse tensor")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (PAGE, "is a web page"),
        (POINTER, "is a git-LFS pointer"),
        (b"{", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "holds no dict of network arguments at ['policy_kwargs']"),
        (b'{"policy_kwargs": 3}', "holds no dict of network arguments at ['policy_kwargs']"),
        (b" " * (2**20 + 1), "1,048,577 bytes"),
    ],
)
def test_damaged_config(tmp_path: Path, content: bytes, message: str) -> None:
    write_safetensors(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(content)
    refusal(str(tmp_path), "config.json", message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(model_content())[:-50], "is damaged or no pickle"),
        (pickle.dumps(model_content())[:1], "is damaged or no pickle"),
        (b"hello", "is damaged or no pickle"),
        (b"\x80\x04R.", "is damaged or no pickle"),
        (pickle.dumps({"model": {}}), "holds no dict of network arguments at ['model']['args']['net']['args']"),
        (pickle.dumps(3), "holds no dict of network arguments"),
        (PAGE, "is a web page"),
    ],
)
def test_damaged_model(tmp_path: Path, content: bytes, message: str) -> None:
    source = write_weights(tmp_path / "a.weights")
    (tmp_path / "a.model").write_bytes(content)
    refusal(source, "a.model", message)


@pytest.mark.skipif(sys.platform == "win32", reason="a folder can be opened in no other way")
def test_file_that_cannot_be_opened(tmp_path: Path) -> None:
    # A folder in place of a file is unreadable for every user, and so is a better test than permissions are.
    (tmp_path / "a.safetensors" / "model.safetensors").mkdir(parents=True)
    refusal(str(tmp_path / "a.safetensors"), "holds no model.safetensors")
