"""`doom:mini`, the weights in the package: found, loaded, described; and what is said where they are not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from vpt_gym import load_encoder, load_network
from vpt_gym.cli.main import main
from vpt_gym.errors import WeightsError
from vpt_gym.weights import embedded, resolve, save_checkpoint, table

SOURCE = "doom:mini"
TRAINING = {"recordings": ["Basic", "MyWayHome"], "objectives": {"clone": 1.0}, "steps": 7, "validation": {"loss": 1.5}}
SHIPPED = embedded.FOLDER / embedded.EMBEDDED[SOURCE]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose embedded weights are random:mini, in bfloat16."""
    monkeypatch.setattr(embedded, "FOLDER", tmp_path)
    heads = load_encoder("random:mini", device="cpu").heads  # type: ignore[attr-defined]
    net = load_network("random:mini", device="cpu").to(torch.bfloat16)
    return save_checkpoint(net, heads, tmp_path / "doom-mini", training=TRAINING)


def test_it_loads_as_float32_and_says_what_it_was_trained_on(place: Path) -> None:
    stored = load_file(place / "model.safetensors")
    encoder = load_encoder(SOURCE, device="cpu")
    assert (encoder.latent_size, encoder.frame_size, encoder.untrained) == (256, 64, False)
    assert encoder.describe()["training"] == TRAINING
    assert json.loads(json.dumps(encoder.describe())) == encoder.describe()
    net = load_network(SOURCE, device="cpu")
    for spec in table(net.config):
        assert stored[spec.vpt_name].dtype == torch.bfloat16
        held = net.state_dict()[spec.parameter]
        assert held.dtype == torch.float32
        assert torch.equal(held, stored[spec.vpt_name].float())
    assert encoder.heads.latent_size == 256  # type: ignore[attr-defined]
    frames = np.random.default_rng(0).integers(0, 256, (1, 3, 64, 64, 3), dtype=np.uint8)
    assert torch.equal(encoder.encode(frames), load_encoder(str(place), device="cpu").encode(frames))


def test_weights_that_say_nothing_of_their_training() -> None:
    assert load_encoder("random:tiny", device="cpu").describe()["training"] is None


def test_the_command_shows_it(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", SOURCE]) == 0
    assert "Basic, MyWayHome" in capsys.readouterr().out
    assert main(["inspect", SOURCE, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["training"] == TRAINING


def test_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "FOLDER", tmp_path)
    with pytest.raises(WeightsError, match=r"'doom:mini': this copy of vpt_gym came without the weights"):
        load_encoder(SOURCE)
    with pytest.raises(WeightsError, match=r"'doom:maxi' is not in the package: choose from doom:mini"):
        load_encoder("doom:maxi")


@pytest.mark.parametrize("said", ["{", "[1]"])
def test_damaged_words_of_a_training(place: Path, said: str) -> None:
    file = place / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"vpt_gym.training": said})
    with pytest.raises(WeightsError, match="what it says of its training is no JSON"):
        load_encoder(str(place), device="cpu")


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="this checkout has no trained weights")
def test_what_is_shipped() -> None:
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) <= 10_000_000
    assert resolve(SOURCE).weights == SHIPPED / "model.safetensors"
    encoder = load_encoder(SOURCE, device="cpu")
    training = encoder.describe()["training"]
    assert (encoder.latent_size, encoder.frame_size, encoder.untrained) == (256, 64, False)
    assert 1 <= len(training["recordings"]) <= 6
    assert encoder.fingerprint in (SHIPPED / "README.md").read_text(encoding="utf-8")
    assert all(
        t.dtype == torch.bfloat16 for n, t in load_file(SHIPPED / "model.safetensors").items() if "head" not in n
    )
