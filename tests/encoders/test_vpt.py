"""The encoder's own doors: layers and pooling, what is shared, what is refused."""

from __future__ import annotations

import copy
import gc
import logging
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import vpt_gym
from tests.support.network import encoder_of, random_net
from tests.support.scripted import quick_encoder
from vpt_gym.config import PRESETS, VPTConfig
from vpt_gym.encoders.vpt import VPTEncoder
from vpt_gym.errors import ObservationError, VPTGymError
from vpt_gym.nn import layer_names
from vpt_gym.resize import resize

LAYERS = ("cnn", "block0", "block1", "block2", "block3", "final")


@pytest.fixture(scope="module")
def encoder() -> VPTEncoder:
    return quick_encoder()


def pictures(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


class TestLayersAndPooling:
    def test_every_layer_is_one_part_of_all(self) -> None:
        """Also stepped: an encoder of an early layer runs and remembers fewer blocks, and gives the same."""
        frames = pictures(2, 5, 20, 20, 3)
        whole = quick_encoder(layer="all")
        everything = whole.encode(frames)
        size = whole.config.hidden_size
        assert everything.shape == (2, 5, 6 * size)
        assert whole.latent_size == 6 * size
        for index, layer in enumerate(LAYERS):
            part = everything[..., index * size : (index + 1) * size]
            assert float(part.std()) > 0.1
            early = quick_encoder(layer=layer)
            assert early.latent_size == size
            assert early.latent_space.shape == (size,)
            assert torch.equal(early.encode(frames), part)
            assert torch.equal(whole.encode(frames, layer=layer), part)
            stream = early.stream(2)
            stepped = torch.stack([stream.step(frames[:, t], [t == 0] * 2) for t in range(5)], dim=1)
            assert float((stepped - part).abs().max()) <= 1e-5
            remembered = stream.state_dict()["keys_lbhmd"].shape[0]
            assert remembered == {"cnn": 0, "final": 4}.get(layer, index)

    def test_layers_differ(self) -> None:
        parts = quick_encoder(layer="all").encode(pictures(1, 3, 20, 20, 3))[0, -1].view(6, -1)
        distances = torch.cdist(parts, parts) + torch.eye(6)
        assert float(distances.min()) > 0.1

    @pytest.mark.parametrize("count", [1, 3, 300])
    def test_pooling(self, count: int, encoder: VPTEncoder) -> None:
        frames = pictures(2, count, 12, 12, 3)
        sequence = encoder.encode(frames)
        assert torch.equal(encoder.encode(frames, pooling="last"), sequence[:, -1])
        assert float((encoder.encode(frames, pooling="mean") - sequence.mean(dim=1)).abs().max()) <= 1e-5

    def test_names(self, encoder: VPTEncoder) -> None:
        assert layer_names(PRESETS["2x"]) == LAYERS
        for options in ({"layer": "block4"}, {"layer": ""}, {"layer": "block"}):
            with pytest.raises(VPTGymError, match=r"layer must be one of cnn, block0, .*final, all, not"):
                vpt_gym.load_encoder("random:tiny", **options)
        with pytest.raises(VPTGymError, match="pooling must be one of none, last, mean, not 'max'"):
            encoder.encode(pictures(1, 1, 8, 8, 3), pooling="max")


class TestWeights:
    def test_published_sizes(self) -> None:
        assert [PRESETS[size].hidden_size for size in ("1x", "2x", "3x")] == [1024, 2048, 3072]
        assert all(PRESETS[size].head_size == 128 for size in ("1x", "2x", "3x", "tiny"))

    def test_weights_are_shared_inside_a_process(self) -> None:
        one, other = vpt_gym.load_encoder("random:tiny?seed=8"), vpt_gym.load_encoder("random:tiny?seed=8", layer="cnn")
        assert one.network.net is other.network.net
        assert vpt_gym.load_encoder("random:tiny?seed=9").network.net is not one.network.net
        assert vpt_gym.load_encoder("random:tiny?seed=8", precision="bfloat16").network.net is not one.network.net

    def test_and_freed_with_their_last_user(self) -> None:
        from vpt_gym.encoders.loading import _loaded  # the cache is nobody's business but this test's

        gc.collect()
        before = len(_loaded)
        encoder = vpt_gym.load_encoder("random:tiny?seed=10")
        assert len(_loaded) == before + 1
        del encoder
        gc.collect()
        assert len(_loaded) == before

    def test_fingerprint_says_which_latents(self) -> None:
        base = vpt_gym.load_encoder("random:tiny")
        same = vpt_gym.load_encoder("random:tiny?seed=0", precision="bfloat16")
        assert base.fingerprint == same.fingerprint
        others = [
            vpt_gym.load_encoder("random:tiny?seed=1"),
            vpt_gym.load_encoder("random:tiny", layer="cnn"),
        ]
        assert len({base.fingerprint, *(other.fingerprint for other in others)}) == 3
        assert base.stream(1).fingerprint == base.fingerprint

    def test_loading_reports(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO, logger="vpt_gym"):
            encoder = vpt_gym.load_encoder("random:tiny?seed=11")
        assert encoder.report.untrained
        assert len(encoder.report.taken) == 125
        assert "random:tiny?seed=11: 125 tensors taken" in caplog.text
        assert "untrained" in caplog.text

    def test_weights_are_frozen(self) -> None:
        encoder = vpt_gym.load_encoder("random:tiny")
        assert not any(parameter.requires_grad for parameter in encoder.network.net.parameters())
        latents = encoder.encode(pictures(1, 2, 8, 8, 3))
        assert not latents.requires_grad
        # An ordinary tensor, not an inference-mode one: a head can be trained on it.
        torch.nn.Linear(encoder.latent_size, 1)(latents).sum().backward()

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"device": "tpu"}, "device must be auto, cpu, cuda or cuda:<index>, not 'tpu'"),
            ({"device": "meta"}, "not 'meta'"),
            (
                {"device": "cuda:99"},
                "device='cuda:99' was asked for, but torch sees .* CUDA devices; use device='auto'",
            ),
            (
                {"precision": "int3"},
                "precision must be one of auto, float32, tf32, bfloat16, float16, not 'int3'",
            ),
        ],
    )
    def test_options(self, options: dict[str, str], match: str) -> None:
        with pytest.raises(VPTGymError, match=match):
            vpt_gym.load_encoder("random:tiny", **options)

    @pytest.mark.parametrize(("sizes", "match"), [((0, 1, 1), "hidden_size"), ((64, 3, 1), "heads must divide")])
    def test_impossible_sizes(self, sizes: tuple[int, int, int], match: str) -> None:
        with pytest.raises(VPTGymError, match=match):
            VPTConfig(*sizes)


class TestFrames:
    def test_resize_is_bilinear(self) -> None:
        frame = pictures(360, 640, 3)
        expected = cv2.resize(frame, (128, 128), interpolation=cv2.INTER_LINEAR)
        assert np.array_equal(resize(frame[None], 128)[0], expected)
        area = cv2.resize(frame, (128, 128), interpolation=cv2.INTER_AREA)
        assert not np.array_equal(expected, area)

    def test_arrays_and_tensors_give_the_same(self, encoder: VPTEncoder) -> None:
        frames = pictures(2, 3, 40, 50, 3)
        assert torch.equal(encoder.encode(frames), encoder.encode(torch.from_numpy(frames)))
        assert torch.equal(encoder.encode(frames[:, :, ::-1]), encoder.encode(frames[:, :, ::-1].copy()))

    def test_frames_stay_the_callers(self, encoder: VPTEncoder) -> None:
        frames = pictures(1, 3, 128, 128, 3)
        copy = frames.copy()
        latents = encoder.encode(frames)
        frames[:] = 0
        assert torch.equal(latents, encoder.encode(copy))

    def test_real_convolutions_take_read_only_frames(self) -> None:
        frames = pictures(1, 2, 128, 128, 3)
        frames.setflags(write=False)
        assert encoder_of(random_net()).encode(frames).shape[:2] == (1, 2)

    @pytest.mark.parametrize(
        ("frames", "match"),
        [
            (np.zeros((1, 2, 8, 8, 3), np.float32), "uint8 pixels from 0 to 255, but float32 came; do not scale"),
            (torch.zeros(1, 2, 8, 8, 3), "torch.float32 came"),
            (np.zeros((2, 8, 8, 3), np.uint8), r"shape \[B, T, height, width, 3\], but \(2, 8, 8, 3\) came"),
            (np.zeros((1, 2, 8, 8, 4), np.uint8), r"\(1, 2, 8, 8, 4\) came"),
            (np.zeros((1, 0, 8, 8, 3), np.uint8), r"\(1, 0, 8, 8, 3\) came"),
            ([[1]], "a list came; use numpy.stack"),
        ],
    )
    def test_encode_refuses(self, frames: Any, match: str, encoder: VPTEncoder) -> None:
        with pytest.raises(ObservationError, match=f"encode: frames must .*{match}"):
            encoder.encode(frames)

    @pytest.mark.parametrize(
        ("first", "match"),
        [
            (np.zeros((2, 3), np.int64), r"bool of shape \(2, 3\).*int64 of shape \(2, 3\) came"),
            (np.zeros((3, 2), np.bool_), r"bool of shape \(2, 3\).*bool of shape \(3, 2\) came"),
        ],
    )
    def test_encode_refuses_flags(self, first: Any, match: str, encoder: VPTEncoder) -> None:
        with pytest.raises(ObservationError, match=f"encode: first must be {match}"):
            encoder.encode(pictures(2, 3, 8, 8, 3), first)


class TestStreamRefuses:
    @pytest.mark.parametrize(
        ("frames", "first", "rows", "match"),
        [
            (pictures(3, 8, 8, 3), [True] * 3, None, "one row for each of the 2 environments stepped, but 3 came"),
            (pictures(2, 8, 8, 3), [True], None, r"first must be bool of shape \(2,\)"),
            (pictures(2, 8, 8, 3), [1, 0], None, "int64 of shape"),
            (pictures(1, 8, 8, 3), [True], [2], "between 0 and 1, but \\[2\\] came"),
            (pictures(2, 8, 8, 3), [True] * 2, [1, 1], "rows must be distinct"),
            (pictures(1, 8, 8, 3), [True], [-1], "between 0 and 1"),
            (pictures(1, 8, 8, 3), [True], [True, False], "turn a mask into rows with numpy.flatnonzero"),
            (pictures(1, 8, 8, 3), [True], [], "rows must be a list of whole numbers"),
            (pictures(1, 8, 8, 3), [True], [0.0], "rows must be a list of whole numbers"),
        ],
    )
    def test_and_nothing_moves(self, frames: Any, first: Any, rows: Any, match: str, encoder: VPTEncoder) -> None:
        stream = encoder.stream(2)
        stream.step(pictures(2, 8, 8, 3), [True, True])
        before = stream.state_dict()
        with pytest.raises(ObservationError, match=f"step: .*{match}"):
            stream.step(frames, first, rows=rows)
        after = stream.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before if name != "fingerprint")

    def test_counts(self, encoder: VPTEncoder) -> None:
        assert encoder.stream(np.int64(2)).num_envs == 2  # type: ignore[arg-type]
        with pytest.raises(VPTGymError, match="num_envs must be a positive whole number, not 0"):
            encoder.stream(0)

    def test_foreign_states(self, encoder: VPTEncoder) -> None:
        stream = encoder.stream(2)
        with pytest.raises(VPTGymError, match="saved by another encoder"):
            stream.load_state_dict(quick_encoder(layer="block3").stream(2).state_dict())
        with pytest.raises(VPTGymError, match="make the stream with the number of environments that was saved"):
            stream.load_state_dict(encoder.stream(3).state_dict())
        with pytest.raises(VPTGymError, match="is a dict with the tensors keys_lbhmd"):
            stream.load_state_dict({})


class TestCallersModes:
    """Latents do not depend on what else the caller does with torch, and the memory survives it."""

    def test_inference_mode(self, encoder: VPTEncoder) -> None:
        frames = pictures(2, 4, 8, 8, 3)
        with torch.inference_mode():
            stream = encoder.stream(2)
            stream.step(frames[:, 0], [True, True])
        stream.step(frames[[1], 1], [False], rows=[1])
        with torch.inference_mode():
            stream.load_state_dict(stream.state_dict())
        latents = stream.step(frames[:, 2], [False, False])
        assert torch.isfinite(latents).all()
        assert not latents.is_inference()

    def test_autocast_and_default_dtype(self) -> None:
        encoder = encoder_of(random_net())
        frames = pictures(1, 3, 128, 128, 3)
        expected = encoder.encode(frames, pooling="mean")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(encoder.encode(frames, pooling="mean"), expected)
        torch.set_default_dtype(torch.float64)
        try:
            found = encoder.encode(frames, pooling="mean")
        finally:
            torch.set_default_dtype(torch.float32)
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)

    def test_flags_of_every_kind(self, encoder: VPTEncoder) -> None:
        frames = pictures(3, 8, 8, 3)
        flags = np.array([True, False, True])
        expected = encoder.stream(3).step(frames, flags)
        frozen = flags.copy()
        frozen.setflags(write=False)
        for kind in (flags[::-1][::-1], frozen, flags.tolist(), torch.from_numpy(flags.copy())):
            assert torch.equal(encoder.stream(3).step(frames, kind), expected)
        for wrong in (None, "yes", [[True], [True, False]], np.array([None] * 3)):
            with pytest.raises(ObservationError, match=r"step: first must be bool of shape \(3,\)"):
                encoder.stream(3).step(frames, wrong)  # type: ignore[arg-type]

    def test_rows_of_every_kind(self, encoder: VPTEncoder) -> None:
        frames = pictures(2, 8, 8, 3)
        expected = encoder.stream(3).step(frames, [True] * 2, rows=[2, 0])
        for kind in (np.array([2, 0], np.uint8), torch.tensor([2, 0]), (2, 0)):
            assert torch.equal(encoder.stream(3).step(frames, [True] * 2, rows=kind), expected)  # type: ignore[arg-type]
        with pytest.raises(ObservationError, match="rows must be a list of whole numbers"):
            encoder.stream(3).step(frames, [True] * 2, rows=[[1], [1, 2]])  # type: ignore[list-item]

    def test_frames_may_lie_anywhere_and_in_any_order(self, encoder: VPTEncoder) -> None:
        """A tensor that is not contiguous, and one that is another's memory."""
        frames = torch.from_numpy(pictures(3, 128, 128, 3))
        turned = frames.flip(3).permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1).flip(3)
        streams = [encoder.stream(3) for _ in range(2)]
        assert torch.equal(streams[0].step(frames, [True] * 3), streams[1].step(turned, [True] * 3))

    def test_streams_can_be_copied(self, encoder: VPTEncoder) -> None:
        """The copy has its own memory, and goes on from where it was made."""
        frames = pictures(4, 2, 8, 8, 3)
        stream = encoder.stream(2)
        stream.step(frames[0], [True, True])
        other = copy.deepcopy(stream)
        other.step(frames[1], [True, True])
        expected = encoder.stream(2)
        expected.step(frames[0], [True, True])
        assert torch.equal(stream.step(frames[2], [False] * 2), expected.step(frames[2], [False] * 2))

    def test_copies_are_the_encoder_itself(self, encoder: VPTEncoder) -> None:
        assert copy.deepcopy({"encoder": encoder})["encoder"] is encoder
