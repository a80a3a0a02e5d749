"""VPTs that are not OpenAI's: other frames, memories, blocks and heads, as CrafterDojo publishes them; and saved ones."""

from __future__ import annotations

import json
import os
import pickle
import stat
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

import vpt_gym
from tests.weights.checkpoints import SMALL, network, policy_kwargs, refusal, write_safetensors
from vpt_gym.config import VPTConfig
from vpt_gym.errors import OptionError, VPTGymError, WeightsError
from vpt_gym.heads import KLPPO, PretrainedHeadPolicy
from vpt_gym.nn import Memory
from vpt_gym.weights import VPTHeads, load_checkpoint

CRAFTER = VPTConfig(
    hidden_size=64, heads=4, impala_width=1, blocks=2, memory=64, dense_size=32, mlp_ratio=4, frame_size=144
)
"""A small network of CrafterDojo's kind: 144x144 frames, 64 frames of memory, and one head of 17 actions."""


def crafter_tensors(actions: int = 17) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        **{name: 0.3 * value for name, value in network(CRAFTER).items()},
        "pi_head.linear_layer.weight": torch.randn(actions, CRAFTER.hidden_size, generator=generator) / 8,
        "pi_head.linear_layer.bias": torch.randn(actions, generator=generator),
        "value_head.linear.weight": torch.randn(1, CRAFTER.hidden_size, generator=generator) / 8,
        "value_head.linear.bias": torch.zeros(1),
        "value_head.normalizer.running_mean": torch.zeros(1),
        "value_head.normalizer.running_mean_sq": torch.ones(1),
        "value_head.normalizer.debiasing_term": torch.ones(()),
    }


def write_crafter(folder: Path, **changes: Any) -> str:
    """OpenAI's pair of files: torch.save of a flat dict, and the pickled description of the same name."""
    arguments = {**policy_kwargs(CRAFTER), **changes}
    content = {"model": {"args": {"net": {"args": arguments}, "pi_head_opts": {"temperature": 1.0}}}}
    (folder / "cvpt.model").write_bytes(pickle.dumps(content))
    torch.save(crafter_tensors(), folder / "cvpt.weights")
    return str(folder / "cvpt.weights")


class TestCrafterDojo:
    def test_network_and_head_load(self, tmp_path: Path) -> None:
        encoder: Any = vpt_gym.load_encoder(write_crafter(tmp_path), device="cpu")
        assert encoder.config == CRAFTER
        assert (encoder.frame_size, encoder.latent_size) == (144, 64)
        assert encoder.heads.actions == {"": 17}
        assert encoder.heads.temperature == 1.0
        frames = np.random.default_rng(0).integers(0, 256, (1, 70, 64, 64, 3), dtype=np.uint8)
        stream = encoder.stream(1)
        steps = torch.stack([stream.step(frames[:, t], [t == 0]) for t in range(70)], dim=1)
        assert float((encoder.encode(frames) - steps).abs().max()) <= 1e-4

    @pytest.mark.parametrize("algorithm", [PPO, KLPPO])
    def test_its_head_plays_and_learns(self, algorithm: Any, tmp_path: Path) -> None:
        """In an environment of 17 actions, from the logits of the file."""
        encoder: Any = vpt_gym.load_encoder(write_crafter(tmp_path), device="cpu")
        venv = vpt_gym.sb3.make_latent_vec_env(Crafter, 1, encoder=encoder)
        model = algorithm(
            PretrainedHeadPolicy,
            venv,
            policy_kwargs={"heads": encoder.heads},
            n_steps=16,
            batch_size=16,
            n_epochs=1,
            seed=0,
        )
        latents = torch.from_numpy(venv.reset())
        tensors = crafter_tensors()
        logits = latents @ tensors["pi_head.linear_layer.weight"].T + tensors["pi_head.linear_layer.bias"]
        distribution = model.policy.get_distribution(latents).distribution
        assert float((distribution.probs.detach() - logits.softmax(1)).abs().max()) <= 1e-5
        model.learn(32)
        path = tmp_path / "model.zip"
        model.save(path)
        loaded = algorithm.load(path, env=venv)
        assert np.array_equal(
            loaded.predict(latents.numpy(), deterministic=True)[0],
            model.predict(latents.numpy(), deterministic=True)[0],
        )

    def test_another_action_space_is_refused(self, tmp_path: Path) -> None:
        encoder: Any = vpt_gym.load_encoder(write_crafter(tmp_path), device="cpu")
        space = gym.spaces.Box(-1, 1, (64,), np.float32)
        for actions in (gym.spaces.Discrete(16), gym.spaces.MultiDiscrete([17]), gym.spaces.Discrete(17, start=1)):
            with pytest.raises(VPTGymError, match="the heads have 17 actions, in this order, but the action space is"):
                PretrainedHeadPolicy(space, actions, lambda _: 1e-3, heads=encoder.heads)

    def test_the_description_must_agree(self, tmp_path: Path) -> None:
        refusal(write_crafter(tmp_path, img_shape=[128, 128, 3]), "img_shape is 128 in the config, 144 by the tensors")
        refusal(
            write_crafter(tmp_path, img_shape=[144, 160, 3]),
            "img_shape is [144, 160, 3] in the config, 144 by the tensors",
        )


class Crafter(gym.Env[Any, Any]):
    """Noise of Crafter's size."""

    observation_space = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = gym.spaces.Discrete(17)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), float(action == 3), bool(self.np_random.random() < 0.1), False, {}


@pytest.mark.parametrize("size", [8, 64, 136, 144])
def test_frames_of_any_multiple_of_eight(size: int, tmp_path: Path) -> None:
    config = VPTConfig(
        hidden_size=32, heads=2, impala_width=1, blocks=1, memory=8, dense_size=16, mlp_ratio=2, frame_size=size
    )
    source = write_safetensors(tmp_path / "a.safetensors", network(config))
    encoder: Any = vpt_gym.load_encoder(source, device="cpu")
    assert encoder.config == config
    assert encoder.encode(np.zeros((1, 3, 20, 20, 3), np.uint8)).shape == (1, 3, 32)


def test_sizes_that_no_frame_has(tmp_path: Path) -> None:
    with pytest.raises(VPTGymError, match="frame_size must be a multiple of 8, not 100"):
        VPTConfig(hidden_size=32, heads=2, impala_width=1, frame_size=100)
    tensors = network()
    for name in ("net.img_process.cnn.dense.norm.weight", "net.img_process.cnn.dense.norm.bias"):
        tensors[name] = tensors[name][:-32]
    name = "net.img_process.cnn.dense.layer.weight"
    tensors[name] = tensors[name][:, :-32].contiguous()
    refusal(
        write_safetensors(tmp_path / "a.safetensors", tensors),
        "dense layer reads 8160 numbers, which is no square of 32 channels",
    )


class TestSaving:
    def heads(self) -> VPTHeads:
        encoder: Any = vpt_gym.load_encoder("random:tiny", device="cpu")
        return encoder.heads  # type: ignore[no-any-return]

    def test_round_trip(self, tmp_path: Path) -> None:
        net, heads = vpt_gym.load_network("random:tiny?seed=4", trainable=True), self.heads().with_temperature(3.0)
        folder = vpt_gym.save_checkpoint(net, heads, tmp_path / "new" / "checkpoint")
        assert sorted(entry.name for entry in folder.iterdir()) == ["config.json", "model.safetensors"]
        again: Any = vpt_gym.load_encoder(str(folder), device="cpu", precision="float32")
        drawn: Any = vpt_gym.load_encoder("random:tiny?seed=4", device="cpu", precision="float32")
        assert again.config == net.config
        assert again.fingerprint == drawn.fingerprint
        assert again.heads == heads
        assert not again.describe()["untrained"]
        loaded = vpt_gym.load_network(str(folder))
        assert all(torch.equal(loaded.state_dict()[name], value) for name, value in net.state_dict().items())
        with torch.no_grad():
            net.last.weight.add_(1)
        vpt_gym.save_checkpoint(net, None, folder)  # a checkpoint may be replaced
        other: Any = vpt_gym.load_encoder(str(folder), device="cpu", precision="float32")
        assert other.fingerprint != again.fingerprint
        with pytest.raises(WeightsError, match="lacks 9 of the 9 tensors of VPT's heads"):
            _ = other.heads

    def test_heads_of_one_part(self, tmp_path: Path) -> None:
        encoder: Any = vpt_gym.load_encoder(write_crafter(tmp_path), device="cpu")
        folder = vpt_gym.save_checkpoint(vpt_gym.load_network(encoder.source), encoder.heads, tmp_path / "saved")
        again: Any = vpt_gym.load_encoder(str(folder), device="cpu")
        assert (again.config, again.heads, again.fingerprint) == (encoder.config, encoder.heads, encoder.fingerprint)

    @pytest.mark.minestudio
    def test_minestudio_reads_it(self, tmp_path: Path) -> None:
        """Latents, logits and values of MineStudio's own classes on the folder."""
        pytest.importorskip("minestudio")
        models: Any = vpt_gym.minestudio.import_minestudio("minestudio.models")
        net = vpt_gym.load_network("random:tiny?seed=4")
        heads = self.heads()
        folder = vpt_gym.save_checkpoint(net, heads, tmp_path / "checkpoint")
        policy = models.VPTPolicy.from_pretrained(str(folder)).eval()
        frames = torch.randint(
            0, 256, (1, 6, 128, 128, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
        )
        encoder: Any = vpt_gym.load_encoder(str(folder), device="cpu", precision="float32")
        with torch.no_grad():
            out, _ = policy({"image": frames}, policy.initial_state(1))
            latents = encoder.encode(frames)
            memory = Memory.empty(net.config, 1, blocks=4, device=net.device, dtype=net.dtype)
            (ours,), _ = net(frames, torch.zeros(1, 6, dtype=torch.bool), memory, layers=("final",))
        for part, name in (("buttons", "pi_head.buttons"), ("camera", "pi_head.camera")):
            logits = latents @ heads.tensor(f"{name}.linear_layer.weight").T + heads.tensor(f"{name}.linear_layer.bias")
            theirs = out["pi_logits"][part]
            wanted = (logits / heads.temperature).log_softmax(-1).view(theirs.shape)
            assert float((theirs - wanted).abs().max()) <= 1e-5
        assert float((latents - ours).abs().max()) <= 1e-4
        assert policy.pi_head["buttons"].temperature == heads.temperature

    def test_refused(self, tmp_path: Path) -> None:
        net = vpt_gym.load_network("random:tiny")
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "notes.txt").write_text("kept")
        with pytest.raises(WeightsError, match="holds something else than a checkpoint"):
            vpt_gym.save_checkpoint(net, None, tmp_path / "mine")
        assert (tmp_path / "mine" / "notes.txt").read_text() == "kept"
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "config.json").write_text('{"model_type": "another"}')
        (tmp_path / "other" / "model.safetensors").write_text("another model's")
        with pytest.raises(WeightsError, match="holds something else than a checkpoint"):
            vpt_gym.save_checkpoint(net, None, tmp_path / "other")
        assert (tmp_path / "other" / "model.safetensors").read_text() == "another model's"
        (tmp_path / "file").write_text("")
        with pytest.raises(WeightsError, match="holds something else"):
            vpt_gym.save_checkpoint(net, None, tmp_path / "file")
        with pytest.raises(OptionError, match="have no tensors"):
            vpt_gym.save_checkpoint(net, pickle.loads(pickle.dumps(self.heads())), tmp_path / "new")
        small = load_checkpoint(write_safetensors(tmp_path / "a.safetensors"))
        other = type(net).from_tensors(SMALL, small.tensors)
        with pytest.raises(OptionError, match="read latents of 512 numbers, and the network's latents have 32"):
            vpt_gym.save_checkpoint(other, self.heads(), tmp_path / "new")
        encoder: Any = vpt_gym.load_encoder("random:tiny?seed=5", device="cpu", precision="float32")
        if "packed" in encoder.backend:
            with pytest.raises(OptionError, match=r"vpt_gym\.load_network\(source\)"):
                vpt_gym.save_checkpoint(encoder.network.net, None, tmp_path / "new")
        assert not (tmp_path / "new").exists()
        assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith(".")]

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_network_that_has_diverged(self, value: float, tmp_path: Path) -> None:
        net = vpt_gym.load_network("random:tiny")
        with torch.no_grad():
            net.last.weight[-1, -1] = value
        with pytest.raises(
            WeightsError, match=r"1 tensors hold NaN or infinity, such as net\.lastlayer\.layer\.weight"
        ):
            vpt_gym.save_checkpoint(net, None, tmp_path / "new")
        assert not (tmp_path / "new").exists()

    @pytest.mark.skipif(os.name != "posix", reason="a umask is POSIX")
    @pytest.mark.parametrize("mask", [0o022, 0o027])
    def test_the_umask_says_who_may_read(self, mask: int, tmp_path: Path) -> None:
        before = os.umask(mask)
        try:
            folder = vpt_gym.save_checkpoint(vpt_gym.load_network("random:tiny"), None, tmp_path / "new")
        finally:
            os.umask(before)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~mask
        assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o666 & ~mask}

    def test_what_breaks_off_leaves_the_old_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = vpt_gym.save_checkpoint(vpt_gym.load_network("random:tiny"), None, tmp_path / "checkpoint")
        before = (folder / "model.safetensors").read_bytes()

        def full(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("vpt_gym.weights.saving.save_file", full)
        with pytest.raises(WeightsError, match=r"cannot be written \(No space left on device"):
            vpt_gym.save_checkpoint(vpt_gym.load_network("random:tiny?seed=1"), None, folder)
        assert (folder / "model.safetensors").read_bytes() == before
        assert json.loads((folder / "config.json").read_text())["policy_kwargs"]["img_shape"] == [128, 128, 3]
        assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint"]


def test_a_networks_tensors_are_its_owners(tmp_path: Path) -> None:
    """Training writes into them: neither the file nor another network may change with them."""
    source = write_safetensors(tmp_path / "a.safetensors")
    before = Path(source).read_bytes()
    one, other = (vpt_gym.load_network(source, trainable=True) for _ in range(2))
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(1.0)
    assert not torch.equal(one.last.weight, other.last.weight)
    assert Path(source).read_bytes() == before
