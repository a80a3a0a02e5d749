"""The architecture comes from the tensors; whatever contradicts it, or is not all there, is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

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
from vpt_gym.config import PRESETS, VPTConfig
from vpt_gym.errors import WeightsError
from vpt_gym.weights import load_checkpoint, table
from vpt_gym.weights.architecture import check_declared, config_from_shapes

COUNT = len(table(SMALL))
HERE = Path("x.safetensors")


def shapes_of(config: VPTConfig) -> dict[str, tuple[int, ...]]:
    return {spec.vpt_name: spec.shape for spec in table(config)}


@pytest.mark.parametrize("config", [*PRESETS.values(), SMALL])
def test_every_size_is_read_from_the_shapes(config: VPTConfig) -> None:
    assert config_from_shapes(HERE, shapes_of(config)) == config


@pytest.mark.parametrize("spec", table(SMALL), ids=lambda spec: spec.vpt_name)
def test_any_one_missing_tensor_is_named(spec: Any) -> None:
    shapes = shapes_of(SMALL)
    del shapes[spec.vpt_name]
    with pytest.raises(WeightsError, match=f"1 of {COUNT} tensors of the network are missing: {spec.vpt_name}"):
        config_from_shapes(HERE, shapes)


@pytest.mark.parametrize("change", ["longer", "flatter", "deeper", "empty"])
@pytest.mark.parametrize("spec", table(PRESETS["2x"]), ids=lambda spec: spec.vpt_name)
def test_any_one_wrong_shape_is_named(spec: Any, change: str) -> None:
    shape = {
        "longer": (spec.shape[0] + 1, *spec.shape[1:]),
        "flatter": spec.shape[1:],
        "deeper": (*spec.shape, 1),
        "empty": (0,),
    }[change]
    shapes = shapes_of(PRESETS["2x"]) | {spec.vpt_name: shape}
    with pytest.raises(WeightsError) as caught:
        config_from_shapes(HERE, shapes)
    message = str(caught.value)
    assert "1 of 125 tensors have a wrong shape" in message
    assert f"{spec.vpt_name} (expected {spec.shape}, is {shape})" in message


def test_missing_tensors_are_counted_with_five_examples(tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in network().items() if ".blocks.0.r." not in name}
    message = refusal(
        write_safetensors(tmp_path / "a.safetensors", tensors), f"9 of {COUNT}", "the file is incomplete".capitalize()
    )
    assert message.count("net.recurrent_layer") == 5
    assert " and 4 more." in message


def test_a_gap_between_blocks_is_missing_tensors(tmp_path: Path) -> None:
    tensors = network(
        VPTConfig(hidden_size=32, heads=2, impala_width=1, blocks=3, memory=8, dense_size=16, mlp_ratio=2)
    )
    tensors = {name: tensor for name, tensor in tensors.items() if ".recurrent_layer.blocks.1." not in name}
    refusal(write_safetensors(tmp_path / "a.safetensors", tensors), "16 of 109 tensors of the network are missing")


def test_a_block_numbered_beyond_all_reason_is_unexpected(tmp_path: Path) -> None:
    tensors = network() | {"net.recurrent_layer.blocks.4000000000.pre_r_ln.weight": torch.zeros(32)}
    refusal(write_safetensors(tmp_path / "a.safetensors", tensors), "1 tensors inside 'net.' belong to no VPT network")


@pytest.mark.parametrize("number", ["9" * 5000, "\u0661", "00", "-1", ""])
def test_a_block_whose_number_is_none(tmp_path: Path, number: str) -> None:
    tensors = network() | {f"net.recurrent_layer.blocks.{number}.pre_r_ln.weight": torch.zeros(32)}
    message = refusal(
        write_safetensors(tmp_path / "a.safetensors", tensors), "1 tensors inside 'net.' belong to no VPT"
    )
    assert len(message) < 1000


def test_unexpected_tensors_inside_the_network(tmp_path: Path) -> None:
    extra = {f"net.mlp_embed.{index}.weight": torch.zeros(3) for index in range(7)}
    message = refusal(
        write_safetensors(tmp_path / "a.safetensors", network() | extra), "7 tensors inside 'net.'", "net.mlp_embed.0"
    )
    assert message.count("net.mlp_embed") == 5


def test_pre_lstm_ln_is_another_network(tmp_path: Path) -> None:
    extra = {f"net.pre_lstm_ln.{part}": torch.ones(32) for part in ("weight", "bias")}
    refusal(write_safetensors(tmp_path / "a.safetensors", network() | extra), "2 tensors inside 'net.'", "pre_lstm_ln")


def test_stripped_prefix(tmp_path: Path) -> None:
    tensors = {name.removeprefix("net."): tensor for name, tensor in (network() | heads()).items()}
    message = refusal(
        write_safetensors(tmp_path / "a.safetensors", tensors), f"{COUNT} tensors have lost the prefix 'net.'"
    )
    assert (
        message.count("img_process") + message.count("final_ln") + message.count("recurrent") + message.count("last")
        == 5
    )


def test_prefix_stripped_from_some(tmp_path: Path) -> None:
    tensors = {name.replace("net.final_ln", "final_ln"): tensor for name, tensor in network().items()}
    refusal(
        write_safetensors(tmp_path / "a.safetensors", tensors),
        f"2 of {COUNT}",
        "2 of them are there without the prefix 'net.'",
    )


def test_prefix_too_many(tmp_path: Path) -> None:
    tensors = {f"teacher.{name}": tensor for name, tensor in network().items()}
    refusal(write_weights(tmp_path / "a.weights", tensors), f"{COUNT} tensors have the prefix 'teacher.' before 'net.'")


def test_no_network_at_all(tmp_path: Path) -> None:
    refusal(
        write_safetensors(tmp_path / "a.safetensors", {"encoder.weight": torch.zeros(2)}),
        "holds no VPT network",
        "encoder.weight",
    )
    refusal(write_safetensors(tmp_path / "b.safetensors", {}), "holds no VPT network", "no tensors at all")


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("img_process.cnn.stacks.0", (17,), "17 firstconv channels are not a multiple of 16"),
        ("r_layer", (13,), "13 r_layer rows are not a multiple of 10"),
        ("mlp0.layer", (33,), "33 mlp0 rows are not a multiple of 32"),
        ("r_layer", (30,), "heads must divide hidden_size, but 32 is not a multiple of 3"),
        ("b_nd", (10, 0), "memory must be a positive whole number"),
        ("b_nd", (10,), "memory must be a positive whole number"),
    ],
)
def test_sizes_of_no_vpt_network(name: str, shape: tuple[int, ...], message: str) -> None:
    shapes = {key: shape if f"{name}." in f"{key}." else value for key, value in shapes_of(SMALL).items()}
    with pytest.raises(WeightsError) as caught:
        config_from_shapes(HERE, shapes)
    assert message in str(caught.value)


def test_1x_weights_under_a_2x_config() -> None:
    with pytest.raises(WeightsError) as caught:
        check_declared(
            policy_kwargs(PRESETS["2x"]),
            PRESETS["1x"],
            shapes_of(PRESETS["1x"]),
            declared_in=Path("config.json"),
            path=HERE,
        )
    message = str(caught.value)
    for fragment in (
        "hidsize is 2048 in the config, 1024 by the tensors",
        "attention_heads is 16 in the config, 8 by the tensors",
        "impala_width is 8 in the config, 4 by the tensors",
        "119 tensors do not fit the config",
        "net.img_process.cnn.stacks.0.firstconv.layer.weight (expected (128, 3, 3, 3), is (64, 3, 3, 3))",
    ):
        assert fragment in message
    assert message.count("(expected") == 5


def refused_config(folder: Path, change: dict[str, Any], *fragments: str) -> str:
    write_safetensors(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"policy_kwargs": policy_kwargs() | change}))
    return refusal(str(folder), "config.json does not describe", *fragments)


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"hidsize": 64}, "hidsize is 64 in the config, 32 by the tensors"),
        ({"hidsize": "32"}, "hidsize is '32' in the config, 32 by the tensors"),
        ({"attention_heads": 4}, "attention_heads is 4 in the config, 2 by the tensors"),
        ({"impala_width": 2}, "impala_width is 2 in the config, 1 by the tensors"),
        ({"n_recurrence_layers": 4}, "n_recurrence_layers is 4 in the config, 2 by the tensors"),
        ({"pointwise_ratio": 4}, "pointwise_ratio is 4 in the config, 2 by the tensors"),
        ({"timesteps": 64}, "attention_memory_size - timesteps is 72 in the config, 8 by the tensors"),
        ({"attention_memory_size": 256}, "attention_memory_size - timesteps is 128 in the config, 8 by the tensors"),
        ({"n_recurrence_layers": 10**9}, "n_recurrence_layers is 1000000000 in the config"),
        (
            {"attention_mask_style": "none"},
            "attention_mask_style is 'none' in the config, 'clipped_causal' in every VPT",
        ),
        ({"diff_mlp_embedding": True}, "diff_mlp_embedding is True"),
        ({"first_conv_norm": True}, "first_conv_norm is True in the config, False in every VPT network"),
        ({"img_shape": [64, 64, 3]}, "img_shape is 64 in the config, 128 by the tensors"),
        ({"img_statistics": "stats.npz"}, "img_statistics is 'stats.npz'"),
        ({"impala_chans": [16, 32, 64]}, "impala_chans is [16, 32, 64]"),
        ({"impala_kwargs": {"post_pool_groups": None}}, "impala_kwargs.post_pool_groups is None"),
        ({"init_norm_kwargs": {"batch_norm": True}}, "init_norm_kwargs.batch_norm is True"),
        ({"init_norm_kwargs": {"group_norm_groups": 4}}, "init_norm_kwargs.group_norm_groups is 4"),
        ({"pointwise_use_activation": True}, "pointwise_use_activation is True"),
        ({"recurrence_is_residual": False}, "recurrence_is_residual is False"),
        ({"recurrence_type": "lstm"}, "recurrence_type is 'lstm' in the config, 'transformer' in every"),
        ({"scale_input_img": False}, "scale_input_img is False"),
        ({"use_pointwise_layer": False}, "use_pointwise_layer is False"),
        ({"use_pre_lstm_ln": True}, "use_pre_lstm_ln is True"),
    ],
)
def test_config_that_disagrees(tmp_path: Path, change: dict[str, Any], fragment: str) -> None:
    refused_config(tmp_path, change, fragment)


def test_config_with_more_blocks_counts_the_missing_ones(tmp_path: Path) -> None:
    refused_config(
        tmp_path, {"n_recurrence_layers": 4}, "32 tensors do not fit the config", "blocks.2.pre_r_ln.weight (missing)"
    )


def test_config_that_disagrees_in_several_fields_names_them_all(tmp_path: Path) -> None:
    refused_config(tmp_path, {"hidsize": 64, "recurrence_type": "lstm"}, "hidsize is 64", "recurrence_type is 'lstm'")


def test_a_config_may_be_silent(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"policy_kwargs": {"hidsize": 32, "attention_memory_size": 2048}}')
    assert load_checkpoint(str(tmp_path)).config == SMALL


def test_model_that_disagrees(tmp_path: Path) -> None:
    source = write_weights(tmp_path / "a.weights")
    (tmp_path / "a.model").write_bytes(pickle.dumps(model_content(PRESETS["1x"])))
    refusal(source, "a.model does not describe", "hidsize is 1024 in the config, 32 by the tensors")


@pytest.mark.parametrize("kind", [torch.int32, torch.uint8, torch.bool, torch.float8_e4m3fn])
def test_numbers_that_are_no_weights(tmp_path: Path, kind: torch.dtype) -> None:
    tensors = network()
    tensors["net.final_ln.weight"] = torch.zeros(32).to(kind)
    refusal(
        write_safetensors(tmp_path / "a.safetensors", tensors),
        "1 tensors hold no floating-point numbers",
        "net.final_ln.weight",
    )


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["net.final_ln.bias", "net.img_process.cnn.dense.layer.weight"])
def test_nan_and_infinity(tmp_path: Path, value: float, name: str) -> None:
    tensors = network()
    tensors[name].view(-1)[-1] = value
    refusal(write_safetensors(tmp_path / "a.safetensors", tensors), "a.safetensors", f"{name} holds NaN or infinity")


def test_numbers_beyond_half_precision(tmp_path: Path) -> None:
    tensors = network()
    tensors["net.final_ln.bias"][3] = -7e4
    source = write_safetensors(tmp_path / "a.safetensors", tensors)
    assert load_checkpoint(source, dtype=torch.bfloat16).config == SMALL
    with pytest.raises(
        WeightsError, match=r"net\.final_ln\.bias holds numbers up to 7e\+04, beyond the range of torch\.float16"
    ):
        load_checkpoint(source, dtype=torch.float16)
