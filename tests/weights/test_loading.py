"""Every kind of source gives the same network, in the wanted precision."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch

from tests.weights.checkpoints import (
    SMALL,
    heads,
    model_content,
    network,
    policy_kwargs,
    refusal,
    write_safetensors,
    write_weights,
)
from vpt_gym.config import PRESETS
from vpt_gym.weights import Checkpoint, load_checkpoint, resolve, table


def assert_is_small(checkpoint: Checkpoint) -> None:
    assert checkpoint.config == SMALL
    expected = network()
    assert list(checkpoint.tensors) == [spec.parameter for spec in table(SMALL)]
    for spec in table(SMALL):
        assert torch.equal(checkpoint.tensors[spec.parameter], expected[spec.vpt_name])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_safetensors(tmp_path / "model.safetensors")
    return tmp_path


def test_folder_without_config(folder: Path) -> None:
    checkpoint = load_checkpoint(str(folder))
    assert_is_small(checkpoint)
    assert checkpoint.report.files == (folder / "model.safetensors",)
    assert checkpoint.source == str(folder)


def test_folder_with_config_of_more_keys_than_the_networks(folder: Path) -> None:
    extra = {"action_space": None, "temperature": 2.0, "hidsize": 7}
    (folder / "config.json").write_text(json.dumps({"policy_kwargs": policy_kwargs() | {"new_option": 3}} | extra))
    checkpoint = load_checkpoint(str(folder))
    assert_is_small(checkpoint)
    assert checkpoint.report.files == (folder / "model.safetensors", folder / "config.json")


def test_config_that_says_nothing_about_the_network(folder: Path) -> None:
    (folder / "config.json").write_text('{"license": "mit"}')
    assert_is_small(load_checkpoint(str(folder)))


def test_config_belongs_to_model_safetensors_alone(folder: Path) -> None:
    (folder / "config.json").write_text("no JSON")
    write_safetensors(folder / "other.safetensors")
    assert_is_small(load_checkpoint(str(folder / "other.safetensors")))
    refusal(str(folder / "model.safetensors"), "is not JSON")


def test_openai_weights_alone_and_with_model(tmp_path: Path) -> None:
    source = write_weights(tmp_path / "foundation-model-1x.weights")
    alone = load_checkpoint(source)
    assert_is_small(alone)
    model = tmp_path / "foundation-model-1x.model"
    model.write_bytes(pickle.dumps(model_content()))
    beside = load_checkpoint(source)
    assert beside.report.files == (Path(source), model)
    named = model.rename(tmp_path / "other name.model")
    asked = load_checkpoint(f"{source}?model={named}")
    assert asked.report.files == (Path(source), named)
    assert alone.digest == beside.digest == asked.digest
    assert asked.source == f"{source}?model={named}"


def test_weights_of_torch_before_1_6(tmp_path: Path) -> None:
    path = tmp_path / "old.weights"
    torch.save(network() | heads(), path, _use_new_zipfile_serialization=False)
    assert_is_small(load_checkpoint(str(path)))


def test_lightning_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    tensors = {f"mine_policy.{name}": tensor for name, tensor in (network() | heads(auxiliary=False)).items()}
    state = tensors | {"metric.total": torch.zeros(3)}
    torch.save({"epoch": 3, "state_dict": state, "optimizer_states": [{"state": {0: torch.ones(4)}}]}, path)
    checkpoint = load_checkpoint(str(path))
    assert_is_small(checkpoint)
    assert checkpoint.report.heads == {"metric": 1, "pi_head": 4, "value_head": 5}


def test_report_counts_what_is_taken_and_what_is_left(tmp_path: Path) -> None:
    report = load_checkpoint(write_weights(tmp_path / "a.weights")).report
    parameters = sum(tensor.numel() for tensor in network().values())
    assert report.summary() == (
        f"{len(table(SMALL))} tensors taken ({parameters:,} parameters), "
        "14 left aside: aux_value_head 5, pi_head 4, value_head 5"
    )
    assert set(report.taken) == set(network())
    assert set(report.aside) == set(heads())
    assert report.parameters == parameters
    assert not report.untrained


def test_report_of_a_network_alone(tmp_path: Path) -> None:
    report = load_checkpoint(write_safetensors(tmp_path / "a.safetensors", network())).report
    assert report.summary().endswith("parameters), 0 left aside")


def test_heads_are_not_looked_at(tmp_path: Path) -> None:
    tensors = network() | {"pi_head.camera.linear_layer.bias": torch.full((121,), torch.nan), "step": 7}
    assert_is_small(load_checkpoint(write_weights(tmp_path / "a.weights", tensors)))


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_in_the_file(tmp_path: Path, stored: torch.dtype) -> None:
    tensors = {name: tensor.to(stored) for name, tensor in network().items()}
    checkpoint = load_checkpoint(write_safetensors(tmp_path / "a.safetensors", tensors))
    for spec in table(SMALL):
        assert torch.equal(checkpoint.tensors[spec.parameter], tensors[spec.vpt_name].float())


@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16, torch.float16])
def test_wanted_precision_does_not_change_the_digest(folder: Path, wanted: torch.dtype) -> None:
    checkpoint = load_checkpoint(str(folder), dtype=wanted, device=torch.device("cpu"))
    expected = network()
    for spec in table(SMALL):
        assert torch.equal(checkpoint.tensors[spec.parameter], expected[spec.vpt_name].to(wanted))
    assert checkpoint.digest == load_checkpoint(str(folder)).digest


def test_precision_that_no_network_runs_in(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot be loaded as torch\.int8: choose from torch\.float32"):
        load_checkpoint(str(folder), dtype=torch.int8)


def test_digest_knows_one_value_from_another(tmp_path: Path, folder: Path) -> None:
    tensors = network()
    last = tensors["net.final_ln.bias"]
    last[-1] = torch.nextafter(last[-1], torch.tensor(9.0))
    changed = load_checkpoint(write_safetensors(tmp_path / "changed.safetensors", tensors))
    assert changed.digest != load_checkpoint(str(folder)).digest
    assert len(changed.digest) == 64


def test_digest_does_not_depend_on_the_layout_in_the_file(tmp_path: Path) -> None:
    plain = write_weights(tmp_path / "a.weights", network())
    tensors = {name: tensor.T.contiguous().T if tensor.dim() == 2 else tensor for name, tensor in network().items()}
    strided = write_weights(tmp_path / "b.weights", tensors)
    assert_is_small(load_checkpoint(strided))
    assert load_checkpoint(plain).digest == load_checkpoint(strided).digest


def test_loaded_tensors_are_the_callers_own(folder: Path) -> None:
    first = load_checkpoint(str(folder))
    for tensor in first.tensors.values():
        tensor.zero_()
    assert_is_small(load_checkpoint(str(folder)))


def test_resolved_source_is_as_good_as_its_string(folder: Path) -> None:
    assert load_checkpoint(resolve(str(folder))).digest == load_checkpoint(str(folder)).digest


def test_untrained_is_said_to_be_and_follows_its_seed() -> None:
    first, again, other = (load_checkpoint(f"random:tiny{query}") for query in ("", "?seed=0", "?seed=1"))
    assert first.config == PRESETS["tiny"]
    assert first.digest == again.digest != other.digest
    assert first.report.untrained
    assert "untrained" in first.report.summary()
    assert first.report.files == ()
    assert first.report.aside == ()
    assert len(first.tensors) == 125
