"""What every encoder of a policy has in common: identity, copies, conditions in time and threads."""

from __future__ import annotations

import copy
import io
import pickle
import threading
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from tests.encoders.minestudio.cases import TOLERANCE
from tests.encoders.minestudio.own import markovian
from tests.encoders.minestudio.policies import steve_policy, vpt_policy
from tests.support.frames import MinecraftVideos
from vpt_gym.encoders import Encoder
from vpt_gym.encoders.minestudio import PolicyEncoder, encoder_from_policy
from vpt_gym.errors import ObservationError, VPTGymError

pytestmark = pytest.mark.minestudio

EMBEDS = np.random.default_rng(11).standard_normal((3, 512)).astype(np.float32)


def told(row: int, scale: float = 1.0) -> dict[str, Any]:
    return {"mineclip_embeds": EMBEDS[row], "cond_scale": scale}


def steve_encoder(steve: Any, network: str = "vpt_gym") -> PolicyEncoder:
    return encoder_from_policy(steve, told(0), network=network)


def test_is_an_encoder(vpt: Any) -> None:
    encoder = encoder_from_policy(vpt)
    assert isinstance(encoder, Encoder)
    assert (encoder.latent_size, encoder.frame_size, encoder.also_reads) == (64, 128, ())
    assert encoder.latent_space.shape == (64,)
    assert encoder.latent_space.dtype == np.float32
    assert encoder.recorded == {"encoder": encoder, "encoder_options": None}
    assert "vpt_gym's network" in encoder.backend
    assert encoder.backend in repr(encoder)


def test_fingerprint(vpt: Any, steve: Any) -> None:
    """Of tensors, class and preprocessing; of neither network nor condition."""
    encoder = encoder_from_policy(vpt)
    assert encoder.fingerprint == encoder_from_policy(vpt, network="policy").fingerprint
    assert encoder.fingerprint == encoder_from_policy(vpt_policy()).fingerprint
    own = markovian()
    assert encoder_from_policy(own, frame_size=64).fingerprint != encoder_from_policy(own, frame_size=32).fingerprint
    changed = vpt_policy()
    with torch.no_grad():
        changed.net.final_ln.bias[5] += 1e-6
    assert encoder.fingerprint != encoder_from_policy(changed).fingerprint
    assert encoder_from_policy(steve, told(0)).fingerprint == encoder_from_policy(steve).fingerprint


def test_copies(vpt: Any, steve: Any, real_frames: MinecraftVideos) -> None:
    """The encoder is shared by its copies, a stream's copy goes its own way, and neither is pickled."""
    frames = real_frames.small(2)
    for encoder in (encoder_from_policy(vpt), steve_encoder(steve), steve_encoder(steve, "policy")):
        assert copy.deepcopy(encoder) is encoder
        stream = encoder.stream(3)
        stream.step(frames[:, 0], [True] * 3)
        with pytest.raises(VPTGymError, match=r"use copy\.deepcopy"):
            copy.copy(stream)
        twin = copy.deepcopy(stream)
        assert twin.encoder is encoder
        expected = stream.step(frames[:, 1], [False] * 3)
        assert torch.equal(twin.step(frames[:, 1], [False] * 3), expected)
        for thing in (encoder, stream):
            with pytest.raises(VPTGymError, match="cannot be pickled, because it stands for a live policy"):
                pickle.dumps(thing)


@pytest.mark.parametrize("network", ["vpt_gym", "policy"])
def test_conditions_change_at_boundaries(network: str, steve: Any, real_frames: MinecraftVideos) -> None:
    """A row that is told something else in the middle of an episode ends it as it began, even over a saved state."""
    encoder = steve_encoder(steve, network)
    frames = real_frames.small(6, rows=1)[0]
    never, always = encoder.stream(1), encoder.stream(1)
    always.set_condition(told(1, 0.5))
    changed = encoder.stream(2)
    for step, frame in enumerate(frames):
        opens = step in {0, 4}
        if step == 2:
            changed.set_condition(told(1, 0.5), rows=[1])
            changed.load_state_dict(changed.state_dict())
        unmoved, moved = changed.step(np.stack([frame] * 2), [opens] * 2)
        old, new = never.step(frame[None], [opens])[0], always.step(frame[None], [opens])[0]
        assert float((old - new).abs().max()) > 0.01
        expected = new if step >= 4 else old
        torch.testing.assert_close(moved, expected, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(unmoved, old, atol=TOLERANCE, rtol=0)


def test_a_prepared_condition_is_shared(steve: Any, real_frames: MinecraftVideos) -> None:
    encoder = steve_encoder(steve)
    prepared = encoder.prepare_condition(told(2))
    assert encoder.prepare_condition(prepared) is prepared
    streams = encoder.stream(1), encoder.stream(1)
    streams[0].set_condition(prepared)
    streams[1].set_condition(told(2))
    frame = real_frames.small(1, rows=1)[0]
    assert torch.equal(*(stream.step(frame, [True]) for stream in streams))
    with pytest.raises(VPTGymError, match="prepared for another policy"):
        encoder_from_policy(steve_policy(seed=1)).stream(1).set_condition(prepared)
    with pytest.raises(ObservationError, match="rows must be distinct and between 0 and 0"):
        streams[0].set_condition(prepared, rows=[1])


@pytest.mark.parametrize("kind", ["vpt_gym", "policy", "steve"])
def test_state_goes_through_a_file(kind: str, vpt: Any, steve: Any, real_frames: MinecraftVideos) -> None:
    encoder = steve_encoder(steve) if kind == "steve" else encoder_from_policy(vpt, network=kind)
    frames = real_frames.small(3)
    stream = encoder.stream(3)
    stream.step(frames[:, 0], [True] * 3)
    stream.step(frames[:2, 1], [False] * 2, rows=[0, 2])
    file = io.BytesIO()
    torch.save(stream.state_dict(), file)
    file.seek(0)
    restored = encoder.stream(3)
    restored.load_state_dict(torch.load(file, weights_only=True))
    expected = stream.step(frames[:, 2], [False] * 3)
    assert torch.equal(restored.step(frames[:, 2], [False] * 3), expected)


def test_states_that_do_not_fit(vpt: Any) -> None:
    encoder = encoder_from_policy(vpt)
    state = encoder.stream(2).state_dict()
    with pytest.raises(VPTGymError, match="num_envs is 2, but this stream's is 3"):
        encoder.stream(3).load_state_dict(state)
    with pytest.raises(VPTGymError, match="network is 'vpt_gym', but this stream's is 'policy'"):
        encoder_from_policy(vpt, network="policy").stream(2).load_state_dict(state)
    with pytest.raises(VPTGymError, match="fingerprint is"):
        encoder_from_policy(vpt_policy(seed=1)).stream(2).load_state_dict(state)
    with pytest.raises(VPTGymError, match="is a dict with begun, fingerprint"):
        encoder.stream(2).load_state_dict({"keys": torch.zeros(3)})


def spoilt(state: dict[str, Any]) -> list[Any]:
    """What is no state, and states of two rows of which one entry is wrong."""
    wrong: list[Any] = [None, 5, {}, [state]]
    for name, values in {
        "begun": [[True], [True] * 3, None, 5, [1, 0], "ab"],
        "running": [[5, 5], [None], [{"other": 1}, None], None, [None, None]],
        "wanted": [[5, 5], [None] * 3, {}],
        "memory": [{}, None, {"rows": []}, {"rows": [None, None]}, {"rows": [5, torch.zeros(1, 3)]}],
        "num_envs": [torch.zeros(2), True],
        "fingerprint": [None],
    }.items():
        wrong += [{**state, name: value} for value in values]
    if "rows" not in state["memory"]:
        memory = state["memory"]
        wrong += [
            {**state, "memory": {**memory, "slot_b": value}}
            for value in (memory["slot_b"] + 500, torch.zeros(2), [0, 0])
        ]
        wrong += [{**state, "memory": {**memory, name: memory[name][:1]}} for name in ("keys_lbhmd", "seen_b")]
        wrong += [{**state, "memory": {name: memory[name] for name in memory if name != "values_lbhmd"}}]
    return wrong


@pytest.mark.parametrize("network", ["vpt_gym", "policy"])
@pytest.mark.parametrize("kind", ["vpt", "steve"])
def test_a_refused_state_changes_nothing(
    kind: str, network: str, vpt: Any, steve: Any, real_frames: MinecraftVideos
) -> None:
    encoder = steve_encoder(steve, network=network) if kind == "steve" else encoder_from_policy(vpt, network=network)
    frames = real_frames.small(2, rows=2)
    stream, twin, other = encoder.stream(2), encoder.stream(2), encoder.stream(2)
    for moved in (stream, twin):
        moved.step(frames[:, 0], [True, True])
    other.step(frames[:, 1], [True, True])  # another past, so that half of its state would show
    for wrong in spoilt(other.state_dict()):
        with pytest.raises(VPTGymError, match="state"):
            stream.load_state_dict(wrong)
    assert torch.equal(stream.step(frames[:, 1], [False, False]), twin.step(frames[:, 1], [False, False]))
    assert torch.equal(stream.step(frames[:, 1], [True, False]), twin.step(frames[:, 1], [True, False]))


@pytest.mark.parametrize("kind", ["vpt_gym", "policy"])
def test_encode(kind: str, vpt: Any, real_frames: MinecraftVideos) -> None:
    encoder = encoder_from_policy(vpt, network=kind)
    frames = real_frames.small(4, rows=2)
    first = np.array([[True, False, False, False], [False, False, True, False]])
    latents = encoder.encode(frames, first)
    assert latents.shape == (2, 4, 64)
    stream = encoder.stream(2)
    for step in range(4):
        assert torch.equal(latents[:, step], stream.step(frames[:, step], first[:, step]))
    assert not torch.equal(encoder.encode(frames)[1, 2], latents[1, 2])
    with pytest.raises(ObservationError, match=r"encode: frames must have shape \[B, T, height, width, 3\]"):
        encoder.encode(frames[0])


def test_latents_belong_to_the_caller(vpt: Any, real_frames: MinecraftVideos) -> None:
    """Fresh, without a graph, whatever modes of torch are on; and the frames stay what they were."""
    frames = real_frames.small(2)
    for network in ("vpt_gym", "policy"):
        encoder = encoder_from_policy(vpt, network=network)
        stream, plain = encoder.stream(3), encoder.stream(3)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            first = stream.step(frames[:, 0], [True] * 3)
        kept = first.clone()
        assert first.dtype == torch.float32
        assert not first.is_inference()
        assert not first.requires_grad
        assert torch.equal(first, plain.step(frames[:, 0], [True] * 3))
        first.zero_()
        second = stream.step(frames[:, 1], [False] * 3)
        assert torch.equal(second, plain.step(frames[:, 1], [False] * 3))
        assert not torch.equal(second, kept)


def test_two_threads_take_turns_on_one_policy(real_frames: MinecraftVideos) -> None:
    """Masks, caches and hooks lie on the policy's modules: its forward is one thread's at a time, through two encoders too."""
    policy = steve_policy()
    frames = real_frames.small(4)
    meeting = threading.Barrier(2)
    met: list[int] = []

    def meet(*_: Any) -> None:
        try:
            met.append(meeting.wait(timeout=0.1))
        except threading.BrokenBarrierError:  # nobody else came in, as it should be
            meeting.reset()

    def run(row: int, results: dict[int, torch.Tensor]) -> None:
        stream = encoder_from_policy(policy, told(row), network="policy").stream(3)
        results[row] = torch.stack([stream.step(frames[:, step], [step % 3 == row] * 3) for step in range(4)])

    alone: dict[int, torch.Tensor] = {}
    for row in range(2):
        run(row, alone)
    policy.net.lastlayer.register_forward_pre_hook(meet)
    together: dict[int, torch.Tensor] = {}
    threads = [threading.Thread(target=run, args=(row, together)) for row in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert met == []
    for row in range(2):
        torch.testing.assert_close(together[row], alone[row], atol=1e-5, rtol=0)


def test_heads(vpt: Any) -> None:
    encoder = encoder_from_policy(vpt)
    heads = encoder.heads
    assert (heads.latent_size, heads.actions, heads.temperature) == (64, {"buttons": 8641, "camera": 121}, 1.0)
    assert torch.equal(heads.tensor("pi_head.camera.linear_layer.weight"), vpt.pi_head["camera"].linear_layer.weight)
    warm = vpt_policy()
    for part in ("buttons", "camera"):
        warm.pi_head[part].temperature = 2.0
    assert encoder_from_policy(warm).heads.temperature == 2.0


def test_heads_of_another_action_space(real_frames: MinecraftVideos) -> None:
    """The latents are good for another head all the same."""
    policy = markovian()
    discrete = gym.spaces.MultiDiscrete([5])
    policy.__init__(48, gym.spaces.Dict({"buttons": discrete, "camera": discrete, "chat": discrete}))
    encoder = encoder_from_policy(policy.eval(), frame_size=64)
    assert encoder.stream(1).step(real_frames.small(1, rows=1)[0], [True]).shape == (1, 48)
    with pytest.raises(
        VPTGymError, match=r"action space is not VPT's, buttons and camera: its pi_head holds .*pi_head.chat"
    ):
        _ = encoder.heads
