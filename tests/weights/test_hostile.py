"""Files made to hang, to kill the process or to fill the memory, and files that only look strange."""

from __future__ import annotations

import io
import json
import os
import pickle
import socket
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.weights.checkpoints import (
    SMALL,
    model_content,
    network,
    policy_kwargs,
    refusal,
    write_safetensors,
    write_weights,
)
from vpt_gym.errors import WeightsError
from vpt_gym.weights import VPTHeads, load_checkpoint
from vpt_gym.weights.pickles import plain_data

PLACE = Path("a.model")


def doubled(opcode: bytes, times: int = 60) -> bytes:
    """A pickle's value that holds another twice, which holds another twice, and so on."""
    steps = b"".join(b"h%ch%c%sq%c" % (k, k, opcode, k + 1) for k in range(times))
    return b")q\x00" + steps


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"}" + b")" + b"\x85" * 200_000 + b"Ns.", "a key of a dict or a set is tuple"),
        (b"}0" + doubled(b"\x86") + b"0}h<Ns.", "a key of a dict or a set is tuple"),
        (b"\x8f(" + doubled(b"\x86") + b"\x90.", "a key of a dict or a set is tuple"),
        (b"(" + doubled(b"\x86") + b"\x91.", "a key of a dict or a set is tuple"),
        (doubled(b"\x86") + b".", "unfolds to more than 2,000,000 parts"),
        (b")" + b"\x85" * 200_000 + b".", "nested more than 64 deep"),
        (b"](" * 100 + b"e" * 100 + b".", "nested more than 64 deep"),
        (b"]q\x00h\x00a.", "contains itself"),
        (b"}q\x00X\x01\x00\x00\x00xh\x00s.", "contains itself"),
        (b"N" * 250_001 + b".", "more than 250,000 opcodes"),
        (b"\x8b" + struct.pack("<I", 40_000) + b"\x7f" * 40_000 + b".", "a whole number of 319,999 bits"),
        (b"L" + b"9" * 5000 + b"L\n.", "4300"),
        (b"X" + struct.pack("<I", 2**31 - 1) + b"x.", "expected 2147483647 bytes"),
        (b"J\x01", "not enough data"),
        (b"h\x05.", "takes up a value 5 that it never laid down"),
        (b"R.", "its stack is empty"),
        (b"}(X\x01\x00\x00\x00xNX\x01\x00\x00\x00xNu.", "gives 'x' twice"),
        (b"K\x01\x82\x01.", "the opcode EXT1"),
        (b"P1\n.", "the opcode PERSID"),
        (b"N", "no end|pickle exhausted"),
    ],
)
def test_programs(program: bytes, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        plain_data(PLACE, b"\x80\x04" + program)


def test_an_index_of_the_memo_costs_nothing() -> None:
    assert plain_data(PLACE, b"\x80\x04Nr" + struct.pack("<I", 2**32 - 1) + b".") is None


@pytest.mark.parametrize("command", [b"cos\nsystem\n(X\x02\x00\x00\x00lstR.", b"(X\x02\x00\x00\x00lsios\nsystem\n."])
def test_commands_are_named(command: bytes) -> None:
    with pytest.raises(WeightsError, match=r"its pickle asks for os\.system"):
        plain_data(PLACE, command)


def test_attributes_of_an_ordered_dict_change_nothing() -> None:
    """Python's own unpickler sets them, so that `items` of what comes out can be a number."""
    program = b"\x80\x04\x8c\x0bcollections\x8c\x0bOrderedDict\x93)R}\x8c\x05itemsK\x05sb."
    assert pickle.loads(program).items == 5
    assert plain_data(PLACE, program) == {}


@pytest.mark.parametrize(
    "change",
    [
        {"img_shape": None},
        {"timesteps": 10**39},
        {"n_recurrence_layers": 65_536},
        {"hidsize": 2**16, "attention_heads": 2**16, "n_recurrence_layers": 2**16},
        {"impala_chans": [[[1]]] * 5},
    ],
)
def test_sizes_in_a_config_allocate_nothing(tmp_path: Path, change: dict[str, object]) -> None:
    write_safetensors(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"policy_kwargs": policy_kwargs() | change}))
    used = sys.getallocatedblocks()
    message = refusal(str(tmp_path), "config.json does not describe")
    assert len(message) < 2000
    assert sys.getallocatedblocks() - used < 50_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"temperature": 1' + "0" * 400 + "}", "whole number of 401 digits"),
        ('{"temperature": 1' + "0" * 5000 + "}", "whole number of 5,001 digits"),
        ('{"a": ' + "[" * 65 + "]" * 65 + "}", "nested more than 64 deep"),
        ('{"a": ' * 100_000, "nested more than 64 deep"),
        ('{"policy_kwargs": {"hidsize": 1}, "policy_kwargs": {"hidsize": 32}}', "gives 'policy_kwargs' twice"),
        ('{"a": "\ud800"}', "is not JSON"),
    ],
)
def test_configs(tmp_path: Path, text: str, message: str) -> None:
    write_safetensors(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    refusal(str(tmp_path), "config.json", message)


def test_brackets_in_a_string_are_no_depth(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"license": "[" * 1000 + '\\"' + "{" * 1000}))
    assert load_checkpoint(str(tmp_path)).config == SMALL


@pytest.mark.parametrize("value", [10**400, 1e400, -0.0, "2.0.0", "9" * 400, "nan"])
def test_temperatures(tmp_path: Path, value: object) -> None:
    with pytest.raises(WeightsError, match="must be a positive number"):
        VPTHeads.from_state_dict(HEAD, value)  # type: ignore[arg-type]


def test_a_temperature_in_quotes_is_openais(tmp_path: Path) -> None:
    """Their agent puts it through float()."""
    from vpt_gym.weights.declared import read_temperature

    content = model_content()
    for text in ("2.0", " 0.5\n"):
        content["model"]["args"]["pi_head_opts"]["temperature"] = text
        (tmp_path / "a.model").write_bytes(pickle.dumps(content))
        assert read_temperature(tmp_path / "a.model") == float(text)


HEAD = {
    "pi_head.linear_layer.weight": torch.zeros(3, 4),
    "pi_head.linear_layer.bias": torch.zeros(3),
    "value_head.linear.weight": torch.zeros(1, 4),
    "value_head.linear.bias": torch.zeros(1),
    "value_head.normalizer.running_mean": torch.zeros(1),
    "value_head.normalizer.running_mean_sq": torch.zeros(1),
    "value_head.normalizer.debiasing_term": torch.zeros(()),
}


@pytest.mark.parametrize("name", ["pi_head.log_std", "pi_head.camera.log_std"])
def test_a_gaussian_head_is_no_categorical_one(name: str) -> None:
    with pytest.raises(WeightsError, match=rf"has a Gaussian head, for continuous actions: {name}"):
        VPTHeads.from_state_dict(HEAD | {name: torch.zeros(3)})


def test_a_head_of_another_kind_is_named() -> None:
    with pytest.raises(WeightsError, match=r"has a head of another kind: pi_head\.mlp\.0\.weight"):
        VPTHeads.from_state_dict(HEAD | {"pi_head.mlp.0.weight": torch.zeros(3)})


def test_a_part_may_be_called_as_a_dict_space_calls_it() -> None:
    renamed = {name.replace("pi_head.", "pi_head.left-hand v2."): value for name, value in HEAD.items()}
    assert VPTHeads.from_state_dict(renamed).actions == {"left-hand v2": 3}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
class TestNoFiles:
    @pytest.mark.parametrize("name", ["x.safetensors", "x.weights", "x.ckpt", "x.pt", "model.safetensors.index.json"])
    def test_pipes(self, tmp_path: Path, name: str) -> None:
        os.mkfifo(tmp_path / name)
        refusal(str(tmp_path / name), f"{name} is a pipe and no file")

    @pytest.mark.parametrize(("weights", "beside"), [("model.safetensors", "config.json"), ("x.weights", "x.model")])
    def test_pipes_beside_weights(self, tmp_path: Path, weights: str, beside: str) -> None:
        write = write_safetensors if weights.endswith("safetensors") else write_weights
        source = write(tmp_path / weights)
        os.mkfifo(tmp_path / beside)
        refusal(source, f"{beside} is a pipe and no file")

    def test_links_devices_and_sockets(self, tmp_path: Path) -> None:
        (tmp_path / "zero.safetensors").symlink_to("/dev/zero")
        refusal(str(tmp_path / "zero.safetensors"), "is a device and no file")
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(str(tmp_path / "s.ckpt"))
            refusal(str(tmp_path / "s.ckpt"), "is a socket and no file")
        write_safetensors(tmp_path / "model.safetensors")
        (tmp_path / "config.json").symlink_to(tmp_path / "gone.json")
        refusal(str(tmp_path), "config.json cannot be read (No such file")


class TestTensors:
    def strange(self, tmp_path: Path, name: str, tensor: torch.Tensor) -> str:
        return write_weights(tmp_path / "a.weights", network() | {name: tensor})

    def test_a_view_with_gaps_is_a_tensor(self, tmp_path: Path) -> None:
        tensors = network()
        name = "net.final_ln.weight"
        source = self.strange(tmp_path, name, torch.stack([tensors[name], torch.zeros(32)], 1)[:, 0])
        assert torch.equal(load_checkpoint(source).tensors["final_norm.weight"], tensors[name])

    def test_a_view_in_the_middle_of_a_storage_is_a_tensor(self, tmp_path: Path) -> None:
        whole = torch.arange(100.0)
        source = self.strange(tmp_path, "net.final_ln.weight", whole[40:72])
        assert torch.equal(load_checkpoint(source).tensors["final_norm.weight"], whole[40:72])

    def test_parameters_are_tensors(self, tmp_path: Path) -> None:
        parameters = {name: torch.nn.Parameter(tensor) for name, tensor in network().items()}
        assert load_checkpoint(write_weights(tmp_path / "a.weights", parameters)).config == SMALL

    @pytest.mark.parametrize("zipped", [True, False])
    def test_more_numbers_than_are_stored(self, tmp_path: Path, zipped: bool) -> None:
        tensors = network() | {"net.final_ln.weight": torch.zeros(1).expand(32)}
        torch.save(tensors, tmp_path / "a.weights", _use_new_zipfile_serialization=zipped)
        refusal(
            str(tmp_path / "a.weights"),
            "net.final_ln.weight is no plain tensor but a view that shows 32 numbers where 1 are stored",
        )

    def test_beyond_the_storage(self, tmp_path: Path) -> None:
        source = Path(write_weights(tmp_path / "a.weights"))
        longer = rewritten(source, lambda name, old: old.replace(b"K \x85", b"K!\x85") if name == "data.pkl" else old)
        refusal(longer, "a tensor reaches to element 32 of storage", "which has 32")

    def test_a_negated_view(self, tmp_path: Path) -> None:
        source = self.strange(tmp_path, "net.final_ln.weight", torch._neg_view(torch.ones(32)))
        refusal(source, "net.final_ln.weight is no plain tensor but a conjugated or negated view")

    def test_no_size_at_all(self, tmp_path: Path) -> None:
        tensors = network()
        for name in tensors:
            if name.endswith(("final_ln.weight", "final_ln.bias", "lastlayer.norm.weight", "linear.layer.weight")):
                tensors[name] = torch.zeros(0)
        refusal(write_weights(tmp_path / "a.weights", tensors), "describes no VPT network: 0 numbers in final_ln")

    def test_ten_thousand_blocks(self, tmp_path: Path) -> None:
        names = {f"net.recurrent_layer.blocks.{index}.x": torch.zeros(0) for index in range(10_000)}
        refusal(write_safetensors(tmp_path / "a.safetensors", network() | names), "tensors of the network are missing")


def rewritten(source: Path, change: Callable[[str, bytes], bytes]) -> str:
    """The archive with every record put through `change`, and with checksums that are right."""
    with zipfile.ZipFile(io.BytesIO(source.read_bytes())) as archive, zipfile.ZipFile(source, "w") as out:
        for entry in archive.infolist():
            root, _, name = entry.filename.partition("/")
            out.writestr(f"{root}/{name}", change(name, archive.read(entry)))
    return str(source)


def test_openais_idm_is_called_that(tmp_path: Path) -> None:
    source = write_weights(tmp_path / "4x_idm.weights", network() | {"net.conv3d_layer.layer.weight": torch.zeros(2)})
    refusal(source, "4x_idm.weights is OpenAI's inverse dynamics model (IDM)")
