"""Recorded play: whole episodes, each from its own seed, the player's action beside the one that was done."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.offline.material import require_offline
from tests.training.pixel_env import ENV_ID, LENGTH, LightEnv
from vpt_gym.cli.main import main
from vpt_gym.errors import OptionError, VPTGymError
from vpt_gym.offline import record
from vpt_gym.offline.readers.finding import find_recordings
from vpt_gym.offline.recorder import Play
from vpt_gym.running.files import claimed_place

require_offline()


def player(seed: int) -> Play:
    del seed
    return lambda env, _: env.unwrapped.lit  # type: ignore[attr-defined]


def episodes(folder: Path) -> list[dict[str, np.ndarray]]:
    return [dict(np.load(path)) for path in sorted(folder.glob("*.npz"))]


def test_what_was_broken_off_goes_on(tmp_path: Path) -> None:
    options = {"frame_size": 32, "random_share": 0.5, "seed": 3}
    whole = record(LightEnv, player, tmp_path / "whole", frames=5 * LENGTH, **options)
    for frames in (1, 2 * LENGTH, 5 * LENGTH):
        parts = record(LightEnv, player, tmp_path / "parts", frames=frames, **options)
    assert len(episodes(whole)) == 5
    for one, other in zip(episodes(whole), episodes(parts), strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)


def test_what_is_kept(tmp_path: Path) -> None:
    folder = record(
        LightEnv,
        player,
        tmp_path / "plays",
        frames=20 * LENGTH,
        frame_size=32,
        random_share=0.5,
        targets=lambda env: {"lit": np.array(env.unwrapped.lit)},
    )
    found = episodes(folder)
    for episode in found:
        assert episode["frames"].shape == (LENGTH, 32, 32, 3)
        # The player knows, whatever was done in its place; rewards are those of what was done.
        assert np.array_equal(episode["actions"], episode["lit"])
        assert np.array_equal(episode["rewards"] > 0, episode["played"] == episode["lit"])
        assert episode["truncations"].tolist() == [False] * (LENGTH - 1) + [True]
    played = np.concatenate([episode["played"] != episode["actions"] for episode in found])
    # Half of the actions are drawn, and half of those are the player's own by chance.
    assert 0.12 < played.mean() < 0.4
    recordings = list(find_recordings(folder, lambda name, error: pytest.fail(f"{name}: {error}")))
    assert [recording.frame_count for recording in recordings] == [LENGTH] * 20


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["record", ENV_ID, "--out", str(tmp_path / "plays"), "--frames", "16", "--frame-size", "32"]
    assert main(arguments) == 0
    assert "2 episodes in" in capsys.readouterr().out
    assert main([*arguments, "--policy", "tests.offline.test_recorder:nobody"]) == 1
    assert "has no 'nobody'" in capsys.readouterr().err
    assert main([*arguments, "--seed", "9"]) == 1
    assert "made otherwise (seed)" in capsys.readouterr().err


def test_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="random_share must be from 0 to 1"):
        record(LightEnv, player, tmp_path / "a", frames=1, random_share=2)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    with pytest.raises(VPTGymError, match="something else than recordings"):
        record(LightEnv, player, tmp_path / "full", frames=1)
    record(LightEnv, player, tmp_path / "mine", frames=1)
    with (
        claimed_place(tmp_path / "mine", folder=True),
        pytest.raises(OptionError, match="belongs to a command that is running"),
    ):
        record(LightEnv, player, tmp_path / "mine", frames=100)
    # What differs is not mixed.
    with pytest.raises(VPTGymError, match=r"made otherwise \(player, targets, longest\)"):
        record(LightEnv, lambda _: player(0), tmp_path / "mine", frames=100, targets=lambda _: {}, longest=7)
    (tmp_path / "mine" / "recording.json").write_text("{")
    with pytest.raises(VPTGymError, match=r"recording\.json is not valid JSON .*; restore it"):
        record(LightEnv, player, tmp_path / "mine", frames=100)
    assert len(episodes(tmp_path / "mine")) == 1


def test_hidden_files_are_no_recordings(tmp_path: Path) -> None:
    """What a killed recorder leaves, and macOS beside every film of a foreign disk."""
    folder = record(LightEnv, player, tmp_path / "plays", frames=1)
    for name in ("._film.mp4", ".episode-000001.partial.npz"):
        (folder / name).write_bytes(b"no film")
    found = list(find_recordings(folder, lambda name, error: pytest.fail(f"{name}: {error}")))
    assert [recording.name for recording in found] == ["episode-000000.npz"]


@pytest.mark.parametrize("value", ["nan", "inf", "1e300"])
def test_a_reward_that_is_not_finite_is_told(tmp_path: Path, value: str) -> None:
    def make() -> LightEnv:
        return LightEnv(odd="reward", odd_from=3, odd_value=value)

    with pytest.raises(
        VPTGymError,
        match=rf"LightEnv.*: the reward of step 3 is {re.escape(str(float(value)))}, after reset\(seed=\d+\)",
    ):
        record(make, player, tmp_path / "plays", frames=20)
    assert episodes(tmp_path / "plays") == []
