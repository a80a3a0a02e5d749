"""`train_diffusion`: demonstrations, goals in them, and what a mean action cannot do."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

from tests.offline.material import require_offline, write_latents
from tests.support.diffusion import save_clip
from tests.training.pixel_env import ENV_ID
from vpt_gym.cli.main import main
from vpt_gym.errors import OptionError, RecordingError
from vpt_gym.heads import DiffusionPolicy
from vpt_gym.latents import latent_box
from vpt_gym.offline.plan import CloningConfig, DiffusionConfig

require_offline()
if find_spec("lightning") is None:
    pytest.skip("needs lightning", allow_module_level=True)

from vpt_gym.offline import LatentDataset, clone, train_diffusion  # noqa: E402 - needs the extra
from vpt_gym.offline.batches import split_episodes  # noqa: E402
from vpt_gym.offline.diffusion import Chunks  # noqa: E402

SIZE = 4
BOX = gym.spaces.Box(-1, 1, (1,), np.float32)
DISCRETE = gym.spaces.Discrete(3)
QUICK: dict[str, Any] = {
    "steps": 250,
    "batch_size": 64,
    "learning_rate": 3e-3,
    "warm_up": 10,
    "ema": 0.95,
    "device": "cpu",
    "validate_every": 125,
}


def _policy(space: gym.Space[Any], goal_size: int = 0, **options: Any) -> DiffusionPolicy:
    torch.manual_seed(0)
    observed: gym.Space[Any] = latent_box(SIZE)
    if goal_size:
        observed = gym.spaces.Dict({"latent": observed, "goal": latent_box(goal_size)})
    sizes = {"horizon": 4, "width": 32, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, **options}
    return DiffusionPolicy(observed, space, **sizes)


def _train(policy: DiffusionPolicy, data: Path, **options: Any) -> Any:
    goal = options.pop("goal", None)
    return train_diffusion(policy, data, DiffusionConfig(**{**QUICK, **options}), goal=goal, progress=False)


def _two_ways(path: Path) -> Path:
    """Episodes that pass an obstacle on the left or on the right, which nothing in the latents tells."""
    rng = np.random.default_rng(0)
    episodes = []
    for number in range(40):
        side = 0.8 if number % 2 else -0.8
        actions = (side + 0.02 * rng.normal(size=(20, 1))).astype(np.float32)
        episodes.append({"latents": rng.normal(size=(21, SIZE)).astype(np.float32), "actions": actions})
    return write_latents(path, episodes, BOX)


class Latents(gym.Env[Any, Any]):
    """An environment of latents, which only its spaces matter of."""

    observation_space = latent_box(SIZE)
    action_space = BOX


def test_of_two_ways_one_is_taken_and_not_the_middle(tmp_path: Path) -> None:
    data = _two_ways(tmp_path / "data")
    latents = np.random.default_rng(1).normal(size=(60, SIZE)).astype(np.float32)
    policy = _policy(BOX)
    result = _train(policy, data)
    assert result.steps == 250
    assert list(result.validation) == [125, 250]
    chunks = policy.predict(latents)[1][0][..., 0]
    assert (np.abs(chunks) > 0.5).mean() > 0.9
    # A chunk keeps to its side, and both sides are taken.
    assert (np.sign(chunks) == np.sign(chunks[:, :1])).mean() > 0.9
    assert 0.2 < (chunks[:, 0] > 0).mean() < 0.8

    cloned = PPO("MlpPolicy", Latents(), seed=0, device="cpu")
    clone(cloned, data, CloningConfig(epochs=10, batch_size=64, learning_rate=0.01))
    assert (np.abs(cloned.predict(latents, deterministic=True)[0]) > 0.5).mean() < 0.1


def _choices(path: Path, *, told: bool = False) -> Path:
    """Actions that the largest of three numbers decides: of the latent, or of the goal."""
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(24):
        latents = rng.normal(size=(31, SIZE)).astype(np.float32)
        decides = latents[:, :3]
        episode: dict[str, Any] = {"latents": latents}
        if told:
            decides = np.tile(rng.normal(size=3), (31, 1)).astype(np.float32)
            episode["goal"] = decides
        episodes.append({**episode, "actions": decides.argmax(axis=1)[:-1]})
    return write_latents(path, episodes, DISCRETE)


def test_choices_follow_latents_and_a_seed_gives_the_same_weights(tmp_path: Path) -> None:
    data = _choices(tmp_path / "data")
    policy, again = _policy(DISCRETE, horizon=1), _policy(DISCRETE, horizon=1)
    _train(policy, data, steps=400)
    latents = np.random.default_rng(1).normal(size=(200, SIZE)).astype(np.float32)
    assert (policy.predict(latents)[0] == latents[:, :3].argmax(axis=1)).mean() > 0.8
    assert policy.latents == "f" * 64
    for each in (again, other := _policy(DISCRETE, horizon=1)):
        _train(each, data, steps=5)
    assert all(one.equal(two) for one, two in zip(again.parameters(), other.parameters(), strict=True))


def test_goals_are_followed(tmp_path: Path) -> None:
    data = _choices(tmp_path / "data", told=True)
    policy = _policy(DISCRETE, 3, horizon=2)
    _train(policy, data, steps=400)
    rng = np.random.default_rng(1)
    seen = {"latent": rng.normal(size=(200, SIZE)).astype(np.float32), "goal": rng.normal(size=(200, 3)).astype("f4")}
    assert (policy.predict(seen)[0] == seen["goal"].argmax(axis=1)).mean() > 0.7
    # One goal of all episodes, where the dataset has none.
    plain = _choices(tmp_path / "plain")
    with pytest.raises(RecordingError, match="no 'goal'"):
        _train(policy, plain)
    _train(policy, plain, steps=2, goal=np.ones(3, np.float32))


def test_chunks_are_what_follows_a_frame(tmp_path: Path) -> None:
    episodes = [
        {"latents": np.full((length + 1, SIZE), length, np.float32), "actions": np.arange(length)}
        for length in (3, 7, 2500)
    ]
    data = write_latents(tmp_path / "data", episodes, gym.spaces.Discrete(2500))
    with LatentDataset(data) as dataset:
        chunks = Chunks(dataset, [0, 1, 2], [], horizon=5, stack=1)
        assert chunks.count == 2510
        (batch,) = chunks.batches(10_000)
    assert batch["actions"].shape == batch["valid"].shape == (2510, 5)
    starts = np.concatenate([np.arange(length) for length in (3, 7, 2500)])
    wanted = starts[:, None] + np.arange(5)
    lengths = batch["latents"][:, :1]
    assert (batch["valid"] == (wanted < lengths)).all()
    assert (batch["actions"] == np.minimum(wanted, lengths - 1)).all()


def test_a_masked_action_is_learned_inside_of_chunks(tmp_path: Path) -> None:
    episode = {
        "latents": np.ones((6, SIZE), np.float32),
        "actions": np.arange(5),
        "in_loss": np.array([True, False, True, True, False, True]),
    }
    with LatentDataset(write_latents(tmp_path / "data", [episode], gym.spaces.Discrete(5))) as dataset:
        (batch,) = Chunks(dataset, [0], [], horizon=3, stack=1).batches(10)
    assert batch["actions"].tolist() == [[0, 1, 2], [2, 3, 4], [3, 4, 4]]
    assert batch["valid"].tolist() == [[True, True, True], [True, True, True], [True, True, False]]


@pytest.mark.parametrize("where", ["held out", "later in a chunk"])
def test_every_action_is_checked_before_training(where: str, tmp_path: Path) -> None:
    episodes = [
        {
            "latents": np.ones((6, SIZE), np.float32),
            "actions": np.zeros(5, int),
            "in_loss": np.array([True, True, True, False, True, True]),
        }
        for _ in range(4)
    ]
    number = split_episodes_of(4)[1][0] if where == "held out" else split_episodes_of(4)[0][0]
    episodes[number]["actions"][4 if where == "held out" else 3] = 7
    data = write_latents(tmp_path / "data", episodes, DISCRETE)
    with pytest.raises(OptionError, match=r"has the action 7, which is outside the policy's Discrete\(3\)"):
        _train(_policy(DISCRETE, horizon=2), data)


def split_episodes_of(count: int) -> tuple[list[int], list[int]]:
    return split_episodes(range(count), DiffusionConfig().validation, DiffusionConfig().seed)  # type: ignore[arg-type]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    data = _choices(tmp_path / "data")
    with pytest.raises(OptionError, match="A chunk of 31 actions is longer than every episode"):
        _train(_policy(DISCRETE, horizon=31), data)
    with pytest.raises(OptionError, match=r"has the action 2, which is outside the policy's Discrete\(2\)"):
        _train(_policy(gym.spaces.Discrete(2)), data)
    with pytest.raises(OptionError, match="has actions of shape"):
        _train(_policy(BOX), data)
    with pytest.raises(OptionError, match="goal must be the policy's 3 numbers"):
        _train(_policy(DISCRETE, 3), data, goal=np.ones(2))
    with pytest.raises(OptionError, match=r"goals of 2 numbers, but in episode 0 of .* the label 'goal' has 3"):
        _train(_policy(DISCRETE, 2), _choices(tmp_path / "told", told=True))
    if not torch.cuda.is_available():
        with pytest.raises(OptionError, match="torch sees 0 CUDA devices"):
            _train(_policy(DISCRETE), data, device="cuda")
    silent = write_latents(tmp_path / "silent", [{"latents": np.ones((9, SIZE), np.float32)}])
    with pytest.raises(OptionError, match="no actions to learn"):
        _train(_policy(DISCRETE), silent)
    wide = write_latents(tmp_path / "wide", [{"latents": np.ones((9, 5), "f4"), "actions": np.ones(8, int)}], DISCRETE)
    with pytest.raises(OptionError, match="latents of 4 numbers"):
        _train(_policy(DISCRETE), wide)


def test_the_commands_train_and_play(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = tmp_path / "run", tmp_path / "policy"
    small = ("--n-envs", "2", "--n-steps", "32", "--batch-size", "32", "--eval-episodes", "2", "--video", "none")
    assert main(["train", ENV_ID, "--encoder", "random:mini", *small, "--steps", "64", "--run", str(run)]) == 0
    config = json.loads((run / "config.json").read_text())
    size, fingerprint = config["encoder"]["latent_size"], config["encoder"]["fingerprint"]
    space = gym.make(ENV_ID).action_space
    space.seed(0)
    rng = np.random.default_rng(0)
    episodes = [
        {
            "latents": rng.normal(size=(13, size)).astype(np.float32),
            "actions": np.stack([np.asarray(space.sample()) for _ in range(12)]),
        }
        for _ in range(3)
    ]
    data = write_latents(tmp_path / "data", episodes, space, fingerprint=fingerprint)
    quick = ("--steps", "4", "--batch-size", "8", "--width", "16", "--layers", "1", "--device", "cpu")
    assert main(["diffuse", str(data), "--out", str(out), *quick]) == 0
    assert "step 4" in capsys.readouterr().out
    policy = str(tmp_path / "policy.safetensors")
    with LatentDataset(data) as dataset:
        assert DiffusionPolicy.encoder_of(policy)["source"] == dataset.encoder["source"]
    play = ["eval", str(run), "--episodes", "2", "--video", "none", "--policy", policy]
    scores = []
    for _ in range(2):
        assert main(play) == 0
        scores.append([line for line in capsys.readouterr().out.splitlines() if "mean return" in line])
    assert scores[0]
    assert scores[0] == scores[1]
    with pytest.raises(SystemExit, match="2"):
        main([*play, "--clip", "x"])
    assert "clip is given, and is of use with goal alone" in capsys.readouterr().err

    # One that is told a goal, by a CLIP of its own.
    clip = ["--goal", "go left", "--clip", str(save_clip(tmp_path / "clip"))]
    assert main(["diffuse", str(data), "--out", str(tmp_path / "told"), *quick, *clip]) == 0
    told = [*play[:-1], str(tmp_path / "told.safetensors")]
    assert main([*told, *clip]) == 0
    assert main(told) == 1
    assert "give --goal where it was trained with one" in capsys.readouterr().err

    # Cloning is told it in the same way.
    cloned = ["clone", str(data), "--out", str(tmp_path / "clone.zip"), "--epochs", "1"]
    assert main([*cloned, *clip]) == 0
    model = PPO.load(tmp_path / "clone.zip", device="cpu")
    assert isinstance(model.observation_space, gym.spaces.Dict)
    assert set(model.observation_space) == {"goal", "latent"}
    for command in (cloned, ["diffuse", str(data), "--out", str(tmp_path / "told"), *quick]):
        assert main([*command, "--clip", "x"]) == 1
        assert "clip is given, and is of use with goal alone" in capsys.readouterr().err

    other = write_latents(tmp_path / "other", episodes, space)
    assert main(["diffuse", str(other), "--out", str(tmp_path / "other"), *quick]) == 0
    assert main([*play[:-1], str(tmp_path / "other.safetensors")]) == 1
    assert "is for other latents" in capsys.readouterr().err
