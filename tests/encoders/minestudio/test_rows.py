"""Rows stepped together equal rows stepped alone through the policy's own `get_action`, for every kind of policy."""

from __future__ import annotations

from typing import Any

import pytest

from tests.encoders.minestudio.cases import TOLERANCE, Case, GrootCase, RocketCase, SteveCase, disagreement
from tests.support.frames import MinecraftVideos
from vpt_gym.encoders.minestudio import encoder_from_policy

pytestmark = pytest.mark.minestudio


@pytest.mark.parametrize(("network", "steps"), [("vpt_gym", 260), ("policy", 60)])
def test_vpt(network: str, steps: int, vpt: Any, real_frames: MinecraftVideos) -> None:
    """On vpt_gym's network, over 200 frames for each row: more than the memory has."""
    encoder = encoder_from_policy(vpt, network=network)
    worst = disagreement(Case(vpt), encoder, real_frames.small(steps), rate=0.01)
    print(f"VPT, {encoder.backend}: {worst:.1e}")
    assert encoder.network == network
    assert worst <= TOLERANCE


@pytest.mark.parametrize(("network", "steps", "rate"), [("vpt_gym", 170, 0.015), ("policy", 50, 0.05)])
def test_steve(network: str, steps: int, rate: float, steve: Any, real_frames: MinecraftVideos) -> None:
    """Rows with and without guidance, of different strengths, in one batch."""
    encoder = encoder_from_policy(steve, network=network)
    worst = disagreement(SteveCase(steve), encoder, real_frames.small(steps), rate=rate)
    print(f"STEVE-1, {encoder.backend}: {worst:.1e}")
    assert encoder.network == network
    assert worst <= TOLERANCE


def test_groot(groot: Any, real_frames: MinecraftVideos) -> None:
    case = GrootCase(groot, real_frames.paths[:3])
    worst = disagreement(case, encoder_from_policy(groot), real_frames.small(40), rate=0.06)
    print(f"GROOT: {worst:.1e}")
    assert worst <= TOLERANCE


def test_rocket(rocket: Any, real_frames: MinecraftVideos) -> None:
    worst = disagreement(RocketCase(rocket), encoder_from_policy(rocket), real_frames.small(50), rate=0.06)
    print(f"ROCKET-1: {worst:.1e}")
    assert worst <= TOLERANCE
