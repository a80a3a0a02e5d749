"""Policies that a user derived: MineStudio's two templates, states of every form, and what can be wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.encoders.minestudio.cases import TOLERANCE, Case, disagreement
from tests.encoders.minestudio.own import conditioned, markovian, recurrent, with_forward
from tests.encoders.minestudio.policies import vpt_policy
from tests.support.frames import MinecraftVideos
from vpt_gym.encoders.minestudio import encoder_from_policy
from vpt_gym.errors import ObservationError, VPTGymError

pytestmark = pytest.mark.minestudio


class ConditionedCase(Case):
    conditions = [{"condition": np.random.default_rng(i).standard_normal(10)} for i in range(3)]  # noqa: RUF012

    def inputs(self, frame_hwc: np.ndarray, time: int, condition: Any) -> dict[str, Any]:
        told = torch.from_numpy(condition["condition"]).float()[None, None]
        return {**super().inputs(frame_hwc, time, condition), "condition": told}


class RecurrentCase(Case):
    conditions = [{}, {"told": {"word": "dig"}}, {"told": {"word": "chop"}}]  # noqa: RUF012

    @staticmethod
    def compass(time: int) -> np.ndarray:
        return np.array([np.sin(time), np.cos(time)])

    def given(self, frames_nhwc: np.ndarray, times: list[int]) -> Any:
        return {"image": frames_nhwc, "compass": np.stack([self.compass(time) for time in times])}

    def inputs(self, frame_hwc: np.ndarray, time: int, condition: Any) -> dict[str, Any]:
        own = {
            **super().inputs(frame_hwc, time, condition),
            "compass": torch.from_numpy(self.compass(time)).float()[None, None],
        }
        if condition:
            own["told"] = {"word": [[condition["told"]["word"]]]}
        return own


def test_markovian_template(real_frames: MinecraftVideos) -> None:
    policy = markovian()
    encoder = encoder_from_policy(policy, frame_size=64)
    worst = disagreement(Case(policy, 64), encoder, real_frames.small(40))
    print(f"Markovian: {worst:.1e}")
    assert worst <= TOLERANCE


@pytest.mark.parametrize("flat", [False, True])
def test_conditioned_template(real_frames: MinecraftVideos, *, flat: bool) -> None:
    policy = conditioned(flat=flat)
    case = ConditionedCase(policy, 64)
    encoder = encoder_from_policy(policy, case.conditions[0], frame_size=64)
    if flat:  # get_action can't unpack what such heads give; the latents are those of the policy that is not flat
        frames = real_frames.small(1)[:, 0]
        expected = encoder_from_policy(conditioned(), case.conditions[0], frame_size=64).stream(3)
        assert torch.equal(encoder.stream(3).step(frames, [True] * 3), expected.step(frames, [True] * 3))
        return
    worst = disagreement(case, encoder, real_frames.small(40))
    print(f"conditioned: {worst:.1e}")
    assert worst <= TOLERANCE


@pytest.mark.parametrize("form", ["none", "nested", "growing"])
def test_states_of_any_form(form: str, real_frames: MinecraftVideos) -> None:
    """And conditions of different entries in one batch, with strings and nested dicts."""
    policy = recurrent(form)
    encoder = encoder_from_policy(policy, frame_size=8, also_reads=["compass"])
    worst = disagreement(RecurrentCase(policy, 8), encoder, real_frames.small(60), rate=0.1)
    print(f"{form}: {worst:.1e}")
    assert worst <= TOLERANCE


def test_a_state_that_the_policy_writes_to_again(real_frames: MinecraftVideos) -> None:
    frames = real_frames.small(6)
    streams = []
    for form in ("none", "buffer"):
        policy = recurrent(form)
        streams.append(encoder_from_policy(policy, frame_size=8, also_reads=["compass"]).stream(3))
    for step in range(6):
        rows = [0, 1, 2] if step % 2 == 0 else [2, 0]
        given = {"image": frames[rows, step], "compass": np.zeros((len(rows), 2))}
        expected, latents = (stream.step(given, [step == 0] * len(rows), rows=rows) for stream in streams)
        assert torch.equal(latents, expected)


def test_a_policy_on_vpts_own_forward(vpt: Any, real_frames: MinecraftVideos) -> None:
    """A class derived from VPTPolicy without a forward of its own still runs on vpt_gym's network."""
    policy = vpt_policy()
    policy.__class__ = type("MyVPT", (type(policy),), {})
    assert encoder_from_policy(policy).network == "vpt_gym"
    assert encoder_from_policy(policy).fingerprint != encoder_from_policy(vpt).fingerprint
    own = with_forward(policy, lambda self, *args, **kwargs: super(type(self), self).forward(*args, **kwargs))
    encoder = encoder_from_policy(own)
    assert encoder.network == "policy"
    frames = real_frames.small(1)[:, 0]
    difference = encoder.stream(3).step(frames, [True] * 3) - encoder_from_policy(vpt).stream(3).step(
        frames, [True] * 3
    )
    assert float(difference.abs().max()) <= TOLERANCE


def test_a_failing_forward_moves_nothing_and_opens_no_debugger(real_frames: MinecraftVideos) -> None:
    """VPTPolicy.forward catches every error and waits in a debugger; here the error itself arrives."""
    policy = vpt_policy()
    encoder = encoder_from_policy(policy, network="policy")
    stream, control = encoder.stream(3), encoder.stream(3)
    frames = real_frames.small(3)
    for moved in (stream, control):
        moved.step(frames[:, 0], [True] * 3)
    hook = policy.net.lastlayer.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        stream.step(frames[:, 1], [False, True, False])
    hook.remove()
    assert "forward" not in vars(policy.net)
    assert torch.equal(stream.step(frames[:, 2], [False] * 3), control.step(frames[:, 2], [False] * 3))


def test_half_a_step_is_none(real_frames: MinecraftVideos) -> None:
    """Rows in groups of different states: when the second group fails, the first has not moved either."""
    policy = recurrent("none")
    encoder = encoder_from_policy(policy, frame_size=8, also_reads=["compass"])
    case = RecurrentCase(policy, 8)
    frames = real_frames.small(3, rows=2)
    stream, control = encoder.stream(2), encoder.stream(2)
    for moved in (stream, control):
        moved.step(case.given(frames[:, 0], [0, 0]), [True, True])
    calls: list[int] = []

    def fail_second(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of memory")

    hook = policy.cell.register_forward_hook(fail_second)
    with pytest.raises(RuntimeError, match="out of memory"):
        stream.step(case.given(frames[:, 1], [1, 1]), [False, True])
    hook.remove()
    assert len(calls) == 2
    given = case.given(frames[:, 2], [2, 2])
    assert torch.equal(stream.step(given, [False] * 2), control.step(given, [False] * 2))


def _twice(self: Any, input: dict[str, Any], state_in: Any = None) -> Any:  # noqa: A002
    x = self.net((input["image"] / 255.0).flatten(2))
    return {"pi_logits": [self.pi_head(x), self.pi_head(x)]}, []


def _never(self: Any, input: dict[str, Any], state_in: Any = None) -> Any:  # noqa: A002
    return {"pi_logits": None}, []


def _logits_only(self: Any, input: dict[str, Any], state_in: Any = None) -> Any:  # noqa: A002
    return self.pi_head(self.net((input["image"] / 255.0).flatten(2)))


def _all_times(self: Any, input: dict[str, Any], state_in: Any = None) -> Any:  # noqa: A002
    x = self.net((input["image"] / 255.0).flatten(2)).repeat(1, 2, 1)
    return {"pi_logits": self.pi_head(x)}, []


def _batch_second(self: Any, input: dict[str, Any], state_in: Any = None) -> Any:  # noqa: A002
    x = self.net((input["image"] / 255.0).flatten(2))
    return {"pi_logits": self.pi_head(x)}, [x.transpose(0, 1)]


def _counts(self: Any, input: dict[str, Any], state_in: Any = None) -> Any:  # noqa: A002
    x = self.net((input["image"] / 255.0).flatten(2))
    return {"pi_logits": self.pi_head(x)}, [3]


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        (_twice, "must call self.pi_head once.*did so 2 times"),
        (_never, "did so 0 times"),
        (_logits_only, "must return a dict of outputs and a state"),
        (_all_times, r"latents \[rows, 1, 48\], here of 2 rows"),
        (_batch_second, "the 2 rows on axis 0"),
        (_counts, "a int is in it"),
    ],
)
def test_a_forward_that_is_none(forward: Callable[..., Any], words: str, real_frames: MinecraftVideos) -> None:
    encoder = encoder_from_policy(with_forward(markovian(), forward), frame_size=64)
    with pytest.raises(VPTGymError, match=words):
        encoder.stream(2).step(real_frames.small(1, rows=2)[:, 0], [True, True])


def test_what_a_policy_misses_is_named(real_frames: MinecraftVideos) -> None:
    encoder = encoder_from_policy(conditioned(), frame_size=64)
    with pytest.raises(
        VPTGymError, match=r"reads input\['condition'\], but its input holds 'image' only; give it as condition"
    ):
        encoder.stream(1).step(real_frames.small(1, rows=1)[:, 0], [True])


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        (np.zeros(10), "a dict of entries of its input.*ndarray came"),
        ({"image": np.zeros(3)}, "'image', which MyConditionedPolicy gets from every observation"),
        ({"condition": np.full(10, np.inf)}, r"condition\['condition'\] holds NaN or infinity"),
        ({"condition": np.array(["a"])}, r"condition\['condition'\] must hold numbers"),
        ({"condition": [0.0] * 10}, r"condition\['condition'\] must be an array.*list came"),
    ],
)
def test_bad_conditions(condition: Any, words: str) -> None:
    with pytest.raises(VPTGymError, match=words):
        encoder_from_policy(conditioned(), condition, frame_size=64)


@pytest.mark.parametrize(
    ("compass", "words"),
    [
        (np.zeros((1, 2)), "one entry for each of the 2 rows"),
        (np.full((2, 2), np.nan), "'compass' holds NaN"),
        ([0, 0], "'compass' must be an array"),
    ],
)
def test_bad_observations(compass: Any, words: str, real_frames: MinecraftVideos) -> None:
    encoder = encoder_from_policy(recurrent("none"), frame_size=8, also_reads=["compass"])
    with pytest.raises(ObservationError, match=words):
        encoder.stream(2).step({"image": real_frames.small(1, rows=2)[:, 0], "compass": compass}, [True, True])


def test_a_policy_of_ones_own_must_say_what_it_reads() -> None:
    with pytest.raises(VPTGymError, match=r"MyMarkovPolicy is a policy of your own.*pass frame_size="):
        encoder_from_policy(markovian())
    with pytest.raises(VPTGymError, match="frame_size must be a positive whole number"):
        encoder_from_policy(markovian(), frame_size=0)
    for wrong in ("compass", ["image"], [3], 5, None, ""):
        with pytest.raises(VPTGymError, match="also_reads must be a list of keys"):
            encoder_from_policy(markovian(), frame_size=64, also_reads=wrong)  # type: ignore[arg-type]


def test_a_head_without_a_linear_layer() -> None:
    policy = markovian()
    policy.pi_head = nn.Identity().eval()
    with pytest.raises(VPTGymError, match="pi_head has no linear layer"):
        encoder_from_policy(policy, frame_size=64)
