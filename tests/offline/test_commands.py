"""The commands on recordings, one after the other, as a user calls them."""

from __future__ import annotations

import errno
import io
import os
import re
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import PPO

from tests.offline.material import noise, require_offline, write_episode
from vpt_gym.cli.main import main
from vpt_gym.running.files import claimed_place

require_offline()


class Closed(io.StringIO):
    """What `| head` leaves of standard output when it has seen enough."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def test_encode_clone_probe_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recordings").mkdir()
    for place in range(4):
        actions = np.arange(5) % 3
        write_episode(
            tmp_path / "recordings" / f"{place}.npz", noise(6, seed=place), actions=actions, height=np.arange(6.0)
        )
    encode = ["encode", "recordings", "--out", "latents", "--encoder", "random:mini", "--rows", "4"]
    assert main([*encode, "--layer", "all", "--dtype", "float16"]) == 0
    printed = capsys.readouterr().out
    assert "4 recordings, 24 frames" in printed
    assert "UNTRAINED" in printed
    assert "dataset      latents" in printed
    assert main([*encode, "--layer", "all", "--dtype", "float16"]) == 0
    assert "passed over  4" in capsys.readouterr().out
    assert main([*encode, "--layer", "final", "--dtype", "float16"]) == 1
    assert "name another --out" in capsys.readouterr().err
    assert main(["encode", "recordings", "--out", "x" * 300, "--encoder", "random:mini"]) == 1
    assert "cannot be written: File name too long" in capsys.readouterr().err
    (tmp_path / "recordings" / "bad.npz").write_bytes(b"bad")
    assert main([*encode, "--layer", "all", "--dtype", "float16"]) == 1
    captured = capsys.readouterr()
    assert "bad.npz is left out" in captured.err
    assert "left out     1" in captured.out

    assert main(["clone", "latents", "--out", "clone.zip", "--epochs", "2", "--validation", "0.25"]) == 0
    assert re.search(r"best +epoch \d, loss .* held-out frames", capsys.readouterr().out)
    model = PPO.load("clone.zip", device="cpu")
    assert model.policy.observation_space.shape == (6 * 256,)
    assert model.policy.action_space.n == 3
    assert Path("clone.png").is_file()
    with claimed_place(Path("clone.zip")):
        assert main(["clone", "latents", "--out", "clone.zip", "--epochs", "2"]) == 1
    assert "clone.zip belongs to a command that is running" in capsys.readouterr().err
    assert main(["clone", "latents", "--out", "clone.zip", "--heads", "random:mini"]) == 1
    assert "heads" in capsys.readouterr().err

    assert main(["probe", "latents", "--label", "height", "--out", "probes.png"]) == 0
    printed = capsys.readouterr().out
    assert len(re.findall(r"^height +\w+ +ridge", printed, flags=re.MULTILINE)) == 7
    assert Path("probes.png").is_file()

    assert main(["nearest", "latents", "--at", "1:3", "--k", "2", "--apart", "2", "--out", "sheet.png"]) == 0
    assert re.search(r"1:3 +0 +1\.npz", capsys.readouterr().out)
    assert Path("sheet.png").is_file()
    for command in (
        [*encode, "--layer", "all", "--dtype", "float16"],
        ["clone", "latents", "--out", "clone.zip", "--epochs", "1"],
        ["diffuse", "latents", "--out", "policy.safetensors", "--steps", "1"],
        ["probe", "latents", "--label", "height"],
        ["nearest", "latents", "--at", "1:3"],
    ):
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout", Closed())
            assert main(command) == 1
        assert "Standard output cannot be written: Broken pipe." in capsys.readouterr().err
    assert main(["nearest", "latents", "--at", "9:0"]) == 1
    with pytest.raises(SystemExit, match="2"):
        main(["nearest", "latents", "--at", "here"])
