"""A kind of encoder of one's own goes through train, eval and inspect without a change to any of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import vpt_gym
from tests.training.pixel_env import ENV_ID
from vpt_gym.cli.main import main
from vpt_gym.encoders import MemorylessEncoder, fingerprint_of, registry

SMALL = ("--n-envs", "2", "--n-steps", "32", "--batch-size", "32", "--eval-episodes", "2", "--video", "none")


class Stripes(MemorylessEncoder):
    """The brightness of upright stripes of the picture."""

    kind = "stripes"
    frame_size = 16

    def __init__(self, source: str, stripes: int) -> None:
        self.source, self.options, self.latent_size = source, {"stripes": stripes}, stripes
        self.fingerprint = fingerprint_of({"stripes": stripes})
        self.closed = False
        made.append(self)

    def latents_of(self, frames_nhwc: Tensor) -> Tensor:
        return (
            frames_nhwc.to(torch.float32).mean(dim=(1, 3)).reshape(len(frames_nhwc), self.latent_size, -1).mean(dim=2)
        )

    def close(self) -> None:
        self.closed = True


made: list[Stripes] = []


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(source: str, *, stripes: int = 2) -> Stripes:
        return Stripes(source, stripes)

    monkeypatch.setattr(registry, "_registered", {})
    vpt_gym.register_source("stripes", load)
    made.clear()


def test_train_eval_and_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    own = ("--encoder", "stripes:x", "--encoder-arg", "stripes=4")
    assert main(["train", ENV_ID, *own, *SMALL, "--steps", "64", "--run", str(run)]) == 0
    out = capsys.readouterr().out
    assert "encoder      stripes:x: 4 numbers a frame, cpu, float32" in out
    assert "VPT" not in out
    assert "UNTRAINED" not in out
    written = json.loads((run / "config.json").read_text())
    assert written["training"]["encoder_options"] == {"stripes": 4}
    assert written["encoder"] == Stripes("stripes:x", 4).describe()
    made.pop()

    assert main(["eval", str(run), "--episodes", "2", "--video", "none"]) == 0
    assert "mean return over 2 episodes" in capsys.readouterr().out
    # What the run says holds, but for what the evaluation is told.
    assert main(["eval", str(run), "--encoder", "stripes:elsewhere", "--episodes", "1", "--video", "none"]) == 0
    capsys.readouterr()
    assert main(["eval", str(run), "--encoder-arg", "stripes=8"]) == 1
    assert "The encoder stripes:x is not the one that" in capsys.readouterr().err

    assert main(["inspect", "stripes:x", "--encoder-arg", "stripes=4"]) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines() if line)
    assert lines["latent size"].strip() == "4"
    assert lines["frame size"].strip() == "16"
    assert lines["options"].strip() == "stripes=4"
    assert lines["fingerprint"].strip() == written["encoder"]["fingerprint"]
    assert main(["inspect", "stripes:x", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == Stripes("stripes:x", 2).describe()
    made.pop()
    assert len(made) == 6
    assert all(encoder.closed for encoder in made)


@pytest.mark.parametrize("command", [("train", ENV_ID, "--encoder", "stripes:x"), ("inspect", "stripes:x")])
def test_an_option_of_another_kind_is_one_sentence(
    command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*command, "--precision", "bfloat16"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "the options of this kind of encoder are stripes" in err
    assert list(tmp_path.iterdir()) == []
