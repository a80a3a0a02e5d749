"""The one line that makes environments behind one encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
)

import vpt_gym
from tests.support.scripted import ScriptedEnv, quick_encoder
from vpt_gym.encoders.vpt import VPTEncoder
from vpt_gym.errors import VPTGymError
from vpt_gym.rollout.workers import WorkerVecEnv
from vpt_gym.sb3 import VecVPTLatent, make_latent_vec_env


@pytest.fixture(scope="module")
def encoder() -> VPTEncoder:
    return quick_encoder()


@pytest.fixture(scope="module")
def tiny() -> VPTEncoder:
    """The real network, small and untrained."""
    return vpt_gym.load_encoder("random:tiny")


class TestMakeLatentVecEnv:
    def test_frames_cross_the_pipe_small(self, encoder: VPTEncoder) -> None:
        """49 KB a frame, not 691 KB, and the same latents as without."""
        makers: list[Any] = [lambda: ScriptedEnv(shape=(360, 640, 3))] * 2
        venv = make_latent_vec_env(makers[0], 2, encoder=encoder)
        try:
            assert isinstance(venv.venv, WorkerVecEnv)
            assert venv.venv.observation_space.shape == (128, 128, 3)
            assert int(np.prod(venv.venv.observation_space.shape)) == 49_152
            assert np.array_equal(venv.reset(), VecVPTLatent(DummyVecEnv(makers), encoder).reset())
        finally:
            venv.close()

    def test_only_what_is_kept_crosses(self, encoder: VPTEncoder) -> None:
        venv = make_latent_vec_env(ScriptedEnv, 1, encoder=encoder, env_kwargs={"extra": True}, keep=("ammo",))
        assert isinstance(venv.venv, DummyVecEnv)
        assert set(venv.venv.observation_space.spaces) == {"screen", "ammo"}  # type: ignore[attr-defined]
        assert set(venv.reset()) == {"latent", "ammo"}

    def test_episodes_are_monitored(self, encoder: VPTEncoder, tmp_path: Path) -> None:
        venv = make_latent_vec_env(
            ScriptedEnv, 1, encoder=encoder, env_kwargs={"lengths": (3,)}, monitor_dir=str(tmp_path)
        )
        venv.reset()
        infos = [venv.step(np.zeros(1, int))[3][0] for _ in range(3)]
        assert infos[-1]["episode"]["r"] == 6
        venv.close()
        assert (tmp_path / "0.monitor.csv").exists()

    def test_wrong_counts(self, encoder: VPTEncoder) -> None:
        with pytest.raises(VPTGymError, match="n_envs must be a positive whole number, not 0"):
            make_latent_vec_env(ScriptedEnv, 0, encoder=encoder)

    def test_workers_end_when_wrapping_fails(self, encoder: VPTEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
        closed = []
        monkeypatch.setattr(WorkerVecEnv, "close", lambda self: closed.append(self))  # noqa: PLW0108 - must bind

        def no_memory(*_: object) -> None:
            raise VPTGymError("no memory is left")

        monkeypatch.setattr(VPTEncoder, "stream", no_memory)
        with pytest.raises(VPTGymError, match="no memory is left"):
            make_latent_vec_env(ScriptedEnv, 2, encoder=encoder)
        assert len(closed) == 1
        monkeypatch.undo()
        closed[0].close()

    def test_no_worker_starts_for_a_wrong_encoder(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(WorkerVecEnv, "__init__", lambda *_: pytest.fail("a worker was started"))
        with pytest.raises(VPTGymError, match="unknown preset"):
            make_latent_vec_env(ScriptedEnv, 2, encoder="random:huge")


def test_vizdooms_folder_is_there_before_its_engines_race_for_it(
    tiny: VPTEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vizdoom")
    monkeypatch.chdir(tmp_path)
    started = []

    class Looks(SubprocVecEnv):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            started.append((tmp_path / "_vizdoom").is_dir())
            super().__init__(*args, **kwargs)

    make_latent_vec_env("VizdoomBasic-v1", 2, encoder=tiny, vec_env_cls=Looks).close()
    assert started == [True]
