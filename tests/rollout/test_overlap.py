"""Rows that are encoded as they arrive give the latents of rows that are encoded together, to rounding."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv

from tests.support.scripted import ScriptedEnv
from vpt_gym import VPTEncoder, load_encoder
from vpt_gym.errors import NonFiniteLatent, OptionError
from vpt_gym.rollout import WorkerVecEnv
from vpt_gym.sb3 import VecVPTLatent

COUNT, STEPS = 3, 40


@pytest.fixture(scope="module")
def encoder() -> VPTEncoder:
    return load_encoder("random:tiny", layer="cnn")


def makers() -> list[Any]:
    return [partial(ScriptedEnv, lengths=(5 + row, 9)) for row in range(COUNT)]


def eager(venv: VecVPTLatent) -> list[list[int]]:
    """Lets a VecEnv encode whatever has arrived, and notes the rows of each call."""
    calls: list[list[int]] = []
    step = venv.latent_stream.step

    def noted(frames: Any, first: Any, rows: Any = None) -> Any:
        calls.append(list(range(COUNT)) if rows is None else [int(row) for row in rows])
        return step(frames, first, rows=rows)

    venv.latent_stream.step = noted  # type: ignore[method-assign]
    venv._expected_seconds = lambda _: -1.0  # type: ignore[method-assign]
    return calls


def test_the_latents_are_the_same_to_rounding(encoder: VPTEncoder) -> None:
    early = VecVPTLatent(WorkerVecEnv(makers()), encoder, overlap=True)
    together = VecVPTLatent(DummyVecEnv(makers()), encoder)
    calls = eager(early)
    try:
        assert np.abs(early.reset() - together.reset()).max() < 1e-5
        for _ in range(STEPS):
            mine, theirs = (venv.step(np.zeros(COUNT, int)) for venv in (early, together))
            assert np.abs(mine[0] - theirs[0]).max() < 1e-5
            assert mine[2].tolist() == theirs[2].tolist()
            for info, other in zip(mine[3], theirs[3], strict=True):
                assert ("terminal_observation" in info) == ("terminal_observation" in other)
                if "terminal_observation" in info:
                    assert np.abs(info["terminal_observation"] - other["terminal_observation"]).max() < 1e-5
        assert any(len(call) < COUNT for call in calls)
    finally:
        early.close()


def test_a_latent_that_fails_early_leaves_the_environments_in_order(encoder: VPTEncoder) -> None:
    venv = VecVPTLatent(WorkerVecEnv(makers()), encoder, overlap=True)
    eager(venv)
    step = venv.latent_stream.step
    try:
        venv.reset()

        def broken(*_: Any, **__: Any) -> Any:
            raise NonFiniteLatent("planted", [0])

        venv.latent_stream.step = broken  # type: ignore[method-assign]
        with pytest.raises(NonFiniteLatent, match="planted"):
            venv.step(np.zeros(COUNT, int))
        venv.latent_stream.step = step  # type: ignore[method-assign]
        assert np.isfinite(venv.step(np.zeros(COUNT, int))[0]).all()
    finally:
        venv.close()


def test_a_call_is_not_made_before_its_cost_is_known(encoder: VPTEncoder) -> None:
    venv = VecVPTLatent(DummyVecEnv(makers()), encoder)
    assert venv._expected_seconds(1) == float("inf")
    venv.reset()
    assert 0 < venv._expected_seconds(1) == venv._expected_seconds(COUNT) < 60
    assert venv._expected_seconds(COUNT + 1) == float("inf")
    assert venv.encoding_seconds > 0


def test_a_vecenv_that_hands_over_all_at_once_is_refused(encoder: VPTEncoder) -> None:
    with pytest.raises(OptionError, match=r"overlap takes a VecEnv of vpt_gym\.rollout.* but DummyVecEnv came"):
        VecVPTLatent(DummyVecEnv(makers()), encoder, overlap=True)
