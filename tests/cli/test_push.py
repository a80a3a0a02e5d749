"""`vpt-gym push`, through the real huggingface_hub, against the hub on loopback; and what it pushed is used again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from safetensors import safe_open

from tests.cli.test_train_eval import SMALL
from tests.support.network import random_net
from tests.training.pixel_env import ENV_ID
from tests.weights.checkpoints import SMALL as CONFIG
from tests.weights.hub_server import Hub
from vpt_gym import load_encoder
from vpt_gym.cli.main import main
from vpt_gym.training import EvaluationConfig
from vpt_gym.training.evaluate import evaluate
from vpt_gym.weights import save_checkpoint

# huggingface_hub hands its HTTP library a file under an argument's old name.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

CARD = '---\nlibrary_name: vpt-gym\n---\n# mine\n\nencoder = vpt_gym.load_encoder("mine")\n'


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub where hf_mine is the token of `me`; large files go by git LFS."""
    with Hub({}, tokens={"hf_mine": "me"}) as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", "hf_mine")
        yield running


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """What `vpt-gym pretrain` leaves, its checkpoints and logs too."""
    folder = save_checkpoint(random_net(CONFIG), None, tmp_path / "mine", training={"recordings": ["plays"]})
    (folder / "README.md").write_text(CARD)
    (folder / "curves.png").write_bytes(b"a picture")
    (folder / "pretraining.json").write_text('{"out": "a place of mine"}')
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"a pickle")
    return folder


def pushed(hub: Hub, name: str, folder: Path) -> Path:
    """The files of a repository's newest commit, in a folder."""
    folder.mkdir()
    repository = hub.repositories[name]
    for file, content in repository.commits[repository.names["main"]].items():
        (folder / file).write_bytes(content)
    return folder


def test_an_encoder(hub: Hub, mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(mine), "me/mine-on-hub", "--private"]) == 0
    assert f"{hub.endpoint}/me/mine-on-hub/commit/" in capsys.readouterr().out
    there = pushed(hub, "me/mine-on-hub", tmp_path / "there")
    assert {file.name for file in there.iterdir()} == {"model.safetensors", "config.json", "README.md", "curves.png"}
    assert hub.repositories["me/mine-on-hub"].private
    assert 'load_encoder("me/mine-on-hub")' in (there / "README.md").read_text()
    # Large files went the way of large files, and the commit came last.
    assert [path.partition("/storage/")[1] for method, path in hub.requests if method == "PUT"] == ["/storage/"] * 2
    assert hub.requests[-1][1].endswith("/commit/main")
    encoder = load_encoder(str(there), device="cpu")
    assert encoder.fingerprint == load_encoder(str(mine), device="cpu").fingerprint
    assert encoder.describe()["training"] == {"recordings": ["plays"]}

    (mine / "README.md").write_text(CARD + "Licence: MIT\n")
    hub.taken()
    assert main(["push", str(mine), "me/mine-on-hub"]) == 0
    assert not [path for method, path in hub.requests if method == "PUT"], "the hub has the large files"
    assert len(hub.repositories["me/mine-on-hub"].commits) == 2


def test_a_head(hub: Hub, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(["train", ENV_ID, *SMALL, "--steps", "64", "--run", str(run), "--video", "none"]) == 0
    assert main(["push", str(run), "me/ppo-Light"]) == 0
    there = pushed(hub, "me/ppo-Light", tmp_path / "there")
    head = there / "ppo-Light-v0.safetensors"
    assert {file.name for file in there.iterdir()} == {
        *(head.name, "vecnormalize.json", "config.json", "results.json", "README.md", "learning_curve.png"),
    }
    with safe_open(head, framework="pt") as file:
        assert "action_net.weight" in set(file.keys())
    recorded = json.loads((run / "config.json").read_text())
    results = json.loads((there / "results.json").read_text())
    assert (results["mean_reward"], results["n_eval_episodes"]) == (recorded["evaluation"]["mean"], 2)
    card = (there / "README.md").read_text()
    for words in ("random:mini", "UNTRAINED".lower(), recorded["encoder"]["fingerprint"], "model-index", "mean_reward"):
        assert words in card
    scores = [evaluate(EvaluationConfig(folder, episodes=3, video="none")).score.returns for folder in (run, there)]
    assert scores[0] == scores[1]


def test_a_place_on_this_machine_is_not_told(hub: Hub, mine: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(["train", ENV_ID, "--encoder", str(mine), *SMALL[2:], "--steps", "64", "--run", str(run)]) == 0
    assert main(["push", str(run), "me/local"]) == 0
    for name, content in hub.repositories["me/local"].commits["0" * 39 + "1"].items():
        assert str(tmp_path).encode() not in content, name


def test_refused(
    hub: Hub, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: str) -> str:
        assert main(["push", *arguments]) == 1
        return capsys.readouterr().err

    assert "who is logged in may not write there" in said(str(mine), "others/mine")
    assert "cannot be the name of a hub repository" in said(str(mine), "me/-.-")
    assert "is not a run folder" in said(str(tmp_path), "me/mine")
    with pytest.raises(SystemExit):
        main(["push", str(mine), "mine"])
    monkeypatch.delenv("HF_TOKEN")
    assert "nobody is logged in" in said(str(mine), "me/mine")
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "switched off by HF_HUB_OFFLINE" in said(str(mine), "me/mine")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    (mine / "README.md").unlink()
    assert "has no README.md" in said(str(mine), "me/mine")
    (mine / "README.md").write_text(CARD)
    hub.broken_for = ("/create",)
    assert "does not take 'me/mine'" in said(str(mine), "me/mine")
    content = (mine / "model.safetensors").read_bytes()
    (mine / "model.safetensors").write_bytes(content[:-9])
    assert "truncated" in said(str(mine), "me/mine")
    assert hub.repositories == {}
