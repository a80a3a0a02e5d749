"""What every encoder of a policy has in common: identity, copies, conditions in time, threads, and what is refused."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from tests.minestudio.cases import TOLERANCE
from tests.minestudio.own import markovian
from tests.minestudio.policies import steve_policy, vpt_policy
from tests.support.frames import MinecraftVideos
from vpt_gym.errors import ObservationError, VPTGymError
from vpt_gym.minestudio import PolicyEncoder, encoder_from_policy
from vpt_gym.streams import Encoder

needs_minestudio = pytest.mark.minestudio

EMBEDS = np.random.default_rng(11).standard_normal((3, 512)).astype(np.float32)


def told(row: int, scale: float = 1.0) -> dict[str, Any]:
    return {"mineclip_embeds": EMBEDS[row], "cond_scale": scale}


def steve_encoder(steve: Any, network: str = "vpt_gym") -> PolicyEncoder:
    return encoder_from_policy(steve, told(0), network=network)


@needs_minestudio
def test_is_an_encoder(vpt: Any) -> None:
    encoder = encoder_from_policy(vpt)
    assert isinstance(encoder, Encoder)
    assert (encoder.latent_size, encoder.frame_size, encoder.also_reads) == (64, 128, ())
    assert encoder.latent_space.shape == (64,)
    assert encoder.latent_space.dtype == np.float32
    assert encoder.recorded == {"encoder": encoder, "encoder_options": None}
    assert "vpt_gym's network" in encoder.path
    assert encoder.path in repr(encoder)


@needs_minestudio
def test_fingerprint(vpt: Any, steve: Any) -> None:
    """Of tensors, class and preprocessing; of neither network nor condition."""
    encoder = encoder_from_policy(vpt)
    assert encoder.fingerprint == encoder_from_policy(vpt, network="policy").fingerprint
    assert encoder.fingerprint == encoder_from_policy(vpt_policy()).fingerprint
    assert encoder.fingerprint != encoder_from_policy(vpt, frame_size=64).fingerprint
    changed = vpt_policy()
    with torch.no_grad():
        changed.net.final_ln.bias[5] += 1e-6
    assert encoder.fingerprint != encoder_from_policy(changed).fingerprint
    assert encoder_from_policy(steve, told(0)).fingerprint == encoder_from_policy(steve).fingerprint


@needs_minestudio
def test_copies(vpt: Any, steve: Any, real_frames: MinecraftVideos) -> None:
    """The encoder is shared by its copies, a stream's copy goes its own way, and neither is pickled."""
    frames = real_frames.small(2)
    for encoder in (encoder_from_policy(vpt), steve_encoder(steve), steve_encoder(steve, "policy")):
        assert copy.deepcopy(encoder) is encoder
        stream = encoder.stream(3)
        stream.step(frames[:, 0], [True] * 3)
        twin = copy.deepcopy(stream)
        assert twin.encoder is encoder
        expected = stream.step(frames[:, 1], [False] * 3)
        assert torch.equal(twin.step(frames[:, 1], [False] * 3), expected)
        for thing in (encoder, stream):
            with pytest.raises(VPTGymError, match="cannot be pickled, because it stands for a live policy"):
                pickle.dumps(thing)


@needs_minestudio
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


@needs_minestudio
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


@needs_minestudio
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


@needs_minestudio
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


@needs_minestudio
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
    with pytest.raises(ObservationError, match=r"encode: frames must be .* \[B, T, height, width, 3\]"):
        encoder.encode(frames[0])


@needs_minestudio
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


@needs_minestudio
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


@needs_minestudio
def test_heads(vpt: Any) -> None:
    encoder = encoder_from_policy(vpt)
    heads = encoder.heads
    assert (heads.latent_size, heads.buttons, heads.camera, heads.temperature) == (64, 8641, 121, 1.0)
    assert torch.equal(heads.tensor("pi_head.camera.linear_layer.weight"), vpt.pi_head["camera"].linear_layer.weight)
    warm = vpt_policy()
    for part in ("buttons", "camera"):
        warm.pi_head[part].temperature = 2.0
    assert encoder_from_policy(warm).heads.temperature == 2.0


@needs_minestudio
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


@needs_minestudio
def test_policies_that_are_refused(vpt: Any) -> None:
    with pytest.raises(
        VPTGymError, match=r"a loaded policy of MineStudio, such as VPTPolicy.from_pretrained.*but a str came"
    ):
        encoder_from_policy("CraftJarvis/MineStudio_STEVE-1.official")
    with pytest.raises(VPTGymError, match="but a Linear came; a policy of your own must derive from"):
        encoder_from_policy(nn.Linear(2, 2))
    with pytest.raises(VPTGymError, match=r"VPTPolicy is in training mode \(the policy itself\).*call policy.eval\(\)"):
        encoder_from_policy(vpt_policy().train())
    half = vpt_policy()
    half.net.lastlayer.train()
    with pytest.raises(VPTGymError, match=r"training mode \(net.lastlayer\)"):
        encoder_from_policy(half)
    with pytest.raises(VPTGymError, match=r"holds parameters of torch.float64; call policy.float\(\)"):
        encoder_from_policy(vpt_policy().double())
    headless = vpt_policy()
    del headless.pi_head
    with pytest.raises(VPTGymError, match="VPTPolicy has no pi_head, and a latent is what enters it"):
        encoder_from_policy(headless)
    with pytest.raises(VPTGymError, match="VPTPolicy takes no condition, but a dict came"):
        encoder_from_policy(vpt, {"text": "dig"})
    with pytest.raises(VPTGymError, match="network must be one of auto, vpt_gym, policy, not 'fast'"):
        encoder_from_policy(vpt, network="fast")
    with pytest.raises(VPTGymError, match="MyMarkovPolicy is neither a VPTPolicy nor a SteveOnePolicy"):
        encoder_from_policy(markovian(), frame_size=64, network="vpt_gym")


@needs_minestudio
def test_a_policy_that_changes_afterwards(vpt: Any, real_frames: MinecraftVideos) -> None:
    policy = vpt_policy()
    encoder = encoder_from_policy(policy)
    stream = encoder.stream(1)
    policy.train()
    with pytest.raises(VPTGymError, match="set to training mode"):
        stream.step(real_frames.small(1, rows=1)[0], [True])
    policy.eval().to("meta")
    with pytest.raises(VPTGymError, match="moved from cpu to meta"):
        stream.step(real_frames.small(1, rows=1)[0], [True])


@needs_minestudio
@pytest.mark.parametrize(
    ("option", "value", "found"),
    [
        ("pointwise_use_activation", True, "mlp1.use_activation is True"),
        ("attention_mask_style", "none", "mask is 'none'"),
        ("first_conv_norm", True, "tensors"),
        ("use_pre_lstm_ln", True, "pre_lstm_ln"),
        ("scale_input_img", False, "ob_scale is 1.0"),
        ("impala_kwargs", {"post_pool_groups": 4}, "num_groups is 4"),
        ("recurrence_is_residual", False, "is_residual is False"),
    ],
)
def test_networks_that_are_not_vpts(
    option: str, value: Any, found: str, real_frames: MinecraftVideos, caplog: pytest.LogCaptureFixture
) -> None:
    policy = vpt_policy(**{option: value})
    with caplog.at_level("INFO", logger="vpt_gym"):
        encoder = encoder_from_policy(policy)
    assert encoder.network == "policy"
    assert found in caplog.text
    stream = encoder.stream(2)
    latents = stream.step(real_frames.small(1, rows=2)[:, 0], [True, True])
    assert bool(latents.isfinite().all())


@needs_minestudio
def test_parts_of_somebody_elses(vpt: Any) -> None:
    class Doubled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
            return 2 * super().forward(input)

    policy = vpt_policy()
    policy.net.lastlayer.layer.__class__ = Doubled
    with pytest.raises(VPTGymError, match=r"net\.lastlayer\.layer is a part of somebody else's"):
        encoder_from_policy(policy, network="vpt_gym")
    policy = vpt_policy()
    with torch.no_grad():
        policy.net.final_ln.bias[0] = float("nan")
    with pytest.raises(VPTGymError, match="NaN or infinity"):
        encoder_from_policy(policy)


@needs_minestudio
@pytest.mark.parametrize(
    ("frames", "first", "rows", "words"),
    [
        (np.zeros((2, 9, 9, 3), np.float32), [True] * 2, None, "must be uint8"),
        (np.zeros((2, 3, 9, 9), np.uint8), [True] * 2, None, "must have shape"),
        (np.zeros((3, 9, 9, 3), np.uint8), [True] * 3, None, "one row for each of the 2 environments"),
        (np.zeros((2, 9, 9, 3), np.uint8), [1, 0], None, "first must be bool"),
        (np.zeros((1, 9, 9, 3), np.uint8), [True], [2], "between 0 and 1"),
        ([], [True] * 2, None, "a list came"),
    ],
)
def test_bad_steps(frames: Any, first: Any, rows: Any, words: str, vpt: Any) -> None:
    with pytest.raises(ObservationError, match=words):
        encoder_from_policy(vpt).stream(2).step(frames, first, rows=rows)


def test_without_minestudio(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence that says which extra to install."""
    monkeypatch.delitem(sys.modules, "minestudio.models.base_policy", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(VPTGymError, match=r"encoder_from_policy needs the package minestudio.*\[minestudio\]"):
        encoder_from_policy(nn.Linear(2, 2))


def test_importing_imports_no_minestudio() -> None:
    code = (
        "import sys, vpt_gym.minestudio; print([name for name in ('minestudio', 'timm', 'ray') if name in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"
