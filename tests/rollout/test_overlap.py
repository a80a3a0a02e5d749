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
    venv._two_calls_win = lambda *_: True  # type: ignore[method-assign]
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

        def broken(frames: Any, first: Any, rows: Any = None) -> Any:
            raise NonFiniteLatent("planted", [0 if rows is None else int(rows[0])])

        venv.latent_stream.step = broken  # type: ignore[method-assign]
        with pytest.raises(NonFiniteLatent, match="planted"):
            venv.step(np.zeros(COUNT, int))
        venv.latent_stream.step = step  # type: ignore[method-assign]
        assert np.isfinite(venv.step(np.zeros(COUNT, int))[0]).all()
    finally:
        venv.close()


def test_calls_are_expected_to_take_what_such_calls_took(encoder: VPTEncoder) -> None:
    venv = VecVPTLatent(DummyVecEnv(makers()), encoder)
    assert venv._expected_seconds(1) == float("inf")
    assert not venv._two_calls_win(1, 2, 1e9)
    venv.reset()
    assert venv.encoding_seconds > 0
    venv._seconds_of = {2: 0.1, 4: 0.3}
    expected = {0: 0.0, 1: 0.05, 2: 0.1, 3: 0.2, 4: 0.3, 8: 0.6}
    assert [venv._expected_seconds(rows) for rows in expected] == pytest.approx(list(expected.values()))


def test_a_slow_call_is_forgotten(encoder: VPTEncoder) -> None:
    venv = VecVPTLatent(DummyVecEnv(makers()), encoder)
    venv.reset()
    whole = venv._seconds_of[COUNT]
    venv._seconds_of[1] = 3 * whole
    for _ in range(80):
        venv.step(np.zeros(COUNT, int))
    assert venv._seconds_of[1] < whole


@pytest.mark.parametrize(
    ("seconds_of", "left", "wins"),
    [
        ({1: 0.1, 8: 0.8}, 0.05, True),  # every row costs the same, as on a CPU: never wait
        ({1: 0.1, 8: 0.8}, float("inf"), True),
        ({1: 0.1, 8: 0.8}, 0.0, False),  # the others are there
        (
            {1: 0.1, 8: 0.1},
            5.0,
            False,
        ),  # a call costs the same, as on a GPU: the others would wait for one of their own
        ({1: 0.2, 8: 0.9}, 0.05, False),  # a second call costs 0.1, and there is less to wait for
        ({1: 0.2, 8: 0.9}, 0.15, True),
    ],
)
def test_two_calls_are_made_where_a_step_ends_sooner(
    encoder: VPTEncoder, seconds_of: dict[int, float], left: float, wins: bool
) -> None:
    venv = VecVPTLatent(DummyVecEnv(makers()), encoder)
    venv._seconds_of = seconds_of
    assert venv._two_calls_win(1, 7, left) is wins


def test_a_vecenv_that_hands_over_all_at_once_is_refused(encoder: VPTEncoder) -> None:
    with pytest.raises(OptionError, match=r"overlap takes a VecEnv of vpt_gym\.rollout.* but DummyVecEnv came"):
        VecVPTLatent(DummyVecEnv(makers()), encoder, overlap=True)
