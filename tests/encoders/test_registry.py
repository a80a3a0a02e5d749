"""Encoders by name: the table, a kind of one's own, and what is refused."""

from __future__ import annotations

import copy
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor

import vpt_gym
import vpt_gym.vector
from tests.support.scripted import ScriptedEnv
from vpt_gym.cli.main import main
from vpt_gym.encoders import Encoder, MemorylessEncoder, fingerprint_of, registry, schemes
from vpt_gym.errors import OptionError, VPTGymError, WeightsError
from vpt_gym.sb3 import VecVPTLatent, make_latent_vec_env

FACTS = {
    *("kind", "source", "options", "fingerprint", "untrained", "words", "latent_size", "frame_size", "device"),
    *("precision", "backend"),
}


class Means(MemorylessEncoder):
    """A kind of one's own, in fifteen lines: the mean colour, times a gain."""

    kind, latent_size, frame_size = "means", 3, 8

    def __init__(self, source: str, gain: float) -> None:
        self.source, self.options, self.gain = source, {"gain": gain}, gain
        self.fingerprint = fingerprint_of({"means": gain})

    def latents_of(self, frames_nhwc: Tensor) -> Tensor:
        return self.gain * frames_nhwc.float().mean(dim=(1, 2))


def load_means(source: str, *, gain: float = 1.0) -> Means:
    """Mean colours: `means:`."""
    return Means(source, gain)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    vpt_gym.register_source("means", load_means)


def test_a_kind_of_ones_own_is_opened_by_name() -> None:
    encoder = vpt_gym.load_encoder("means:", gain=2.0)
    assert isinstance(encoder, Encoder)
    frames = np.full((2, 4, 4, 3), 10, np.uint8)
    assert encoder.stream(2).step(frames, [True, False]).tolist() == [[20.0] * 3] * 2
    assert encoder.encode(frames[None]).shape == (1, 2, 3)
    assert schemes()["means"] == "Mean colours: `means:`."
    assert copy.deepcopy(encoder) is encoder
    assert pickle.loads(pickle.dumps(encoder)).fingerprint == encoder.fingerprint
    with pytest.raises(VPTGymError, match=r"use copy\.deepcopy"):
        copy.copy(encoder.stream(2))


MODULE = """
import vpt_gym
from vpt_gym.encoders import MemorylessEncoder, fingerprint_of

class Greys(MemorylessEncoder):
    kind, latent_size, frame_size = "greys", 1, 8
    def __init__(self, source):
        self.source, self.options, self.fingerprint = source, {}, fingerprint_of({"greys": 1})
    def latents_of(self, frames_nhwc):
        return frames_nhwc.float().mean(dim=(1, 2, 3))[:, None]

def load(source):
    assert source == "greys:1", "as it was registered, whatever stands before it"
    return Greys(source)

vpt_gym.register_source("greys", load)
"""


def test_a_module_in_front_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in an environment's id; and it stays in what a spec, a pickle or a run records, for processes to come."""
    (tmp_path / "kinds_of_greys.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    source = "kinds_of_greys:greys:1"
    try:
        assert main(["inspect", source]) == 0
        assert "greys" in schemes()
        encoder = vpt_gym.load_encoder(source)
    finally:
        sys.modules.pop("kinds_of_greys", None)
    assert encoder.recorded == {"encoder": source, "encoder_options": {}}
    assert encoder.describe()["source"] == source
    assert f"source       {source}" in capsys.readouterr().out


def test_in_a_wrapper_and_its_spec() -> None:
    gym.register("Scripted-v0", "tests.support.scripted:ScriptedEnv", disable_env_checker=True)
    try:
        env = vpt_gym.VPTLatentObservation(gym.make("Scripted-v0"), "means:", encoder_options={"gain": 3.0})
        text = env.spec.to_json()
        again = gym.make(gym.envs.registration.EnvSpec.from_json(text))
    finally:
        del gym.registry["Scripted-v0"]
    assert np.array_equal(env.reset()[0], again.reset()[0])
    assert again.encoder.options == {"gain": 3.0}  # type: ignore[attr-defined]


@pytest.mark.parametrize("source", ["random:tiny", "means:"])
def test_every_kind_describes_itself(source: str) -> None:
    encoder = vpt_gym.load_encoder(source)
    said = encoder.describe()
    assert set(said) >= FACTS
    assert json.loads(json.dumps(said)) == said
    assert said["fingerprint"] == encoder.fingerprint == encoder.stream(1).fingerprint
    assert source in said["words"]
    encoder.close()


def test_every_line_of_the_table_leads_to_a_loader() -> None:
    assert list(registry._TABLE) == sorted(registry._TABLE)
    assert all(schemes().values())


@pytest.mark.parametrize(
    ("source", "options", "error", "match"),
    [
        (
            "means:",
            {"gian": 1.0},
            OptionError,
            "unexpected keyword argument 'gian'; the options of this kind .* are gain",
        ),
        ("random:tiny", {"leyer": "cnn"}, OptionError, "'leyer'; .* are device, precision, layer"),
        (
            "maens:",
            {},
            WeightsError,
            "no kind of encoder is called 'maens'; there are .*random:.*means:.*register_source",
        ),
        ("no_such.kinds:greys:1", {}, WeightsError, "'no_such.kinds' is neither a kind of encoder nor a module"),
        ("json:greys:1", {}, WeightsError, "no kind of encoder is called 'greys'"),
        ("", {}, WeightsError, "names no weights"),
        (7, {}, WeightsError, "A source of weights is a string, not int"),
    ],
)
def test_refused(source: Any, options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        vpt_gym.load_encoder(source, **options)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"gian": 1.0}, "unexpected keyword argument 'gian'; the options of this kind .* are gain"),
        ({"source": "means:"}, "multiple values for argument 'source'; the options .* are gain"),
        ({1: 2}, "an option's name is a string, not 1"),
        (["gain"], r"a dict of options by their names, .* not \['gain'\]"),
        ("gain", "a dict of options by their names, .* not 'gain'"),
    ],
)
def test_options_that_are_none_are_refused_wherever_they_are_taken(options: Any, match: str) -> None:
    """The three wrappers, the line that makes environments, and a run, which hands on what its config says."""
    several = gym.vector.SyncVectorEnv([ScriptedEnv])
    for take in (
        lambda: vpt_gym.VPTLatentObservation(ScriptedEnv(), "means:", encoder_options=options),
        lambda: vpt_gym.vector.VPTLatentObservation(several, "means:", encoder_options=options),
        lambda: VecVPTLatent(DummyVecEnv([ScriptedEnv]), "means:", encoder_options=options),
        lambda: make_latent_vec_env(ScriptedEnv, encoder="means:", encoder_options=options),
    ):
        with pytest.raises(OptionError, match=match):
            take()


@pytest.mark.parametrize("name", ["device", "precision", "layer", "backend"])
@pytest.mark.parametrize("value", [[], None, 3])
def test_a_value_that_no_option_has(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=f"{name} must be"):
        vpt_gym.load_encoder("random:tiny", **{name: value})


@pytest.mark.parametrize("name", ["", "A", "a", "two words", "a:b", "random", "timm"])
def test_names_that_cannot_be_registered(name: str) -> None:
    with pytest.raises(OptionError, match=r"small letters, digits and hyphens|a source of vpt_gym's own"):
        vpt_gym.register_source(name, load_means)


def test_a_latent_that_is_not_finite_is_an_error() -> None:
    encoder = vpt_gym.load_encoder("means:", gain=float("inf"))
    with pytest.raises(vpt_gym.VPTGymError, match=r"rows \[1\] are NaN or infinite"):
        encoder.stream(2).step(np.ones((1, 4, 4, 3), np.uint8), [True], rows=[1])


def test_devices_may_be_torchs_own() -> None:
    encoder = vpt_gym.load_encoder("random:tiny", device=torch.device("cpu"))
    assert json.loads(json.dumps(encoder.options))["device"] == "cpu"


def test_a_device_of_torchs_fits_into_a_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every kind, one's own too: what is recorded are JSON values."""
    asked: list[Any] = []

    def load(source: str, *, device: Any = "auto") -> Any:
        asked.append(device)
        return vpt_gym.load_encoder("random:tiny", device=device)

    monkeypatch.setitem(registry._registered, "devices", load)
    cpu = torch.device("cpu")
    vpt_gym.load_encoder("devices:", device=cpu)
    assert asked == ["cpu"]
    made = ScriptedEnv()
    for encoder, options in (("random:tiny", {"device": cpu}), (vpt_gym.load_encoder("random:tiny", device=cpu), None)):
        env = vpt_gym.VPTLatentObservation(made, encoder, encoder_options=options)
        assert json.loads(json.dumps(env._saved_kwargs))["encoder_options"]["device"] == "cpu"
