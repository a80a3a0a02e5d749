"""`probe`: a linear layer reads what is there, and nothing where there is nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from tests.offline.material import require_offline, write_latents
from vpt_gym.errors import RecordingError
from vpt_gym.offline.plan import ProbingConfig

require_offline()

from vpt_gym.offline import probe  # noqa: E402 - needs the extra
from vpt_gym.offline.curves import draw_probes  # noqa: E402

LAYERS = ("cnn", "block0", "final")
WIDTH = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`height` lies in block0, `kind` in final, `place` half in each of two layers, `chance` nowhere."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(WIDTH, WIDTH))
    episodes = []
    for _ in range(12):
        latents = rng.normal(size=(60, len(LAYERS), WIDTH)) * 3 + 5
        height = latents[:, 1] @ mix[0] + 2
        place = latents[:, 0, 0] + latents[:, 2, 3]
        episodes.append(
            {
                "latents": latents.reshape(60, -1).astype(np.float32),
                "actions": (latents[:-1, 2, 2] > 5).astype(int),
                "height": height,
                "kind": latents[:, 2, :3].argmax(axis=1),
                "place": np.stack([place, height], axis=1),
                "chance": rng.normal(size=60),
                "constant": np.zeros(60),
            }
        )
    path = tmp_path_factory.mktemp("probe") / "data"
    return write_latents(path, episodes, gym.spaces.Discrete(2), layers=LAYERS)


def _scores(probes: Any, label: str) -> dict[str, float]:
    return {each.layer: each.score for each in probes if each.label == label}


def test_each_label_is_found_in_its_layer(data: Path, tmp_path: Path) -> None:
    probes = probe(data, ["height", "kind", "place", "chance", "constant"])
    height, kind, chance = (_scores(probes, label) for label in ("height", "kind", "chance"))
    assert list(height) == ["cnn", "block0", "final", "all"]
    assert height["block0"] > 0.99
    assert height["all"] > 0.99
    assert max(height["cnn"], height["final"]) < 0.1
    assert kind["final"] > 0.9
    assert max(kind["cnn"], kind["block0"]) < 0.5
    assert max(chance.values()) < 0.1
    split = _scores(probes, "place.0")
    assert 0.3 < split["cnn"] < 0.7
    assert split["all"] > 0.99
    assert _scores(probes, "place.1")["block0"] > 0.99
    assert set(_scores(probes, "constant").values()) == {0.0}
    kinds = {each.label: each.kind for each in probes}
    assert (kinds["height"], kinds["kind"]) == ("ridge", "logistic")
    assert all(0.2 < each.baseline < 0.5 for each in probes if each.label == "kind")
    draw_probes(probes, tmp_path / "probes.png")
    assert (tmp_path / "probes.png").stat().st_size > 5_000


def test_actions_are_probed_where_there_are_any(data: Path) -> None:
    actions = _scores(probe(data, ["actions"]), "actions")
    assert actions["final"] > 0.9
    assert actions["cnn"] < 0.7


def test_few_frames_at_once_are_spread_over_the_dataset(data: Path) -> None:
    probes = probe(data, ["height"], ProbingConfig(frames=100))
    assert probes[0].frames <= 200
    assert _scores(probes, "height")["block0"] > 0.99


def test_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"has no 'width'; it has latents, actions, rewards, .*height"):
        probe(data, ["width"])
    two = write_latents(tmp_path / "two", [{"latents": np.zeros((3, 2), np.float32), "a": np.zeros(3)}] * 2)
    with pytest.raises(RecordingError, match="has 2 episodes"):
        probe(two, ["a"])
    holes = [{"latents": np.zeros((3, 2), np.float32), "a": np.full(3, np.nan)}] * 4
    with pytest.raises(RecordingError, match="not finite"):
        probe(write_latents(tmp_path / "holes", holes), ["a"])
