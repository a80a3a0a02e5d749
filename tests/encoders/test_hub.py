"""CLIP from the hub, through the real huggingface_hub, against a server on loopback that speaks the hub's protocol."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.diffusion import save_clip
from tests.weights.hub_server import Hub, Repository
from vpt_gym.encoders.text import CLIP, embed_goal

ROOT = Path(__file__).parents[2]
MAIN, CONVERTED = "0" * 39 + "1", "0" * 39 + "2"

EMBED = """
import json, sys
from vpt_gym.encoders.text import embed_goal
from vpt_gym.errors import WeightsError
for place in sys.argv[1:]:
    try:
        print(json.dumps(embed_goal("open the door", place).tolist()))
    except WeightsError as error:
        print(json.dumps(str(error)))
"""


def test_the_default_clip_is_had_from_a_pull_request_of_the_hub(tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in save_clip(tmp_path / "clip").iterdir()}
    pickled = {name: content for name, content in files.items() if not name.endswith(".safetensors")}
    name, _, revision = CLIP.partition("@")
    commits = {MAIN: {**pickled, "pytorch_model.bin": b"a pickle"}, CONVERTED: files}
    repository = Repository(commits, {"main": MAIN, revision: CONVERTED})
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()}
    with Hub({name: repository}) as hub:
        ours = {"PYTHONPATH": str(ROOT), "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
        done = subprocess.run(
            [sys.executable, "-c", EMBED, CLIP, name],
            capture_output=True,
            text=True,
            env={**kept, **ours},
            check=True,
            timeout=300,
        )
    goal, refusal = map(json.loads, done.stdout.splitlines())
    assert goal == embed_goal("open the door", str(tmp_path / "clip")).tolist()
    assert "has no .safetensors files on the hub" in refusal
    assert "owner/name@refs/pr/15" in refusal
    assert not any(path.endswith(".bin") for _, path in hub.requests), "no pickle is even downloaded"
