"""The hub, through the real huggingface_hub, against a server on loopback that speaks the hub's protocol."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.weights.checkpoints import heads, network, policy_kwargs, write_safetensors
from tests.weights.hub_server import Hub, Repository
from tests.weights.test_wrapped import write_shards
from vpt_gym.weights import load_checkpoint

ROOT = Path(__file__).parents[2]
OLD, NEW = "0" * 39 + "1", "0" * 39 + "2"
CONFIG = json.dumps({"policy_kwargs": policy_kwargs(), "action_space": None, "temperature": 2.0}).encode()

Load = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Two checkpoints with different weights."""
    folder = tmp_path_factory.mktemp("contents")
    paths = {name: folder / f"{name}.safetensors" for name in ("old", "new")}
    for seed, path in enumerate(paths.values()):
        write_safetensors(path, network(seed=seed) | heads(auxiliary=False))
    torch.save(network(seed=0) | heads(auxiliary=False), folder / "old.bin")
    write_shards(folder / "parts", "safetensors", network(seed=0) | heads(auxiliary=False))
    parts = {path.name: path.read_bytes() for path in (folder / "parts").iterdir()}
    files = {name: path.read_bytes() for name, path in paths.items()} | {"torch": (folder / "old.bin").read_bytes()}
    return (
        files | parts | {f"{name} digest": load_checkpoint(str(path)).digest.encode() for name, path in paths.items()}
    )


@pytest.fixture
def hub(contents: dict[str, bytes]) -> Iterator[Hub]:
    """A server with one whole repository, one without a config, one without weights, one gated."""
    old = {"config.json": CONFIG, "model.safetensors": contents["old"]}
    new = {"config.json": CONFIG, "model.safetensors": contents["new"]}
    parts = {name: content for name, content in contents.items() if name.startswith("model")}
    lacking = {name: content for name, content in parts.items() if "00002" not in name}
    repositories = {
        "owner/vpt": Repository({OLD: old, NEW: new}, {"main": NEW, "v1": OLD, "refs/pr/1": OLD}),
        "owner/bare": Repository({OLD: {"model.safetensors": contents["old"]}}, {"main": OLD}),
        "owner/empty": Repository({OLD: {"config.json": CONFIG}}, {"main": OLD}),
        "owner/gated": Repository({OLD: old}, {"main": OLD}, gated=True),
        "owner/torch": Repository(
            {OLD: {"pytorch_model.bin": contents["torch"], "config.json": CONFIG}}, {"main": OLD}
        ),
        "owner/parts": Repository({OLD: parts | {"config.json": CONFIG}, NEW: lacking}, {"main": OLD}),
        "owner/page": Repository({OLD: {"model.safetensors": b"<html></html>"}}, {"main": OLD}),
    }
    with Hub(repositories) as running:
        yield running


@pytest.fixture
def load(hub: Hub, tmp_path: Path) -> Load:
    """Load sources in a fresh process with this test's own cache; `settings` are further environment variables."""

    def load(*sources: str, **settings: str) -> list[dict[str, Any]]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("HF_") and "proxy" not in name.lower()
        }
        ours = {"PYTHONPATH": str(ROOT), "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("load_each.py")), *sources],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env=kept | ours | settings,
        )
        assert done.returncode == 0, done.stderr
        answers: list[dict[str, Any]] = json.loads(done.stdout)
        assert all("\n" not in answer.get("error", "") for answer in answers)
        return answers

    return load


def downloads(hub: Hub) -> list[str]:
    """Paths of the files whose content was asked for since the last call."""
    return [path.rpartition("/")[2] for method, path in hub.taken() if method == "GET"]


def test_weights_are_downloaded_once(hub: Hub, load: Load, contents: dict[str, bytes]) -> None:
    first, again = load("owner/vpt", "owner/vpt")
    assert first["digest"] == again["digest"] == contents["new digest"].decode()
    assert [Path(name).name for name in first["files"]] == ["model.safetensors", "config.json"]
    assert {Path(name).parent.name for name in first["files"]} == {NEW}
    assert len(downloads(hub)) == 2
    (other_process,) = load("owner/vpt")
    assert other_process == first
    assert [method for method, _ in hub.taken()] == ["HEAD"], "one look at whether the branch has moved, no more"


def test_heads_come_with_the_weights_and_their_temperature_with_the_config(hub: Hub, load: Load) -> None:
    whole, bare = load("owner/vpt", "owner/bare")
    assert "32 -> 8641 buttons, 121 camera, temperature 2," in whole["heads"]
    assert "32 -> 8641 buttons, 121 camera, temperature 1," in bare["heads"]
    assert len(downloads(hub)) == 3, "two files of one repository, one of the other, and none for the heads"


def test_offline_makes_no_request(hub: Hub, load: Load) -> None:
    online = load("owner/vpt", "owner/bare")
    hub.taken()
    hub.asides.clear()
    assert load("owner/vpt", "owner/bare", HF_HUB_OFFLINE="1") == online
    (error,) = load("owner/empty", HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE" in error["error"]
    assert "does not hold 'owner/empty'" in error["error"]
    assert hub.taken() == []
    assert hub.asides == []


def test_revisions(hub: Hub, load: Load, contents: dict[str, bytes]) -> None:
    old, new = contents["old digest"].decode(), contents["new digest"].decode()
    sources = ["owner/vpt@v1", f"owner/vpt@{OLD}", "owner/vpt@refs/pr/1", f"owner/vpt@{NEW}", "owner/vpt@main"]
    assert [answer["digest"] for answer in load(*sources)] == [old, old, old, new, new]
    assert downloads(hub).count("model.safetensors") == 0, "large files come from their second address"
    load(f"owner/vpt@{OLD}", f"owner/vpt@{NEW}")
    assert hub.taken() == [], "a commit never changes, so nothing needs to be asked"


def test_each_version_is_downloaded_once(hub: Hub, load: Load) -> None:
    load("owner/vpt@v1", f"owner/vpt@{OLD}", "owner/vpt", "owner/vpt@v1")
    assert len([name for name in downloads(hub) if len(name) == 64]) == 2


def test_config_and_weights_come_from_one_commit(hub: Hub, load: Load, contents: dict[str, bytes]) -> None:
    repository = hub.repositories["owner/vpt"]
    repository.names["main"] = OLD
    (old,) = load("owner/vpt")
    repository.names["main"] = NEW
    (new,) = load("owner/vpt")
    assert [old["digest"], new["digest"]] == [contents["old digest"].decode(), contents["new digest"].decode()]
    for answer in (old, new):
        assert len({Path(name).parent for name in answer["files"]}) == 1
    configs = {path for _, path in hub.taken() if path.endswith("config.json")}
    assert configs == {f"/owner/vpt/resolve/{commit}/config.json" for commit in (OLD, NEW)}


def test_repository_without_config(hub: Hub, load: Load, contents: dict[str, bytes]) -> None:
    (answer,) = load("owner/bare")
    assert answer["digest"] == contents["old digest"].decode()
    assert [Path(name).name for name in answer["files"]] == ["model.safetensors"]
    assert answer["summary"].endswith("9 left aside: pi_head 4, value_head 5")
    hub.taken()
    assert load("owner/bare") == [answer]
    assert [method for method, _ in hub.taken()] == ["HEAD"], "that a commit has no config is not asked twice"


def test_what_the_hub_does_not_have(hub: Hub, load: Load) -> None:
    unknown, revision, empty, gated, page, name = load(
        "owner/unknown", "owner/vpt@v9", "owner/empty", "owner/gated", "owner/page", "owner/-.-..x"
    )
    assert "'owner/unknown' is neither a file or folder here nor a repository that the hub shows" in unknown["error"]
    assert "'owner/vpt' has no revision 'v9'" in revision["error"]
    assert "'owner/empty' holds no model.safetensors" in empty["error"]
    assert "'owner/gated' is gated: ask for access" in gated["error"]
    assert "model.safetensors is a web page" in page["error"]
    assert "owner/-.-..x" in name["error"]


def test_config_that_disagrees(hub: Hub, load: Load) -> None:
    wrong = json.dumps({"policy_kwargs": policy_kwargs() | {"hidsize": 2048}}).encode()
    hub.repositories["owner/vpt"].commits[NEW]["config.json"] = wrong
    (answer,) = load("owner/vpt")
    assert "hidsize is 2048 in the config, 32 by the tensors" in answer["error"]


def test_download_that_is_cut_off_is_taken_up_again(hub: Hub, load: Load, contents: dict[str, bytes]) -> None:
    hub.cut_off = True
    (answer,) = load("owner/bare")
    if "error" in answer:  # huggingface_hub before 1.0 leaves the second attempt to the user
        assert "Downloading 'owner/bare' from the hub failed" in answer["error"]
        assert "try again" in answer["error"]
        (answer,) = load("owner/bare")
    assert answer["digest"] == contents["old digest"].decode()
    assert len([name for name in downloads(hub) if len(name) == 64]) == 2


def test_nobody_answers(hub: Hub, load: Load, unused_endpoint: str) -> None:
    online = load("owner/bare", "owner/vpt")
    fresh, *cached = load("owner/empty", "owner/bare", "owner/vpt", HF_ENDPOINT=unused_endpoint)
    assert "The hub did not answer" in fresh["error"]
    assert "the cache does not hold 'owner/empty'" in fresh["error"]
    assert "HF_ENDPOINT" in fresh["error"]
    assert cached == online


def test_hub_that_is_down(hub: Hub, load: Load) -> None:
    online = load("owner/vpt")
    hub.broken = True
    assert load("owner/vpt") == online


def test_a_passing_fault_is_no_missing_config(hub: Hub, load: Load, contents: dict[str, bytes]) -> None:
    """Only the hub's own word, or that of the cache, means that there is none."""
    hub.broken_for = ("config.json",)
    (answer,) = load("owner/vpt")
    assert "config.json" in answer["error"] or "Downloading 'owner/vpt' from the hub failed" in answer["error"]
    assert "try again" in answer["error"]
    (cached,) = load("owner/vpt", HF_HUB_OFFLINE="1")
    assert cached["digest"] == contents["new digest"].decode()
    assert len(cached["files"]) == 1, "who switches the hub off does with what the cache holds"
    hub.broken_for = ()
    (whole,) = load("owner/vpt")
    assert len(whole["files"]) == 2


def test_other_forms_of_weights(hub: Hub, load: Load, contents: dict[str, bytes]) -> None:
    online = load("owner/torch", "owner/parts")
    for answer in online:
        assert answer["digest"] == contents["old digest"].decode()
        assert "temperature 2," in answer["heads"]
    assert [Path(name).name for name in online[0]["files"]] == ["pytorch_model.bin", "config.json"]
    assert len(online[1]["files"]) == 5
    hub.taken()
    assert load("owner/torch", "owner/parts", HF_HUB_OFFLINE="1") == online
    assert hub.taken() == []
    (lacking,) = load(f"owner/parts@{NEW}")
    assert "holds model.safetensors.index.json, but not the model-00002-of-00003.safetensors" in lacking["error"]


def test_cache_that_may_only_be_read(hub: Hub, load: Load, tmp_path: Path) -> None:
    """Somebody else's, with what they loaded in it."""
    online = load("owner/vpt", "owner/bare", "owner/torch")
    cache = str(tmp_path / "home" / "hub")
    for marker in Path(cache).glob("*bare/.no_exist/*/*"):
        marker.unlink()
    *read, lacking = load("owner/vpt", "owner/bare", "owner/torch", "owner/vpt@v1", READ_ONLY=cache)
    assert read == online
    assert "cannot be written into the cache (Permission denied" in lacking["error"]
    assert "HF_HUB_CACHE" in lacking["error"]


def test_cache_that_cannot_be_written(hub: Hub, load: Load, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (answer,) = load("owner/vpt", HF_HUB_CACHE=str(tmp_path / "file" / "cache"))
    assert "Downloading 'owner/vpt' from the hub failed" in answer["error"]


@pytest.fixture
def unused_endpoint() -> str:
    """An address at which a server was a moment ago and is no longer."""
    with Hub({}) as gone:
        return gone.endpoint
