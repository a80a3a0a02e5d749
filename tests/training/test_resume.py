"""A training that is taken up is the training that was never broken off."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecNormalize

from tests.training.pixel_env import LightEnv
from tests.training.test_train import config
from vpt_gym import VPTEncoder, load_encoder
from vpt_gym.errors import OptionError, VPTGymError
from vpt_gym.rollout import WorkerVecEnv
from vpt_gym.running.files import WriteError
from vpt_gym.sb3 import VecVPTLatent
from vpt_gym.training import checkpoints, states
from vpt_gym.training.checkpoints import SaveRun, newest, resume
from vpt_gym.training.train import resume as resume_run
from vpt_gym.training.train import train
from vpt_gym.training.trees import read_tree, write_tree

STEPS = 156  # six rollouts of 13 steps in two environments, whose episodes have eight


@pytest.fixture(scope="module")
def encoder() -> VPTEncoder:
    return load_encoder("random:mini")


@pytest.fixture
def build(encoder: VPTEncoder) -> Iterator[Any]:
    made: list[VecNormalize] = []

    def build(algorithm: Any, seed: int = 3) -> BaseAlgorithm:
        venv = VecNormalize(VecVPTLatent(WorkerVecEnv([LightEnv] * 2), encoder))
        made.append(venv)
        options: dict[str, Any] = {"n_steps": 13, "batch_size": 26, "n_epochs": 2}
        if algorithm is DQN:
            options = {"learning_starts": 20, "train_freq": 13, "buffer_size": 500, "target_update_interval": 40}
        return algorithm("MlpPolicy", venv, seed=seed, device="cpu", policy_kwargs={"net_arch": [8]}, **options)

    yield build
    for venv in made:
        venv.close()


class Copies(BaseCallback):
    """Keeps every checkpoint elsewhere."""

    def __init__(self, saver: SaveRun, place: Path) -> None:
        super().__init__()
        self.saver, self.place = saver, place

    def _on_rollout_start(self) -> None:
        if self.num_timesteps:
            name = self.saver.save().name
            shutil.copytree(self.saver.folder / name, self.place / name)

    def _on_step(self) -> bool:
        return True


def everything(model: BaseAlgorithm) -> Any:
    """All that a training has become, as plain values."""
    venv: Any = model.get_env()
    buffer = getattr(model, "replay_buffer", None)
    arrays = {k: v for k, v in vars(buffer).items() if isinstance(v, np.ndarray)} if buffer else {}
    return {
        "parameters": model.get_parameters(),
        "buffer": arrays,
        "position": buffer and (buffer.pos, buffer.full),
        "numbers": states.numbers_of(model),
        "scaling": [venv.obs_rms.mean, venv.obs_rms.var, venv.ret_rms.mean, venv.returns],
        "memory": venv.venv.latent_stream.state_dict(),
        "last": model._last_obs,
        "random": [torch.get_rng_state(), np.random.get_state(legacy=True)[1], random.getstate()],
    }


def assert_same(one: Any, other: Any, place: str = "") -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            assert_same(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), place
        for i, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{place}[{i}]")
    elif isinstance(one, (np.ndarray, torch.Tensor)):
        assert np.array_equal(np.asarray(one), np.asarray(other)), place
    else:
        assert one == other, place


@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_it_equals_the_uninterrupted_training(algorithm: Any, build: Any, tmp_path: Path) -> None:
    """Exactly: parameters, optimiser, replay buffer, scaling, memory, counters and random states."""
    whole = build(algorithm)
    saver = SaveRun(tmp_path / "kept", every=1e9)
    whole.learn(STEPS, callback=[saver, Copies(saver, tmp_path)])
    expected = everything(whole)
    (first, *_, last) = sorted(place for place in tmp_path.iterdir() if place.name.startswith("step-"))
    for name in (first.name, last.name):
        part = tmp_path / "only" / name
        part.mkdir(parents=True)
        shutil.copytree(tmp_path / name, part / name)
        model = build(algorithm, seed=99)
        resume(model, part)
        assert model._last_obs is not None, "the running episodes go on"
        model.learn(STEPS - model.num_timesteps, reset_num_timesteps=False)
        assert_same(everything(model), expected)


def test_the_last_k_are_kept_and_a_damaged_one_is_passed_over(build: Any, tmp_path: Path) -> None:
    model = build(PPO)
    model.learn(STEPS, callback=SaveRun(tmp_path, every=0.0, keep=2))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"step-{steps:012d}" for steps in (STEPS - 52, STEPS - 26)]
    for file in (tmp_path / names[-1]).iterdir():
        whole = file.read_bytes()
        for damaged in (whole[: len(whole) // 2], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
            file.write_bytes(damaged)
            assert newest(tmp_path)[0].name == names[0]
        file.write_bytes(whole)
    assert newest(tmp_path)[0].name == names[1]
    shutil.rmtree(tmp_path / names[0])
    (tmp_path / names[1] / "state.json").unlink()
    with pytest.raises(VPTGymError, match="holds no whole checkpoint; the training has to begin anew"):
        resume(model, tmp_path)


def test_another_encoder_is_refused_naming_both(build: Any, encoder: VPTEncoder, tmp_path: Path) -> None:
    model = build(PPO)
    model.learn(26, callback=SaveRun(tmp_path, every=1e9))
    checkpoints.save(model, tmp_path, 1, {})
    _, state = newest(tmp_path)
    other = load_encoder("random:mini?seed=5")
    for facts in (other.describe(), {**encoder.describe(), "precision": "bfloat16"}):
        state["encoder"] = {name: facts[name] for name in checkpoints.FACTS}
        both = rf"fingerprints {facts['fingerprint'][:12]} and {encoder.fingerprint[:12]}"
        with pytest.raises(VPTGymError, match=rf"was made with another encoder: .*{both}"):
            checkpoints.load(model, tmp_path, state)


def test_state_of_another_model_is_refused(build: Any, tmp_path: Path) -> None:
    model = build(PPO)
    model.learn(26)
    checkpoints.save(model, tmp_path, 1, {})
    place, state = newest(tmp_path)
    with pytest.raises(VPTGymError, match="is of a PPO, not of a DQN"):
        checkpoints.load(build(DQN), place, state)
    del state["model"]["parameters"]["policy"]["value_net.bias"]
    with pytest.raises(VPTGymError, match="does not fit this model and its environments"):
        checkpoints.load(model, place, state)


def test_nothing_is_overwritten_when_the_system_refuses(
    build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(PPO)
    model.learn(26)
    saved = checkpoints.save(model, tmp_path, 1, {})
    before = {file.name: file.read_bytes() for file in saved.iterdir()}
    model.num_timesteps += 1

    def full(folder: Path, value: Any) -> None:
        (folder / "tensors.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_tree", full)
    with pytest.raises(WriteError, match="No space left on device; free some space"):
        checkpoints.save(model, tmp_path, 1, {})
    assert list(tmp_path.iterdir()) == [saved]
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before


def test_a_checkpoint_runs_nothing(tmp_path: Path) -> None:
    tree = {"a": [1, 2.5, None, "x"], 3: (True, np.arange(3)), "t": torch.ones(2, 2), "n": np.float32(2)}
    write_tree(tmp_path, tree)
    assert_same(read_tree(tmp_path), tree)
    for file in list(tmp_path.iterdir()):
        whole = file.read_bytes()
        for hostile in (pickle.dumps(Path("x")), b"[" * 100_000, b"{}", b"[]", b'{"value": {"$x": 1}}'):
            file.write_bytes(hostile)
            with pytest.raises(VPTGymError, match="is no whole checkpoint"):
                read_tree(tmp_path)
        file.write_bytes(whole)
    with pytest.raises(VPTGymError, match=r"cannot hold the state\.x, which is a Path|PosixPath"):
        write_tree(tmp_path, {"x": tmp_path})


KILLED = """
import sys
from pathlib import Path
from tests.training.test_train import config
from vpt_gym.training.train import train
train(config(steps=10**6, video="none", eval_episodes=2), Path(sys.argv[1]), save_every=0.01)
"""


def test_a_killed_run_goes_on_from_a_whole_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(run)], env=environment)
    try:
        while not len(list((run / "checkpoints").glob("step-*"))) >= 3:
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        time.sleep(random.random() / 5)
        process.send_signal(signal.SIGKILL)
        process.wait()
    steps = newest(run / "checkpoints")[1]["steps"]
    measured = json.loads((run / "config.json").read_text())["random_policy"]
    began = time.monotonic()
    result = resume_run(run, steps=steps + 64)
    assert result.total_seconds > time.monotonic() - began  # what was killed counts
    assert result.steps == steps + 64
    assert not result.interrupted
    written = json.loads((run / "config.json").read_text())
    assert written["random_policy"] == measured
    assert result.baseline is not None
    assert (written["status"], written["steps"]) == ("finished", steps + 64)
    lines = (run / "progress.csv").read_text().splitlines()
    at = lines[0].split(",").index("time/total_timesteps")
    logged = [int(line.split(",")[at]) for line in lines[1:]]
    assert logged == sorted(set(logged))
    assert logged[-1] == steps + 64
    with pytest.raises(OptionError, match=r"has finished its .* give more of them with --steps"):
        resume_run(run, steps=64)


def test_a_run_that_never_saved_is_refused(tmp_path: Path) -> None:
    train(config(steps=64, video="none", eval_episodes=2), tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(VPTGymError, match="holds no whole checkpoint"):
        resume_run(tmp_path)
