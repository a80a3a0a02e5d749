"""Whole pre-trainings on small recordings: they learn, stop, go on, and leave what `load_encoder` opens."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.offline.material import require_offline
from tests.offline.recordings import SIZE, write_recordings
from tests.support.network import random_net
from vpt_gym import load_encoder
from vpt_gym.config import VPTConfig
from vpt_gym.encoders.loading import load_network
from vpt_gym.errors import OptionError, RecordingError, VPTGymError, WeightsError
from vpt_gym.offline.pretraining.config import PretrainingConfig
from vpt_gym.offline.pretraining.heads import parts_of
from vpt_gym.running.files import claimed_place
from vpt_gym.weights import save_checkpoint

if importlib.util.find_spec("lightning") is None:
    pytest.skip("Lightning is not installed (the extra pretrain brings it)", allow_module_level=True)
require_offline()
from vpt_gym.offline.pretraining.card import read_figures  # noqa: E402
from vpt_gym.offline.pretraining.run import pretrain  # noqa: E402


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


CONFIG = VPTConfig(
    hidden_size=32, heads=2, impala_width=1, blocks=2, memory=8, dense_size=16, mlp_ratio=2, frame_size=SIZE
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrain")
    maps = np.random.default_rng(0).integers(0, 256, (40, 2, 3), dtype=np.uint8)
    write_recordings(folder / "plays", (9, 20, 14, 30, 25, 11), depth_map=maps)
    save_checkpoint(random_net(CONFIG), None, folder / "start")
    return folder


def config_of(place: Path, out: str, **options: Any) -> PretrainingConfig:
    defaults: dict[str, Any] = {
        "datasets": (str(place / "plays"),),
        "out": place / out,
        "source": str(place / "start"),
        "steps": 8,
        "rows": 3,
        "length": 4,
        "warm_up": 2,
        "validate_every": 4,
        "workers": 0,
        "device": "cpu",
    }
    return PretrainingConfig(**{**defaults, **options})


def test_it_learns_and_leaves_an_encoder(place: Path) -> None:
    """A square stands where the action says: cloned on recordings that were not trained on, and more than by chance."""
    folder = pretrain(config_of(place, "learns", steps=60, validate_every=30, learning_rate=3e-3))
    figures = (folder / "logs" / "metrics.csv").read_text().splitlines()
    column = figures[0].split(",").index("val/accuracy")
    accuracies = [float(line.split(",")[column]) for line in figures[1:] if line.split(",")[column]]
    assert accuracies[-1] > 0.9

    encoder = load_encoder(str(folder), device="cpu")
    assert encoder.latent_size == 32
    assert encoder.heads.actions == {"": 3}
    assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"
    card = (folder / "README.md").read_text()
    assert "60 steps" in card
    assert "accuracy" in card
    assert encoder.fingerprint in card
    training = encoder.describe()["training"]
    assert (training["recordings"], training["from"], training["frames"]) == (["plays"], "start", 60 * 3 * 4)
    assert training["validation"]["accuracy"] == accuracies[-1]
    assert json.loads((folder / "pretraining.json").read_text())["steps"] == 60


def test_a_short_one_without_validation_has_curves(place: Path) -> None:
    folder = pretrain(config_of(place, "short", steps=2, validation=0.0))
    assert [step for step, _ in read_figures(folder)["train/loss"]] == [1]
    assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_one_that_is_stopped_at_its_first_step_is_whole(place: Path) -> None:
    def stops(*_: Any) -> dict[str, Any]:
        signal.raise_signal(signal.SIGINT)
        return {}

    config = config_of(place, "early", steps=100, validate_every=50)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, {"stops": stops})
    assert load_encoder(str(config.out), device="cpu").describe()["training"]["steps"] == 1
    assert (config.out / "curves.png").exists()
    assert (config.out / "checkpoints" / "last.ckpt").exists()


def test_wandb_is_told_what_the_table_is(place: Path, logged: list[dict[str, Any]]) -> None:
    folder = pretrain(config_of(place, "watched", steps=10, validate_every=5, wandb=True))
    for name in ("train/loss", "train/clone_loss", "val/loss"):
        kept = read_figures(folder)[name]
        told = [(line["trainer/global_step"], line[name]) for line in logged if name in line]
        assert kept
        assert told == [(step, pytest.approx(value, rel=1e-5)) for step, value in kept]
    assert list((folder / "wandb").glob("offline-run-*"))


def test_what_was_trained_is_shipped_in_bfloat16(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vizdoom")
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    script: Any = importlib.import_module("doom_mini")
    folder = pretrain(config_of(place, "to-ship", steps=10))
    target = place / "package" / "doom-mini"
    size = script.ship(folder, target, 1.5)
    assert size == sum(file.stat().st_size for file in target.iterdir())
    stored = load_file(target / "model.safetensors")
    for name, tensor in load_file(folder / "model.safetensors").items():
        expected = tensor.bfloat16() if name.startswith("net.") else tensor
        assert torch.equal(stored[name], expected), name
    encoder = load_encoder(str(target), device="cpu")
    assert encoder.describe()["training"]["steps"] == 10
    assert encoder.describe()["training"]["name"] == "doom:mini"
    card = (target / "README.md").read_text()
    assert encoder.fingerprint in card
    assert "in 1.5 hours" in card
    monkeypatch.setattr(script, "LARGEST", 1000)
    with pytest.raises(SystemExit, match="room for"):
        script.ship(folder, target, None)


OBJECTIVE = {"clone": 1.0, "depth_map": 2.0, "inverse": 0.5, "next": 0.5}


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    """A training of 12 steps that nothing stopped."""
    return pretrain(config_of(place, "whole", steps=12, objective=OBJECTIVE))


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_stopped_and_gone_on_equals_uninterrupted(place: Path, whole: Path, name: str) -> None:
    """In the middle: the parameters are the same to the bit afterwards. Who asks and does not kill gets an encoder as well."""
    config = config_of(place, name, steps=12, objective=OBJECTIVE)
    script = f"""
import os, signal, torch
from pathlib import Path, PosixPath
from vpt_gym.offline.pretraining.config import PretrainingConfig
from vpt_gym.offline.pretraining.run import pretrain  # noqa: E402
torch.set_num_threads(1)
def killer(batch, batch_idx, step_name, latents, mine_policy):
    if step_name == "training" and batch_idx == 6:
        os.kill(os.getpid(), signal.{name})
    return {{}}
try:
    pretrain({config!r}, {{"killer": killer}})
except KeyboardInterrupt:
    raise SystemExit(130)
"""
    died = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], timeout=120, check=False)
    killed = name == "SIGKILL"
    assert died.returncode == (-signal.SIGKILL if killed else 130)
    assert (place / name / "model.safetensors").exists() != killed
    if not killed:
        assert load_encoder(str(place / name), device="cpu").describe()["training"]["steps"] == 7
    resumed = pretrain(config)
    expected, found = (load_file(folder / "model.safetensors") for folder in (whole, resumed))
    assert set(expected) == set(found)
    for key, tensor in expected.items():
        assert torch.equal(tensor, found[key]), key
    # The curves are those of the whole training, not of its last part.
    assert read_figures(resumed)["val/loss"] == read_figures(whole)["val/loss"]
    assert len(read_figures(whole)["val/loss"]) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_two_devices_stopped_and_gone_on_equal_one(place: Path) -> None:
    """Two processes with two rows each learn what one with four learns, to rounding; their memories go on where they stood."""
    import psutil  # not everywhere where tests are collected

    options = {"steps": 40, "objective": {"clone": 1.0, "depth_map": 2.0}}
    expected = load_file(pretrain(config_of(place, "one", rows=4, **options)) / "model.safetensors")
    command = (
        f"pretrain {place / 'plays'} --from {place / 'start'} --out {place / 'two'} --steps 40 --rows 2 --length 4 --warm-up 2 "
        "--validate-every 4 --workers 0 --device cpu --devices 2 --objective clone=1 --objective depth_map=2"
    )
    words = [sys.executable, "-m", "vpt_gym.cli", *command.split()]
    last = place / "two" / "checkpoints" / "last.ckpt"
    steps = 0
    for number, code in ((signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)):
        saved = last.stat().st_mtime_ns if last.exists() else 0
        running = subprocess.Popen(words, cwd=Path(__file__).parents[2], env={**os.environ, "OMP_NUM_THREADS": "1"})
        try:
            while running.poll() is None and (not last.exists() or last.stat().st_mtime_ns == saved):
                time.sleep(0.02)
            others = psutil.Process(running.pid).children()
            running.send_signal(number)
            assert running.wait(60) == code
        finally:
            running.kill()
        assert len(others) == 1
        psutil.wait_procs(others, timeout=20)
        assert not any(each.is_running() for each in others)
        if number == signal.SIGTERM:
            steps = load_encoder(str(place / "two"), device="cpu").describe()["training"]["steps"]
    assert 4 <= steps < 40
    assert subprocess.run(words, cwd=Path(__file__).parents[2], timeout=120, check=False).returncode == 0
    found = load_file(place / "two" / "model.safetensors")
    assert set(expected) == set(found)
    start = load_file(place / "start" / "model.safetensors")
    for key, tensor in expected.items():
        # AdamW turns a gradient that is rounding alone into a whole step, so single numbers may part; a tensor may not.
        moved = tensor - start.get(key, torch.zeros(()))  # heads are new
        assert (found[key] - tensor).norm() <= 0.02 * moved.norm(), key


@pytest.mark.parametrize(
    ("train", "moving"),
    [
        ("heads", ()),
        ("norms", ("norm", "ln", ".n.")),
        ("last", ("recurrent_layer.blocks.1", "lastlayer", "final_ln")),
        ("lora:2", ("recurrent_layer",)),
    ],
)
def test_frozen_parts_stay_bit_equal(place: Path, train: str, moving: tuple[str, ...]) -> None:
    folder = pretrain(config_of(place, f"part-{train.replace(':', '-')}", train=train, steps=4))
    before, after = load_file(place / "start" / "model.safetensors"), load_file(folder / "model.safetensors")
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    if moving:
        assert changed
        assert [name for name in changed if not any(part in name for part in moving)] == []
    else:
        assert not changed
    if train.startswith("lora"):
        assert not any(word in name for name in changed for word in ("norm", "ln", "bias"))


def test_an_objective_of_ones_own(place: Path) -> None:
    seen: list[str] = []

    def own(batch: dict, batch_idx: int, step_name: str, latents: dict, mine_policy: Any) -> dict:
        seen.append(step_name)
        return {"loss": latents["final"].square().mean(), "mine": 1.0}

    folder = pretrain(config_of(place, "own", steps=4), {"own": own})
    assert set(seen) == {"training", "validation"}
    assert "own_loss" in (folder / "logs" / "metrics.csv").read_text()


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(place: Path) -> None:
    def bad(batch: dict, batch_idx: int, step_name: str, latents: dict, mine_policy: Any) -> dict:
        return {"loss": latents["final"].mean() * (float("nan") if step_name == "training" and batch_idx == 6 else 0.0)}

    with pytest.raises(VPTGymError, match=r"The loss is not finite at step 6 .*episode-00000\d.npz"):
        pretrain(config_of(place, "nan"), {"bad": bad})
    assert (place / "nan" / "checkpoints" / "last.ckpt").exists()
    assert not (place / "nan" / "model.safetensors").exists()


def test_a_loss_that_is_not_finite_on_one_device_stops_all(place: Path) -> None:
    script = place / "one_device.py"
    script.write_text(f"""
from pathlib import Path, PosixPath
from vpt_gym.offline.pretraining.config import PretrainingConfig
from vpt_gym.offline.pretraining.engine import rank
from vpt_gym.offline.pretraining.run import pretrain

def bad(batch, batch_idx, step_name, latents, mine_policy):
    broken = rank() == 1 and (step_name, batch_idx) == ("training", 6)
    return {{"loss": latents["final"].mean() * (float("nan") if broken else 0.0)}}

if __name__ == "__main__":
    pretrain({config_of(place, "nan-of-two", rows=2, devices=2)!r}, {{"bad": bad}})
""")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    words = [sys.executable, str(script)]
    ran = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 1, ran.stderr
    assert re.search(
        r"VPTGymError: The loss is not finite at step 6 \(training\), in one of: episode-00000\d.npz, episode",
        ran.stderr,
    )
    assert (place / "nan-of-two" / "checkpoints" / "last.ckpt").exists()


def test_what_the_machine_cannot_do_is_refused(place: Path) -> None:
    with pytest.raises(OptionError, match="float16: use precision bf16-mixed"):
        pretrain(config_of(place, "half", precision="16-mixed"))
    if torch.cuda.device_count() < 9:
        with pytest.raises(OptionError, match="GPUs, and 9 were asked for"):
            pretrain(config_of(place, "many", device="cuda", devices=9))


def test_bfloat16_is_near(place: Path, whole: Path) -> None:
    mixed = pretrain(config_of(place, "mixed", steps=12, objective=OBJECTIVE, precision="bf16-mixed"))
    losses = [read_figures(folder)["val/loss"][-1][1] for folder in (whole, mixed)]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[1] != losses[0]
    parameters = load_file(mixed / "model.safetensors").values()
    assert {tensor.dtype for tensor in parameters} == {torch.float32}


def test_wrong_folders_and_spaces_are_refused(place: Path) -> None:
    config = config_of(place, "refused")
    other = write_recordings(place / "binary", (20,), gym.spaces.MultiBinary(2))
    with pytest.raises(VPTGymError, match="one action space at a time"):
        pretrain(replace(config, datasets=(*config.datasets, str(other))))
    with pytest.raises(OptionError, match=r"no objective 'depth': .*depth_map"):
        pretrain(replace(config_of(place, "unknown"), objective={"depth": 1.0, "depth_map": 1.0}))
    pretrain(config_of(place, "first", steps=4))
    with pytest.raises(VPTGymError, match="another rows"):
        pretrain(config_of(place, "first", steps=4, rows=2))
    with pytest.raises(VPTGymError, match="something else"):
        pretrain(config_of(place, "plays"))
    with pytest.raises(VPTGymError, match="one batch has 99 x 4"):
        pretrain(config_of(place, "small", rows=99))
    # What was refused has left nothing behind that would refuse what is right.
    pretrain(config_of(place, "small", steps=4))
    with pytest.raises(OptionError, match="at most the 8 frames of the memory, not 9"):
        pretrain(config_of(place, "long", length=9))
    large = replace(CONFIG, frame_size=32)
    save_checkpoint(random_net(large), None, place / "large")
    with pytest.raises(
        RecordingError, match=r"frames of 16x16 pixels, and the network reads 32x32: record with --frame-size 32"
    ):
        pretrain(config_of(place, "upscaled", source=str(place / "large")))
    spaced = write_recordings(place / "without", (20,))
    maps = np.zeros((20, 2), np.uint8)
    mixed = write_recordings(place / "with", (20,), depth_map=maps)
    with pytest.raises(RecordingError, match=r"without.* has no 'depth_map', which other recordings have"):
        pretrain(config_of(place, "mixed-up", datasets=(str(mixed), str(spaced)), objective={"depth_map": 1.0}))
    with pytest.raises(VPTGymError, match="count from 0"):
        parts_of(gym.spaces.Discrete(3, start=1))


def test_the_best_is_published_where_the_rest_has_not_been_worth_it(place: Path) -> None:
    """Validation grows worse from the second one on: what is left is the network of the first."""

    def worse(batch: dict, batch_idx: int, step_name: str, latents: dict, mine_policy: Any) -> dict:
        del batch, batch_idx, latents
        steps = mine_policy.net.steps if step_name == "validation" else 0
        return {"loss": torch.tensor(float(steps))}

    class Counts:
        keys = ("depth_map",)

        def __call__(
            self, batch: dict, batch_idx: int, step_name: str, latents: dict, mine_policy: Any
        ) -> dict[str, Any]:
            del batch_idx, latents
            assert {"depth_map", "image"} <= set(batch)
            mine_policy.net.steps = getattr(mine_policy.net, "steps", 0) + (step_name == "training")
            return {}

    config = config_of(place, "overdone", steps=40, validate_every=4, patience=2)
    folder = pretrain(config, {"counts": Counts(), "worse": worse})
    facts = load_encoder(str(folder), device="cpu").describe()["training"]
    assert facts["steps"] == 4
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    found = load_file(folder / "model.safetensors")
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    (norm,) = [tensor for name, tensor in found.items() if name.endswith("final_ln.weight")]
    name = "policy.net.final_norm.weight"
    assert torch.equal(norm, best[name])
    assert not torch.equal(norm, last[name])


def test_a_stray_rank_is_told(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpt_gym.offline.pretraining.engine.rank", lambda: 1)
    with pytest.raises(OptionError, match="process 1 of a training, which is to have 1"):
        pretrain(config_of(place, "stray"))


def test_a_folder_belongs_to_one_and_its_damage_is_told(place: Path) -> None:
    config = config_of(place, "hurt", steps=4)
    last = pretrain(config) / "checkpoints" / "last.ckpt"
    whole = last.read_bytes()
    with (
        claimed_place(config.out, folder=True),
        pytest.raises(OptionError, match="hurt belongs to a command that is running"),
    ):
        pretrain(config)
    hostile = pickle.dumps({"state_dict": Hostile(place / "ran")})
    for content in (b"", whole[: len(whole) // 2], b"no checkpoint" * 100, hostile):
        last.write_bytes(content)
        with pytest.raises(VPTGymError, match=r"last\.ckpt is damaged .* put best\.ckpt in its place"):
            pretrain(replace(config, steps=8))
    assert not (place / "ran").exists()
    last.write_bytes(whole)
    (config.out / "pretraining.json").write_text("[]")
    with pytest.raises(VPTGymError, match=r"pretraining\.json is damaged"):
        pretrain(replace(config, steps=8))


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_a_full_disk_is_a_sentence(place: Path) -> None:
    """A limit on the size of files stops the checkpoint, as a full disk would."""
    script = f"""
import resource, torch
from pathlib import Path, PosixPath
from vpt_gym.errors import VPTGymError
from vpt_gym.offline.pretraining.config import PretrainingConfig
from vpt_gym.offline.pretraining.run import pretrain
torch.set_num_threads(1)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
try:
    pretrain({config_of(place, "full")!r})
except VPTGymError as error:
    print(error)
"""
    command = [sys.executable, "-c", script]
    told = subprocess.run(
        command, cwd=Path(__file__).parents[2], timeout=120, check=True, capture_output=True, text=True
    )
    assert "full cannot be written: File too large; free some space there." in told.stdout, told.stdout + told.stderr
    assert not (place / "full" / "model.safetensors").exists()


def test_several_binary_buttons(place: Path) -> None:
    plays = write_recordings(place / "buttons", (20, 15), gym.spaces.MultiBinary(3))
    folder = pretrain(config_of(place, "of-buttons", datasets=(str(plays),), steps=4))
    assert load_encoder(str(folder), device="cpu").heads.actions == {"part000": 2, "part001": 2, "part002": 2}


def test_continuous_actions(place: Path) -> None:
    """A bar stands where the first number says, and the network comes to tell that number; trained on, the head goes along."""
    plays = write_recordings(place / "box", (20, 15, 30, 18), gym.spaces.Box(0, 2.9, (2,), np.float32))
    options: dict[str, Any] = {"datasets": (str(plays),), "learning_rate": 3e-3, "validate_every": 40}
    objective = {"clone": 1.0, "inverse": 0.1, "next": 0.1}
    folder = pretrain(config_of(place, "of-box", steps=80, objective=objective, **options))
    figures = read_figures(folder)
    # Uniform from 0 to 2.9: who always says the middle errs by 0.73, and of the second number nothing can be known.
    assert figures["val/error"][-1][1] < 0.6
    assert figures["val/inverse_error"][-1][1] < 0.73
    assert "val/accuracy" not in figures
    state = load_file(folder / "model.safetensors")
    assert state["pi_head.linear_layer.weight"].shape == (2, 32)
    assert state["pi_head.log_std"].shape == (2,)
    assert load_encoder(str(folder), device="cpu").latent_size == 32
    with pytest.raises(WeightsError, match="a Gaussian head, for continuous actions"):
        _ = load_encoder(str(folder), device="cpu").heads
    again = pretrain(config_of(place, "of-box-again", source=str(folder), train="norms", steps=1, **options))
    after = load_file(again / "model.safetensors")["pi_head.log_std"]
    torch.testing.assert_close(after, state["pi_head.log_std"], rtol=0, atol=3e-3)
    assert not torch.equal(after, torch.zeros(2))


def test_pieces_lose_nothing(place: Path) -> None:
    """The loss over pieces of 2 with the memory carried equals the loss over one of 8 (no gradients): 1e-5."""
    from vpt_gym.nn import Memory
    from vpt_gym.offline.pretraining.policy import TrunkPolicy

    torch.manual_seed(0)
    policy = TrunkPolicy(load_network(str(place / "start")), {"": 3}, None)
    frames = torch.randint(0, 256, (2, 8, SIZE, SIZE, 3), dtype=torch.uint8)
    first = torch.zeros(2, 8, dtype=torch.bool)
    first[:, 0] = first[1, 5] = True
    with torch.no_grad():
        logits = []
        for length in (8, 2):
            memory = Memory.empty(CONFIG, 2, blocks=2, device=torch.device("cpu"), dtype=torch.float32)
            parts = []
            for start in range(0, 8, length):
                latents, memory = policy(frames[:, start : start + length], first[:, start : start + length], memory)
                parts.append(latents["pi_logits"][""])
            logits.append(torch.cat(parts, dim=1))
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-5, atol=1e-5)
