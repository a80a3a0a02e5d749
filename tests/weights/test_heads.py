"""VPT's heads come whole out of every kind of source, or are refused with what is wrong."""

from __future__ import annotations

import copy
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.weights.checkpoints import SMALL, model_content, network, write_safetensors, write_weights
from vpt_gym import load_encoder
from vpt_gym.errors import OptionError, VPTGymError, WeightsError
from vpt_gym.weights import VPTHeads, load_heads, resolve

HIDDEN = SMALL.hidden_size
SHAPES = {
    "pi_head.buttons.linear_layer.weight": (8641, HIDDEN),
    "pi_head.buttons.linear_layer.bias": (8641,),
    "pi_head.camera.linear_layer.weight": (121, HIDDEN),
    "pi_head.camera.linear_layer.bias": (121,),
    "value_head.linear.weight": (1, HIDDEN),
    "value_head.linear.bias": (1,),
    "value_head.normalizer.running_mean": (1,),
    "value_head.normalizer.running_mean_sq": (1,),
    "value_head.normalizer.debiasing_term": (),
}


def random_heads(seed: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def whole() -> dict[str, torch.Tensor]:
    return network() | random_heads()


def assert_are(heads: VPTHeads, temperature: float) -> None:
    assert (heads.latent_size, heads.actions) == (HIDDEN, {"buttons": 8641, "camera": 121})
    assert heads.temperature == temperature
    for name, tensor in random_heads().items():
        assert heads.tensor(name).dtype == torch.float32
        assert torch.equal(heads.tensor(name), tensor)


def refused(source: str, *fragments: str) -> None:
    """The network loads, the heads do not, and the message holds all fragments in one line."""
    encoder = load_encoder(source, device="cpu")
    with pytest.raises(WeightsError) as caught:
        _ = encoder.heads
    message = str(caught.value)
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message


def test_folder_without_config_has_minestudios_temperature(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", whole())
    encoder = load_encoder(str(tmp_path), device="cpu")
    assert_are(encoder.heads, 1.0)
    assert encoder.heads is encoder.heads


@pytest.mark.parametrize(("config", "temperature"), [({"temperature": 2}, 2.0), ({"license": "mit"}, 1.0)])
def test_config_says_the_temperature(tmp_path: Path, config: dict[str, Any], temperature: float) -> None:
    write_safetensors(tmp_path / "model.safetensors", whole())
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert_are(load_encoder(str(tmp_path), device="cpu").heads, temperature)


def test_openai_weights_alone_and_with_model(tmp_path: Path) -> None:
    auxiliary = {f"aux_{name}": tensor + 1 for name, tensor in random_heads().items() if name.startswith("value_head")}
    source = write_weights(tmp_path / "a.weights", whole() | auxiliary)
    assert_are(load_encoder(source, device="cpu").heads, 2.0)
    content = model_content()
    content["model"]["args"]["pi_head_opts"]["temperature"] = 1.5
    (tmp_path / "a.model").write_bytes(pickle.dumps(content))
    assert_are(load_encoder(source, device="cpu").heads, 1.5)


def test_lightning_checkpoint(tmp_path: Path) -> None:
    state = {f"mine_policy.{name}": tensor for name, tensor in whole().items()}
    torch.save({"state_dict": state | {"metric": torch.zeros(3)}}, tmp_path / "last.ckpt")
    heads = load_encoder(str(tmp_path / "last.ckpt"), device="cpu").heads
    assert_are(heads, 1.0)
    assert_are(heads.with_temperature(2), 2.0)
    assert_are(heads.with_temperature(np.float32(0.5)), 0.5)


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf"), 10**400, "2", None, True])
def test_a_temperature_that_is_none(temperature: Any) -> None:
    with pytest.raises(OptionError, match="temperature must be a number above 0, such as 2, not"):
        load_encoder("random:tiny", device="cpu").heads.with_temperature(temperature)


def test_heads_stay_float32_whatever_the_file_and_the_network_are_in(tmp_path: Path) -> None:
    stored = {name: tensor.to(torch.bfloat16) for name, tensor in whole().items()}
    heads = load_encoder(
        write_safetensors(tmp_path / "a.safetensors", stored), device="cpu", precision="bfloat16"
    ).heads
    for name, tensor in random_heads().items():
        assert torch.equal(heads.tensor(name), tensor.to(torch.bfloat16).float())


def test_another_number_of_buttons_comes_from_the_tensors() -> None:
    state = random_heads()
    for part in ("weight", "bias"):
        state[f"pi_head.buttons.linear_layer.{part}"] = state[f"pi_head.buttons.linear_layer.{part}"][:7]
    heads = VPTHeads.from_state_dict(network() | state | {"note": "no tensor"}, temperature=3)
    assert (heads.latent_size, heads.actions, heads.temperature) == (HIDDEN, {"buttons": 7, "camera": 121}, 3.0)


def test_from_state_dict_copies() -> None:
    state = random_heads()
    heads = VPTHeads.from_state_dict(state)
    fingerprint = heads.fingerprint
    for tensor in state.values():
        tensor.zero_()
    assert_are(heads, 1.0)
    assert VPTHeads.from_state_dict(random_heads()).fingerprint == fingerprint


def test_they_know_which_latents_they_read(tmp_path: Path) -> None:
    """Those of the final layer of these weights; whoever copies them out of a state may say it."""
    write_safetensors(tmp_path / "model.safetensors", whole())
    encoder = load_encoder(str(tmp_path), device="cpu")
    assert encoder.heads.latents == encoder.fingerprint == encoder.stream(1).fingerprint
    assert load_encoder(str(tmp_path), device="cpu", layer="block1").fingerprint != encoder.fingerprint
    assert VPTHeads.from_state_dict(random_heads()).latents is None
    heads = VPTHeads.from_state_dict(random_heads(), latents="abc")
    for same in (heads, copy.copy(heads), copy.deepcopy(heads), pickle.loads(pickle.dumps(heads))):
        assert same.latents == "abc"
    assert heads.with_temperature(3).latents == "abc"
    other = heads.with_latents("def")
    assert other.latents == "def"
    assert other == heads, "heads are equal by their tensors"
    assert torch.equal(other.tensor("value_head.linear.bias"), heads.tensor("value_head.linear.bias"))
    old = VPTHeads(*heads.__reduce__()[1][:5])  # as a pickle without them has it
    assert old.latents is None


def test_another_layer_has_no_heads(tmp_path: Path) -> None:
    source = write_safetensors(tmp_path / "a.safetensors", whole())
    for layer in ("cnn", "block0", "all"):
        with pytest.raises(VPTGymError, match=f"read the final layer, but this encoder's latents are layer='{layer}'"):
            _ = load_encoder(source, device="cpu", layer=layer).heads


def test_network_without_heads(tmp_path: Path) -> None:
    source = write_safetensors(tmp_path / "a.safetensors", network())
    refused(
        source, source, "lacks 9 of the 9 tensors of VPT's heads: pi_head.buttons.linear_layer.weight", "and 4 more"
    )


@pytest.mark.parametrize("name", SHAPES)
def test_missing_tensor(tmp_path: Path, name: str) -> None:
    tensors = whole()
    del tensors[name]
    refused(write_safetensors(tmp_path / "a.safetensors", tensors), f"lacks 1 of the 9 tensors of VPT's heads: {name}.")


@pytest.mark.parametrize("name", SHAPES)
def test_wrong_shape(tmp_path: Path, name: str) -> None:
    shape = (2, *SHAPES[name][:-1], HIDDEN + 1)
    source = write_safetensors(tmp_path / "a.safetensors", whole() | {name: torch.zeros(shape)})
    refused(source, "wrong shape", f"{name} (expected ", f"is {shape})")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", SHAPES)
def test_no_number(tmp_path: Path, name: str, value: float) -> None:
    tensors = whole()
    tensors[name].view(-1)[-1] = value
    refused(write_safetensors(tmp_path / "a.safetensors", tensors), f"{name} holds NaN or infinity")


def test_whole_numbers(tmp_path: Path) -> None:
    name = "value_head.linear.weight"
    source = write_safetensors(tmp_path / "a.safetensors", whole() | {name: torch.ones(1, HIDDEN, dtype=torch.int32)})
    refused(source, f"{name} holds torch.int32")


def test_heads_of_another_network(tmp_path: Path) -> None:
    wide = {name: torch.zeros([HIDDEN * 2 if size == HIDDEN else size for size in SHAPES[name]]) for name in SHAPES}
    source = write_safetensors(tmp_path / "a.safetensors", network() | wide)
    refused(source, f"read latents of {HIDDEN * 2} numbers, but the network beside them gives {HIDDEN}")


@pytest.mark.parametrize("temperature", [0, -1, "2", True, [2.0], float("inf"), float("nan")])
def test_temperature_that_is_none(tmp_path: Path, temperature: Any) -> None:
    write_safetensors(tmp_path / "model.safetensors", whole())
    (tmp_path / "config.json").write_text(json.dumps({"temperature": temperature}))
    refused(str(tmp_path), "config.json: the temperature of VPT's action head must be a positive number, not")
    with pytest.raises(WeightsError, match="must be a positive number"):
        VPTHeads.from_state_dict(random_heads(), temperature)


def test_model_without_temperature(tmp_path: Path) -> None:
    source = write_weights(tmp_path / "a.weights", whole())
    content = model_content()
    del content["model"]["args"]["pi_head_opts"]
    (tmp_path / "a.model").write_bytes(pickle.dumps(content))
    refused(
        source, "a.model holds no temperature of the action head at ['model']['args']['pi_head_opts']['temperature']"
    )


def test_file_that_has_changed_or_gone_since_the_network_was_loaded(tmp_path: Path) -> None:
    path = Path(write_safetensors(tmp_path / "a.safetensors", whole()))
    encoder = load_encoder(str(path), device="cpu")
    os.utime(path, ns=(1, 1))
    with pytest.raises(WeightsError, match="has changed since the network was loaded from it: load the encoder anew"):
        _ = encoder.heads
    path.unlink()
    with pytest.raises(WeightsError, match="has changed since"):
        _ = encoder.heads


def test_untrained_heads_follow_their_seed_and_are_all_but_uniform() -> None:
    first, again, other = (load_heads(resolve(f"random:tiny{query}"), 512) for query in ("", "?seed=0", "?seed=1"))
    assert (first.latent_size, first.actions, first.temperature) == (512, {"buttons": 8641, "camera": 121}, 2.0)
    assert first == again != other
    latents = torch.randn(64, 512, generator=torch.Generator().manual_seed(0))
    for part in ("buttons", "camera"):
        weight = first.tensor(f"pi_head.{part}.linear_layer.weight")
        assert 0 < float((latents @ weight.T).abs().max()) < 0.1


def test_fingerprint_knows_every_tensor_and_the_temperature() -> None:
    prints = {
        VPTHeads.from_state_dict(random_heads()).fingerprint,
        VPTHeads.from_state_dict(random_heads(), 2).fingerprint,
    }
    for name in SHAPES:
        state = random_heads()
        state[name].view(-1)[0] += 1
        prints.add(VPTHeads.from_state_dict(state).fingerprint)
    assert len(prints) == 2 + len(SHAPES)


def test_a_pickle_holds_no_tensors_and_says_so() -> None:
    heads = VPTHeads.from_state_dict(random_heads(), 2.0)
    content = pickle.dumps(heads)
    assert len(content) < 1000
    empty = pickle.loads(content)
    assert empty.is_empty
    assert not heads.is_empty
    assert empty == heads
    assert hash(empty) == hash(heads)
    assert empty != heads.with_temperature(1.0)
    assert empty.with_temperature(1.0) == heads.with_temperature(1.0)
    assert "without tensors" in repr(empty)
    for name, shape in SHAPES.items():
        assert empty.tensor(name).shape == shape
        assert empty.tensor(name).isnan().all()
    assert pickle.loads(pickle.dumps(empty)) == heads


def test_copies_keep_the_tensors() -> None:
    heads = VPTHeads.from_state_dict(random_heads())
    assert copy.copy(heads) is heads
    assert copy.deepcopy({"heads": heads})["heads"] is heads
