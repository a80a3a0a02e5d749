"""Checkpoints as other software writes them: wrapped, sharded, under other endings, joined and to be joined."""

from __future__ import annotations

import argparse
import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.weights.checkpoints import SMALL, heads, network, policy_kwargs, refusal, write_safetensors, write_weights
from vpt_gym.weights import load_checkpoint, load_heads, resolve, table

WRAPPERS = ("module.", "_orig_mod.", "policy.", "model.", "mine_policy.")


def assert_is_whole(source: str) -> None:
    resolved = resolve(source)
    checkpoint = load_checkpoint(resolved)
    expected = network()
    for spec in table(SMALL):
        assert torch.equal(checkpoint.tensors[spec.parameter], expected[spec.vpt_name])
    assert load_heads(resolved, 32).actions == {"buttons": 8641, "camera": 121}


def policy() -> dict[str, torch.Tensor]:
    return network() | heads(auxiliary=False)


@pytest.mark.parametrize(
    "prefix", ["".join(parts) for length in (1, 2) for parts in itertools.permutations(WRAPPERS, length)]
)
def test_wrappers_around_the_policy(tmp_path: Path, prefix: str) -> None:
    tensors = {prefix + name: tensor for name, tensor in policy().items()}
    assert_is_whole(write_safetensors(tmp_path / "a.safetensors", tensors))


def test_all_wrappers_in_every_kind_of_file(tmp_path: Path) -> None:
    prefix = "".join(WRAPPERS) + "module._orig_mod."
    tensors = {prefix + name: tensor for name, tensor in policy().items()}
    for ending, content in (
        ("weights", tensors),
        ("pt", tensors),
        ("pth", {"model_state_dict": tensors, "epoch": 3}),
        ("bin", {"module": tensors, "ds_version": "0.16"}),
        ("ckpt", {"state_dict": tensors, "epoch": 3}),
    ):
        torch.save(content, tmp_path / f"a.{ending}")
        assert_is_whole(str(tmp_path / f"a.{ending}"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("net.", "net.module."),
        ("recurrent_layer.blocks.0.", "recurrent_layer.blocks.0._orig_mod."),
        ("recurrent_layer.", "_fsdp_wrapped_module.recurrent_layer._checkpoint_wrapped_module."),
        ("net.", "_forward_module.policy.net."),
    ],
)
def test_wrappers_around_a_part(tmp_path: Path, old: str, new: str) -> None:
    tensors = {name.replace(old, new): tensor for name, tensor in policy().items()}
    resolved = resolve(write_safetensors(tmp_path / "a.safetensors", tensors))
    assert load_checkpoint(resolved).config == SMALL


def test_what_torch_itself_makes_of_the_names(tmp_path: Path) -> None:
    """A module with VPT's names, compiled and put into DataParallel."""
    module = torch.nn.Module()
    for name, tensor in policy().items():
        place = module
        *parts, last = name.split(".")
        for part in parts:
            if part not in place._modules:
                place.add_module(part, torch.nn.Module())
            place = place._modules[part]  # type: ignore[assignment]
        place.register_buffer(last, tensor)
    wrapped = torch.nn.DataParallel(torch.compile(module, backend="eager"))
    assert all(name.startswith("module._orig_mod.") for name in wrapped.state_dict())
    torch.save(wrapped.state_dict(), tmp_path / "a.pt")
    assert_is_whole(str(tmp_path / "a.pt"))


def write_shards(folder: Path, ending: str, tensors: dict[str, torch.Tensor]) -> Path:
    """As transformers' save_pretrained does it."""
    folder.mkdir(exist_ok=True)
    stem = "model" if ending == "safetensors" else "pytorch_model"
    names = list(tensors)
    places = {name: f"{stem}-0000{1 + index % 3}-of-00003.{ending}" for index, name in enumerate(names)}
    for part in set(places.values()):
        inside = {name: tensors[name] for name in names if places[name] == part}
        if ending == "safetensors":
            save_file(inside, folder / part, metadata={"format": "pt"})
        else:
            torch.save(inside, folder / part)
    index = folder / f"{stem}.{ending}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
class TestShards:
    def test_a_folder_and_its_index(self, tmp_path: Path, ending: str) -> None:
        index = write_shards(tmp_path, ending, {f"model.{name}": tensor for name, tensor in policy().items()})
        for source in (str(tmp_path), str(index)):
            assert_is_whole(source)
        (tmp_path / "config.json").write_text(json.dumps({"policy_kwargs": policy_kwargs()}))
        files = load_checkpoint(str(tmp_path)).report.files
        assert [path.name for path in files] == [
            index.name,
            *sorted(path.name for path in tmp_path.glob("*-of-*")),
            "config.json",
        ]
        (tmp_path / "config.json").write_text(json.dumps({"policy_kwargs": policy_kwargs() | {"hidsize": 64}}))
        refusal(str(tmp_path), "config.json does not describe", "hidsize is 64")

    def test_identity_follows_every_part(self, tmp_path: Path, ending: str) -> None:
        write_shards(tmp_path, ending, policy())
        before = resolve(str(tmp_path)).identity
        os.utime(next(tmp_path.glob("*-00002-of-*")), ns=(1, 1))
        assert resolve(str(tmp_path)).identity != before

    def test_parts_that_are_lost_damaged_or_exchanged(self, tmp_path: Path, ending: str) -> None:
        index = write_shards(tmp_path, ending, policy())
        first, second, _ = sorted(tmp_path.glob("*-of-*"))
        whole = first.read_bytes()
        first.write_bytes(whole[:-3])
        refusal(str(tmp_path), first.name, "truncated")
        first.write_bytes(second.read_bytes())
        refusal(str(tmp_path), index.name, f"tensors of {first.name} are none of those that the index looks for there")
        first.unlink()
        refusal(str(tmp_path), f"leads to 3 files, of which 1 are not beside it ({first.name})")
        first.write_bytes(whole)
        assert_is_whole(str(tmp_path))

    @pytest.mark.parametrize("place", ["../x.safetensors", "/etc/passwd", "a\\x.bin", "x.txt", "", "."])
    def test_indices_that_lead_elsewhere(self, tmp_path: Path, ending: str, place: str) -> None:
        index = write_shards(tmp_path, ending, policy())
        content = json.loads(index.read_text())
        content["weight_map"]["net.final_ln.bias"] = place
        index.write_text(json.dumps(content))
        refusal(str(tmp_path), f"leads to {place!r}, and the parts of a checkpoint are files")

    @pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 1}}', "nonsense", ""])
    def test_what_is_no_index(self, tmp_path: Path, ending: str, content: str) -> None:
        index = write_shards(tmp_path, ending, policy())
        index.write_text(content)
        refusal(str(tmp_path), index.name)

    def test_names_that_no_part_has(self, tmp_path: Path, ending: str) -> None:
        index = write_shards(tmp_path, ending, policy())
        content = json.loads(index.read_text())
        content["weight_map"]["net.more"] = content["weight_map"]["net.final_ln.bias"]
        index.write_text(json.dumps(content))
        refusal(str(tmp_path), "1 tensors are not in the files that the index names, such as 'net.more'")


def test_pytorch_model_bin(tmp_path: Path) -> None:
    torch.save(policy(), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps({"policy_kwargs": policy_kwargs(), "temperature": 3.0}))
    assert_is_whole(str(tmp_path))
    assert load_heads(resolve(str(tmp_path)), 32).temperature == 3.0


class Hyperparameters(argparse.Namespace):
    """A class of the training's own."""


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": policy(), "hyper_parameters": argparse.Namespace(lr=1e-4), "epoch": 3},
        {"state_dict": policy(), "hyper_parameters": {"path": Path("x"), "more": Hyperparameters(a=1)}},
    ],
)
@pytest.mark.parametrize("ending", ["ckpt", "pt"])
def test_three_lines_make_a_safe_file(tmp_path: Path, content: dict[str, Any], ending: str) -> None:
    """The message's own lines, run."""
    path = tmp_path / f"it's 1.{ending}"
    torch.save(content, path)
    message = refusal(str(path), "its pickle asks for", "where you trust it, by three lines of Python: ")
    lines = message.partition("three lines of Python: ")[2]
    assert len(lines.split("; ")) == 3
    exec(lines, {})
    assert_is_whole(str(tmp_path / f"it's 1-safe.{ending}"))


@pytest.mark.parametrize(
    ("files", "tool"),
    [
        (["latest", "zero_to_fp32.py", "checkpoint/mp_rank_00_model_states.pt"], "deepspeed.utils.zero_to_fp32"),
        (["checkpoint/zero_pp_rank_0_mp_rank_00_optim_states.pt"], "deepspeed.utils.zero_to_fp32"),
        ([".metadata", "__0_0.distcp"], "torch.distributed.checkpoint.format_utils dcp_to_torch"),
        ([".metadata", "__0_0.distcp", "meta.pt"], "lightning.pytorch.utilities.consolidate_checkpoint"),
    ],
)
def test_folders_that_a_tool_must_join(tmp_path: Path, files: list[str], tool: str) -> None:
    folder = tmp_path / "last.ckpt"
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    refusal(str(folder), tool, str(folder), "name the file that it writes")


def test_what_stands_beside_a_wrapped_policy_is_left_aside(tmp_path: Path) -> None:
    tensors = {f"mine_policy.{name}": tensor for name, tensor in policy().items()}
    others = {"metric.total": torch.zeros(3), "discriminator.net.0.weight": torch.zeros(2)}
    report = load_checkpoint(write_weights(tmp_path / "a.weights", tensors | others)).report
    assert report.heads == {"discriminator": 1, "metric": 1, "pi_head": 4, "value_head": 5}
