"""What is refused in a sentence, which networks are not VPT's, and what is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.encoders.minestudio.own import markovian
from tests.encoders.minestudio.policies import vpt_policy
from tests.support.frames import MinecraftVideos
from vpt_gym.encoders.minestudio import encoder_from_policy
from vpt_gym.errors import ObservationError, VPTGymError

needs_minestudio = pytest.mark.minestudio


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
@pytest.mark.parametrize("network", ["auto", "vpt_gym", "policy"])
def test_a_head_for_other_latents(network: str, real_frames: MinecraftVideos) -> None:
    """An encoder would say 7, and give 64; the policy's own forward would fail in its head."""
    policy = vpt_policy()
    policy.pi_head = nn.Linear(7, 3).eval()
    with pytest.raises(
        VPTGymError, match=r"VPTPolicy.pi_head reads latents of 7 numbers.*64.*give the policy a pi_head"
    ):
        encoder_from_policy(policy, network=network).stream(1).step(real_frames.small(1, rows=1)[0], [True])


@needs_minestudio
def test_policies_without_numbers_or_network() -> None:
    """Whichever network is to compute: the policy's own forward is no less careful than vpt_gym's."""
    for network in ("policy", "vpt_gym"):
        for number in ("nan", "inf"):
            damaged = vpt_policy()
            with torch.no_grad():
                damaged.value_head.linear.bias[0] = float(number)
            with pytest.raises(VPTGymError, match=r"VPTPolicy.value_head.* holds NaN or infinity; load weights"):
                encoder_from_policy(damaged, network=network)
        with pytest.raises(VPTGymError, match="is on the meta device, where there are no numbers"):
            encoder_from_policy(vpt_policy().to("meta"), network=network)
        empty = vpt_policy()
        empty.net = None
        with pytest.raises(
            VPTGymError, match=r"VPTPolicy.net must be the network that its forward calls, but it is None"
        ):
            encoder_from_policy(empty, network=network)


@needs_minestudio
@pytest.mark.parametrize("network", ["auto", "policy"])
def test_frames_that_a_network_is_not_made_for(network: str, vpt: Any, steve: Any) -> None:
    for policy in (vpt, steve):
        with pytest.raises(VPTGymError, match="reads frames of 128x128 pixels and no others, but frame_size is 64"):
            encoder_from_policy(policy, network=network, frame_size=64)
    assert encoder_from_policy(vpt, network=network, frame_size=128).frame_size == 128


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
