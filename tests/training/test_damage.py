"""A run folder from anywhere can be opened: damage is a sentence, and nothing in it is run unasked."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from tests.training.test_train import config
from vpt_gym import load_encoder
from vpt_gym.errors import VPTGymError
from vpt_gym.training import EvaluationConfig
from vpt_gym.training.algorithms import load_model, load_statistics, normalized
from vpt_gym.training.environments import check_env, latent_envs
from vpt_gym.training.evaluate import evaluate
from vpt_gym.training.folder import RunFolder
from vpt_gym.training.scaling import read_scaling, scaling_values
from vpt_gym.training.train import train

RUN = config(steps=64, n_envs=1, eval_episodes=1, video="none", env_kwargs={"as_dict": True}, keep=("room", "compass"))


class Bomb:
    """Unpickled, it leaves a file."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return Path.touch, (self.place,)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("run")
    train(RUN, folder)
    return RunFolder(folder)


@pytest.fixture(scope="module")
def encoder() -> Any:
    return load_encoder("random:mini", layer="cnn")


@pytest.fixture(scope="module")
def latents(encoder: Any) -> Any:
    venv = latent_envs(RUN, encoder, 1)
    yield venv
    venv.close()


@pytest.fixture
def copied(run: RunFolder, tmp_path: Path) -> RunFolder:
    for path in run.path.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    return RunFolder(tmp_path)


def test_the_scaling_survives_exactly(run: RunFolder, latents: VecEnv) -> None:
    loaded = load_statistics(RUN, run, latents, trust=False)
    assert isinstance(loaded, VecNormalize)
    assert not loaded.training
    # A Discrete entry is kept, and not scaled.
    assert set(loaded.obs_rms) == {"latent", "compass"}  # type: ignore[arg-type]
    assert scaling_values(loaded) == json.loads(run.scaling.read_text())
    assert loaded.obs_rms["latent"].var.std() > 0  # type: ignore[index]


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def changed(**changes: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "is not valid JSON"),
        (lambda path: path.write_text(""), "is not valid JSON"),
        (lambda path: path.write_text("[" * 100_000), "is not valid JSON"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "is not valid JSON"),
        (lambda path: path.write_text("[]"), "is damaged: it holds no JSON object"),
        (lambda path: path.write_text("{}"), "does not say 'vpt-gym vecnormalize 1' as its format"),
        (Path.unlink, "cannot be read .No such file or directory.*restore it or train again"),
        (changed(gamma=float("nan")), "its gamma is nan"),
        (changed(norm_obs="yes"), "its norm_obs is 'yes'"),
        (changed(observations={"latent": {}}), "is of other observations: it scales latent, but compass, latent"),
        (changed(observations={"latent": 1, "compass": 2}), "the statistics of compass are damaged"),
        (changed(returns={"mean": 0.0, "var": -1.0, "count": 1}), "the statistics of returns are damaged"),
        (changed(returns={"mean": 10**400, "var": 1.0, "count": 1}), "the statistics of returns are damaged"),
        (changed(returns={"mean": [0.0], "var": [1.0], "count": 1}), "the statistics of returns are damaged"),
        (changed(returns={"mean": "0", "var": "1", "count": 1}), "the statistics of returns are damaged"),
    ],
)
def test_a_damaged_scaling(damage: Callable[[Path], object], message: str, copied: RunFolder, latents: VecEnv) -> None:
    damage(copied.scaling)
    with pytest.raises(VPTGymError, match=message):
        read_scaling(copied.scaling, latents)


def member(name: str, data: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path) as old:
            kept = {n: old.read(n) for n in old.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
            for each, content in {**kept, name: data}.items():
                new.writestr(each, content)

    return write


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def one_wrong_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    at = data.index(b"policy.pth") + 2_000
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "is no whole model: it is truncated or damaged"),
        (lambda path: path.write_bytes(b""), "is no whole model: it is no zip archive"),
        (one_wrong_byte, "is no whole model: it is truncated or damaged"),
        (lambda path: zipfile.ZipFile(path, "w").close(), "it holds no policy.pth"),
        (member("policy.pth", b""), "its policy.pth is no archive of torch"),
        (member("policy.pth", pickle.dumps({})), "its policy.pth is no archive of torch"),
        (member("policy.pth", saved({})[:-200]), "its policy.pth cannot be read as plain tensors"),
        (member("policy.pth", saved([1])), "its policy.pth is no table of tensors"),
        (
            member("policy.pth", saved({"x": torch.zeros(2)})),
            "does not fit .* its action_net.bias is absent, where .2,. is expected",
        ),
        (member("policy.pth", bytes(200_000_000)), "its policy.pth holds 200,000,000 bytes, and the head has room for"),
    ],
)
def test_a_damaged_model(
    damage: Callable[[Path], object], message: str, copied: RunFolder, latents: VecEnv, encoder: Any
) -> None:
    damage(copied.model)
    with pytest.raises(VPTGymError, match=message):
        load_model(RUN, copied.model, normalized(RUN, latents), encoder)


def test_a_model_of_nan_is_not_played(copied: RunFolder, latents: VecEnv, encoder: Any) -> None:
    venv = normalized(RUN, latents)
    state = load_model(RUN, copied.model, venv, encoder).policy.state_dict()
    member("policy.pth", saved({name: tensor * float("nan") for name, tensor in state.items()}))(copied.model)
    with pytest.raises(VPTGymError, match=r"is of a run that broke: its \S+ holds NaN"):
        load_model(RUN, copied.model, venv, encoder)


@pytest.mark.parametrize("name", ["data", "policy.pth", "policy.optimizer.pth", "pytorch_variables.pth"])
def test_nothing_in_a_model_runs(name: str, copied: RunFolder, latents: VecEnv, encoder: Any, tmp_path: Path) -> None:
    bomb = tmp_path / "went off"
    member(name, saved(Bomb(bomb)) if name.endswith(".pth") else pickle.dumps(Bomb(bomb)))(copied.model)
    refused = pytest.raises(VPTGymError, match="cannot be read as plain tensors")
    with refused if name == "policy.pth" else nullcontext():
        load_model(RUN, copied.model, normalized(RUN, latents), encoder)
    assert not bomb.exists()


def test_a_model_needs_none_of_its_pickles(copied: RunFolder) -> None:
    with zipfile.ZipFile(copied.model) as archive:
        parameters = archive.read("policy.pth")
    with zipfile.ZipFile(copied.model, "w") as archive:
        archive.writestr("policy.pth", parameters)
    result = evaluate(EvaluationConfig(copied.path, episodes=1, video="none"))
    assert np.isfinite(result.score.mean)
    assert (result.status, result.differences) == ("finished", [])


def test_an_old_pickle_is_read_when_it_is_trusted(copied: RunFolder, latents: VecEnv) -> None:
    old = load_statistics(RUN, copied, latents, trust=False)
    assert isinstance(old, VecNormalize)
    old.save(str(copied.pickled_scaling))
    copied.scaling.unlink()
    with pytest.raises(VPTGymError, match=r"vecnormalize\.pkl is a pickle, .* say --trust"):
        load_statistics(RUN, copied, latents, trust=False)
    loaded = load_statistics(RUN, copied, latents, trust=True)
    assert isinstance(loaded, VecNormalize)
    assert scaling_values(loaded) == scaling_values(old)
    for damaged, message in (
        (copied.pickled_scaling.read_bytes()[:100], "is no saved VecNormalize"),
        (b"", "is no saved VecNormalize"),
        (pickle.dumps({"a": 1}), "is no saved VecNormalize|holds a dict"),
    ):
        copied.pickled_scaling.write_bytes(damaged)
        with pytest.raises(VPTGymError, match=message):
            load_statistics(RUN, copied, latents, trust=True)


def test_an_untrusted_pickle_does_not_run(copied: RunFolder, latents: VecEnv, tmp_path: Path) -> None:
    bomb = tmp_path / "went off"
    copied.scaling.unlink()
    copied.pickled_scaling.write_bytes(pickle.dumps(Bomb(bomb)))
    with pytest.raises(VPTGymError, match="--trust"):
        load_statistics(RUN, copied, latents, trust=False)
    assert not bomb.exists()


def test_other_versions_are_told(copied: RunFolder) -> None:
    recorded = copied.read_config()
    recorded["versions"] |= {"torch": "1.0", "absent-package": "3"}
    copied.write_config({**recorded, "status": "running"})
    result = evaluate(EvaluationConfig(copied.path, episodes=1, video="none"))
    assert result.differences == [
        f"torch 1.0 then, {version('torch')} now",
        "absent-package 3 then, not installed now",
    ]
    assert result.status == "killed"


def test_a_film_that_cannot_be_made_is_refused_before_playing(copied: RunFolder, tmp_path: Path) -> None:
    recorded = copied.read_config()
    recorded["training"]["env_kwargs"]["render_mode"] = None
    copied.write_config(recorded)
    with pytest.raises(VPTGymError, match=r"renders no rgb_array, so .*best\.mp4 cannot be filmed; leave --video out"):
        evaluate(EvaluationConfig(copied.path, episodes=1, video=tmp_path / "best.mp4"))
    assert evaluate(EvaluationConfig(copied.path, episodes=1)).video is None


def test_two_evaluations_do_not_write_one_film(copied: RunFolder, tmp_path: Path) -> None:
    with copied.held(), pytest.raises(VPTGymError, match="belongs to a command that is running"):
        evaluate(EvaluationConfig(copied.path, episodes=1))


def test_check_env_costs_no_replay_buffer() -> None:
    huge = {"buffer_size": 10**12, "learning_starts": 1}
    check_env(config(algo="dqn", hyperparameters=huge))
