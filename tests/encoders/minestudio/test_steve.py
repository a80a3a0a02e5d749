"""STEVE-1: what it is told, how strongly, and on which network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

from tests.encoders.minestudio.cases import TOLERANCE
from tests.encoders.minestudio.policies import resets, steve_policy, vpt_policy, words_known
from tests.support.frames import MinecraftVideos
from tests.support.scripted import ScriptedEnv
from vpt_gym.encoders.minestudio import PolicyEncoder, encoder_from_policy
from vpt_gym.errors import OptionError, VPTGymError, WeightsError
from vpt_gym.sb3 import VecVPTLatent

pytestmark = pytest.mark.minestudio

STEPS = 210
EMBEDS = np.random.default_rng(11).standard_normal((3, 512)).astype(np.float32)


@pytest.fixture(scope="module")
def encoder(steve: Any) -> PolicyEncoder:
    return encoder_from_policy(steve)


def told(row: int, scale: float) -> dict[str, Any]:
    return {"mineclip_embeds": EMBEDS[row], "cond_scale": scale}


def test_both_networks_agree(steve: Any, real_frames: MinecraftVideos) -> None:
    """Strong guidance, and none; the memory of 128 frames is filled, and cleared at random."""
    frames, first = real_frames.small(STEPS, rows=2), resets(2, STEPS, seed=4, rate=0.01)
    assert 3 < first.sum() < 10
    latents = []
    for network in ("vpt_gym", "policy"):
        stream = encoder_from_policy(steve, network=network).stream(2)
        for row, scale in enumerate((4.0, 0.0)):
            stream.set_condition(told(row, scale), rows=[row])
        latents.append(torch.stack([stream.step(frames[:, step], first[:, step]) for step in range(STEPS)]))
    worst = (latents[0] - latents[1]).abs().amax(dim=(0, 2))
    print(f"STEVE-1, both networks, cond_scale 4 and 0: {', '.join(f'{float(row):.1e}' for row in worst)}")
    assert float(worst.max()) <= TOLERANCE
    assert float(latents[0][:, 0].std()) > 3 * float(latents[0][:, 1].std())  # guidance is not nothing


@pytest.mark.parametrize("network", ["vpt_gym", "policy"])
def test_guidance_mixes_latents(network: str, steve: Any, real_frames: MinecraftVideos) -> None:
    """(1+s) z - s z', where z' is the latent of a row whose embedding is zero, with a memory of its own."""
    encoder = encoder_from_policy(steve, network=network)
    stream = encoder.stream(3)
    stream.set_condition(told(0, 3.0), rows=[0])
    stream.set_condition(told(0, 0.0), rows=[1])
    stream.set_condition({"mineclip_embeds": np.zeros(512, np.float32), "cond_scale": 0}, rows=[2])
    for frame in real_frames.small(6, rows=1)[0]:
        guided, conditioned, unconditioned = stream.step(np.stack([frame] * 3), [False] * 3)
        torch.testing.assert_close(guided, 4 * conditioned - 3 * unconditioned, atol=TOLERANCE, rtol=0)
        values = steve.value_head(torch.stack([guided, conditioned, unconditioned]))[:, 0].detach()
        torch.testing.assert_close(values[0], 4 * values[1] - 3 * values[2], atol=TOLERANCE, rtol=0)
    assert float((conditioned - unconditioned).abs().max()) > 0.1


def test_text(steve: Any, encoder: PolicyEncoder, real_frames: MinecraftVideos) -> None:
    """A text is the mean of the prior, the same every time; a seed draws from the prior and leaves torch's generator alone."""
    with words_known():
        mean = steve.prepare_condition({"text": "chop a tree", "cond_scale": 4.0}, deterministic=True)[
            "mineclip_embeds"
        ][0]
        before = torch.random.get_rng_state()
        prepared = [
            encoder.prepare_condition({"text": text, "cond_scale": 4.0, **seed}).entries["mineclip_embeds"]
            for text, seed in [
                ("chop a tree", {}),
                ("dig a hole", {}),
                ("chop a tree", {"seed": 1}),
                ("chop a tree", {"seed": np.int64(1)}),
                ("chop a tree", {"seed": 2}),
            ]
        ]
        assert torch.equal(before, torch.random.get_rng_state())
        stream = encoder.stream(1)
        stream.set_condition({"text": "chop a tree", "cond_scale": 2})
    torch.testing.assert_close(prepared[0], mean.detach())
    assert torch.equal(prepared[2], prepared[3])
    assert not any(torch.equal(prepared[0], other) for other in prepared[1:])
    assert not torch.equal(prepared[2], prepared[4])
    same = encoder.stream(1)
    same.set_condition({"mineclip_embeds": prepared[0], "cond_scale": 2})
    frame = real_frames.small(1, rows=1)[0]
    assert torch.equal(stream.step(frame, [True]), same.step(frame, [True]))


def test_goals_are_mineclips(steve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrapper's goal in words is embedded by the policy's own MineCLIP, once, where no CLIP is named."""
    embedded, embed = [], steve.mineclip.encode_text
    monkeypatch.setattr(steve.mineclip, "encode_text", lambda tokens: embedded.append(1) or embed(tokens))
    with words_known():
        with torch.no_grad():
            wanted = embed(["chop a tree"])[0].numpy()
            other = embed(["dig a hole"])[0].numpy()
        assert np.abs(wanted - other).max() > 1e-3
        encoder = encoder_from_policy(steve, condition=told(0, 0.0))
        venv = DummyVecEnv([ScriptedEnv] * 2)
        seen = VecVPTLatent(venv, encoder, goal="chop a tree").reset()
        assert seen["latent"].shape == (2, encoder.latent_size)
        np.testing.assert_allclose(seen["goal"], [wanted] * 2, atol=1e-6)
        goal = encoder.goal_tower.goal("chop a tree")
        goal[:] = 0
        np.testing.assert_allclose(encoder.goal_tower.goal("chop a tree"), wanted, atol=1e-6)
        assert len(embedded) == 1
        with pytest.raises(OptionError, match="fewer tokens than the 77"):
            VecVPTLatent(venv, encoder, goal="go on " * 40)
    assert encoder_from_policy(vpt_policy()).goal_tower is None


def test_without_its_tokenizer(encoder: PolicyEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for ask in (encoder.goal_tower.goal, lambda text: encoder.prepare_condition({"text": text, "cond_scale": 1.0})):
        with pytest.raises(WeightsError, match=r"tokenizer of openai/clip-vit-base-patch16.*hub's cache"):
            ask("chop a tree")


@pytest.mark.parametrize("as_tensor", [False, True])
def test_video(steve: Any, encoder: PolicyEncoder, real_frames: MinecraftVideos, *, as_tensor: bool) -> None:
    video: Any = real_frames.raw(16, rows=1)[0]
    with torch.no_grad():
        expected = steve.prepare_condition({"video": video, "cond_scale": 1.0})["mineclip_embeds"][0]
    video = torch.from_numpy(video) if as_tensor else video
    prepared = encoder.prepare_condition({"video": video, "cond_scale": 1.0})
    torch.testing.assert_close(prepared.entries["mineclip_embeds"], expected)


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("chop a tree", "dict with 'cond_scale' and one of 'text'"),
        ({"text": "chop a tree"}, "its keys are 'text'"),
        ({"cond_scale": 4.0}, "its keys are 'cond_scale'"),
        ({"text": "a", "video": EMBEDS, "cond_scale": 4.0}, "one of 'text', 'video'"),
        ({"text": "a", "cond_scale": 4.0, "sacle": 1}, "'sacle'"),
        ({"text": "", "cond_scale": 4.0}, "in words, but '' came"),
        ({"text": ["a"], "cond_scale": 4.0}, "in words"),
        ({"text": "a", "cond_scale": -1}, "from 0, for no guidance"),
        ({"text": "a", "cond_scale": True}, "from 0, for no guidance"),
        ({"text": "a", "cond_scale": float("nan")}, "from 0, for no guidance"),
        ({"text": "a", "cond_scale": float("inf")}, "to 10000, but inf came"),
        ({"text": "a", "cond_scale": 1e38}, "to 10000, but 1e[+]38 came"),
        ({"text": "a", "cond_scale": 10**400}, "to 10000, but 1000"),
        ({"text": "a", "cond_scale": 1, "seed": 1.5}, "seed must be a whole number"),
        ({"mineclip_embeds": EMBEDS[0], "cond_scale": 1, "seed": 1}, "goes with text alone"),
        ({"text": "a", "cond_scale": 1, "seed": 2**64}, "at most 64 bits"),
        ({"text": "a", "cond_scale": 1, "seed": True}, "at most 64 bits"),
        ({"video": "a.mp4", "cond_scale": 1}, "the frames themselves.*the path 'a.mp4' came"),
        ({"mineclip_embeds": EMBEDS, "cond_scale": 1}, "512 floating-point numbers"),
        ({"mineclip_embeds": EMBEDS[0] * np.nan, "cond_scale": 1}, "NaN or infinity"),
        ({"mineclip_embeds": np.zeros(512, np.int64), "cond_scale": 1}, "512 floating-point numbers"),
        ({"mineclip_embeds": [0.0] * 512, "cond_scale": 1}, "a list came"),
        ({"video": np.zeros((4, 8, 8, 3), np.float32), "cond_scale": 1}, "uint8"),
        ({"video": np.zeros((33, 8, 8, 3), np.uint8), "cond_scale": 1}, "at most 32 frames"),
        ({"video": np.zeros((8, 8, 3), np.uint8), "cond_scale": 1}, "must have shape"),
        (None, "a NoneType came"),
    ],
)
def test_bad_conditions(condition: Any, words: str, encoder: PolicyEncoder) -> None:
    stream = encoder.stream(1)
    with pytest.raises(VPTGymError, match=words):
        stream.set_condition(condition)


def test_a_row_without_condition_does_not_step(encoder: PolicyEncoder, real_frames: MinecraftVideos) -> None:
    stream = encoder.stream(2)
    stream.set_condition(told(0, 1.0), rows=[0])
    frames = real_frames.small(1, rows=2)[:, 0]
    with pytest.raises(VPTGymError, match=r"rows \[1\] have no condition, and SteveOnePolicy needs one"):
        stream.step(frames, [True, True])
    stream.step(frames[:1], [True], rows=[0])


def test_another_trunk_runs_on_the_policys_own_forward(caplog: pytest.LogCaptureFixture) -> None:
    """An option that tensors don't show is found on the live modules: the log says so, and a wish for vpt_gym's is refused."""
    policy = steve_policy(pointwise_use_activation=True)
    with caplog.at_level("INFO", logger="vpt_gym"):
        encoder = encoder_from_policy(policy)
    assert encoder.network == "policy"
    reason = "mlp1.use_activation is True, where VPT has False"
    assert reason in caplog.text
    with pytest.raises(VPTGymError, match=reason):
        encoder_from_policy(policy, network="vpt_gym")
