"""`clone`: policies learn what demonstrations show, and reinforcement learning goes on from them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from tests.heads.small import small_state
from tests.offline.material import require_offline, write_latents
from vpt_gym.errors import OptionError, RecordingError
from vpt_gym.heads import PretrainedHeadPolicy, ScaledLatents, VPTHeads
from vpt_gym.latents import latent_box
from vpt_gym.offline import keyboard
from vpt_gym.offline.plan import CloningConfig
from vpt_gym.offline.recordings import IN_LOSS

require_offline()

from vpt_gym.offline import LatentDataset, clone  # noqa: E402 - needs the extra
from vpt_gym.offline.batches import Frames, split_episodes  # noqa: E402
from vpt_gym.offline.cloning import measures  # noqa: E402
from vpt_gym.offline.curves import draw_cloning  # noqa: E402

SIZE = 6
QUICK = CloningConfig(epochs=25, batch_size=64, learning_rate=0.02, warm_up=10, validation=0.2, patience=25)


class Latents(gym.Env[Any, Any]):
    """An environment of latents, which only its spaces matter of."""

    def __init__(self, action_space: gym.Space[Any]) -> None:
        self.observation_space = latent_box(SIZE)
        self.action_space = action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.np_random.normal(size=SIZE).astype(np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.np_random.normal(size=SIZE).astype(np.float32), 0.0, False, False, {}


def _venv(space: gym.Space[Any], count: int = 1) -> Any:
    return DummyVecEnv([lambda: Latents(space)] * count)


def _episodes(act: Any, lengths: tuple[int, ...] = (50,) * 8, seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    made = []
    for length in lengths:
        latents = rng.normal(size=(length, SIZE)).astype(np.float32)
        made.append({"latents": latents, "actions": act(latents)[:-1]})
    return made


def _choice(latents: Any) -> Any:
    return latents[:, :3].argmax(axis=1)


def _turn(latents: Any) -> Any:
    return np.clip(latents[:, :2] * 0.4, -1, 1).astype(np.float32)


DISCRETE = gym.spaces.Discrete(3)
BOX = gym.spaces.Box(-1, 1, (2,), np.float32)


@pytest.mark.parametrize("algorithm", [PPO, A2C, DQN])
def test_choices_are_learned(algorithm: Any, tmp_path: Path) -> None:
    data = write_latents(tmp_path / "data", _episodes(_choice, (50,) * 16), DISCRETE)
    model = algorithm("MlpPolicy", _venv(DISCRETE), seed=0, device="cpu")
    result = clone(model, data, QUICK)
    assert result.best.measures["accuracy"] > 0.9
    assert result.epochs[0].loss > result.best.loss
    fresh = np.random.default_rng(9).normal(size=(200, SIZE)).astype(np.float32)
    actions, _ = model.predict(fresh, deterministic=True)
    assert (actions == _choice(fresh)).mean() > 0.9


@pytest.mark.parametrize("algorithm", [PPO, SAC, TD3])
def test_real_valued_actions_are_learned(algorithm: Any, tmp_path: Path) -> None:
    data = write_latents(tmp_path / "data", _episodes(_turn), BOX)
    options = {} if algorithm is PPO else {"buffer_size": 10}
    model = algorithm("MlpPolicy", _venv(BOX), seed=0, device="cpu", policy_kwargs={"net_arch": [32]}, **options)
    result = clone(model, data, QUICK)
    assert result.best.measures["error"] < 0.12
    fresh = np.random.default_rng(9).normal(size=(200, SIZE)).astype(np.float32)
    actions, _ = model.predict(fresh, deterministic=True)
    assert np.abs(actions - _turn(fresh)).mean() < 0.15


def test_ppo_goes_on_from_a_clone_that_was_saved(tmp_path: Path) -> None:
    data = write_latents(tmp_path / "data", _episodes(_choice), DISCRETE)
    model = PPO("MlpPolicy", _venv(DISCRETE), n_steps=16, batch_size=16, seed=0, device="cpu")
    clone(model, data, QUICK)
    model.save(tmp_path / "clone.zip")
    again = PPO.load(tmp_path / "clone.zip", env=_venv(DISCRETE), device="cpu")
    latents = np.random.default_rng(1).normal(size=(50, SIZE)).astype(np.float32)
    np.testing.assert_array_equal(
        again.predict(latents, deterministic=True)[0], model.predict(latents, deterministic=True)[0]
    )
    again.learn(32)


def test_vpts_own_heads_are_cloned(tmp_path: Path) -> None:
    """PretrainedHeadPolicy on VPT's actions, with keys and camera reported; null actions are left out."""
    space = keyboard.action_space()
    rng = np.random.default_rng(0)

    def act(latents: Any) -> Any:
        forward, attack = latents[:, 0] > 0, latents[:, 1] > 0
        camera = np.where(latents[:, 2:3] > 0, [[0.0, 10.0]], [[0.0, 0.0]])
        return keyboard.from_keys({"forward": forward, "attack": attack}, camera)

    episodes = _episodes(act, (60,) * 20)
    for episode in episodes:
        length = len(episode["latents"])
        episode[IN_LOSS] = rng.random(length) < 0.7
        # What the loss leaves out may be anything: were it learned from, the keys would be wrong.
        noise = rng.integers(0, 121, length - 1)
        episode["actions"] = np.where(episode[IN_LOSS][:-1, None], episode["actions"], noise[:, None])
    data = write_latents(tmp_path / "data", episodes, space)
    heads = VPTHeads.from_state_dict(small_state(SIZE, keyboard.BUTTONS, keyboard.CAMERAS, scale=0.1), 1.0)
    model = PPO(PretrainedHeadPolicy, _venv(space), policy_kwargs={"heads": heads}, device="cpu", seed=0)
    result = clone(model, data, CloningConfig(epochs=8, batch_size=64, learning_rate=0.1, validation=0.2))
    best = result.best.measures
    assert best["accuracy/forward"] > 0.9
    assert best["accuracy/attack"] > 0.9
    assert best["accuracy/inventory"] == 1.0
    assert best["camera_error"] < 1.0
    draw_cloning(result, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_measures_of_vpts_actions() -> None:
    keys = {"forward": np.array([1, 1, 0, 0]), "jump": np.array([0, 1, 0, 0])}
    targets = keyboard.from_keys(keys, np.array([[0.0, 0.0], [0.0, 10.0], [0.0, 0.0], [-10.0, 0.0]]))
    likely = keyboard.from_keys({"forward": keys["forward"]}, np.array([[0.0, 10.0], [0.0, 10.0], [0, 0], [0, 0]]))
    found = measures(keyboard.action_space(), likely, targets)
    assert found["accuracy/forward"] == (1.0, 4)
    assert found["accuracy/jump"] == (0.75, 4)
    assert found["accuracy"] == (0.25, 4)
    assert found["camera_error"] == (pytest.approx(10 / 4), 2), "over the turns of the demonstrator alone"


def test_a_teacher_holds_the_clone_back(tmp_path: Path) -> None:
    data = write_latents(tmp_path / "data", _episodes(_choice), DISCRETE)
    latents = torch.from_numpy(np.random.default_rng(2).normal(size=(100, SIZE)).astype(np.float32))
    distances = []
    for coefficient in (0.0, 50.0):
        model = PPO("MlpPolicy", _venv(DISCRETE), seed=0, device="cpu")
        teacher = PPO("MlpPolicy", _venv(DISCRETE), seed=0, device="cpu")
        config = CloningConfig(epochs=5, batch_size=64, learning_rate=0.01, kl_coef=coefficient)
        clone(model, data, config, teacher=teacher if coefficient else None)
        with torch.no_grad():
            ours, theirs = (each.policy.get_distribution(latents).distribution.probs for each in (model, teacher))
        distances.append(float((ours - theirs).abs().mean()))
    assert distances[1] < 0.2 * distances[0]


def test_a_policy_of_several_latents_is_cloned_on_stacks(tmp_path: Path) -> None:
    """What to do shows two frames before; one latent alone does not tell."""

    def act(latents: Any) -> Any:
        before = np.concatenate([np.zeros((2, SIZE)), latents[:-2]])
        return np.where(before[:, 0] > 0, 1, 0)

    data = write_latents(tmp_path / "data", _episodes(act), gym.spaces.Discrete(2))
    venv = _venv(gym.spaces.Discrete(2))
    alone = clone(PPO("MlpPolicy", venv, seed=0, device="cpu"), data, QUICK).best.measures["accuracy"]
    stacked = clone(PPO("MlpPolicy", VecFrameStack(venv, 3), seed=0, device="cpu"), data, QUICK).best.measures[
        "accuracy"
    ]
    assert alone < 0.7
    assert stacked > 0.9


def test_stacks_are_those_of_vec_frame_stack(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(9, SIZE)).astype(np.float32)
    data = write_latents(tmp_path / "data", [{"latents": latents, "actions": np.zeros(8, int)}], DISCRETE)

    class Played(Latents):
        def reset(self, **options: Any) -> Any:
            self.rest = iter(latents)
            return next(self.rest), {}

        def step(self, action: Any) -> Any:
            return next(self.rest), 0.0, False, False, {}

    venv = VecFrameStack(DummyVecEnv([lambda: Played(DISCRETE)]), 4)
    wanted = [venv.reset()[0]] + [venv.step([0])[0][0] for _ in range(7)]
    with LatentDataset(data) as dataset:
        frames = Frames(dataset, [0], ["actions"], acted=True, stack=4)
        np.testing.assert_array_equal(frames.read(0, 0, 8)["latents"], wanted)
        np.testing.assert_array_equal(frames.read(0, 5, 8)["latents"], wanted[5:])


def test_a_pass_gives_every_frame_once_whatever_the_pool(tmp_path: Path) -> None:
    lengths = (5, 1, 120, 33, 2)
    episodes = []
    for place, length in enumerate(lengths):
        names = 1000 * place + np.arange(length)
        episodes.append({"latents": names[:, None].astype(np.float32), "actions": names[:-1], "name": names})
    data = write_latents(tmp_path / "data", episodes, gym.spaces.Discrete(9999))
    wanted = sorted(name for episode in episodes for name in episode["actions"])
    with LatentDataset(data) as dataset:
        for pool in (1, 100, 1 << 20):
            frames = Frames(dataset, range(5), ["actions", "name"], acted=True, pool_bytes=pool)
            batches = list(frames.batches(16, np.random.default_rng(0)))
            assert {len(batch["latents"]) for batch in batches[:-1]} == {16}
            seen = np.concatenate([batch["actions"] for batch in batches])
            assert sorted(seen) == wanted
            for batch in batches:
                np.testing.assert_array_equal(batch["latents"][:, 0], batch["actions"])
                np.testing.assert_array_equal(batch["name"], batch["actions"])
            for batch in frames.batches(16, np.random.default_rng(0), reuse=True):
                time.sleep(0.02)  # the reader goes as far ahead as it may
                assert batch["latents"].dtype == np.float32
                np.testing.assert_array_equal(batch["latents"][:, 0], batch["actions"])
        mixed = Frames(dataset, range(5), ["name"], acted=True, pool_bytes=100)
        orders = [
            np.concatenate([each["name"] for each in mixed.batches(16, np.random.default_rng(0))]) for _ in range(2)
        ]
        np.testing.assert_array_equal(*orders)  # a seed gives an order
        assert (np.diff(orders[0]) == 1).mean() < 0.2  # and neighbours do not stay together
        (all_at_once,) = mixed.batches(
            10**12, np.random.default_rng(0), reuse=True
        )  # takes no room for what is not there
        assert sorted(all_at_once["name"]) == wanted
        whole = Frames(dataset, range(5), ["name"], acted=False)
        assert len(np.concatenate([batch["name"] for batch in whole.batches(7)])) == sum(lengths)
        train, held = split_episodes(dataset, 0.4, seed=0)
        assert sorted(train + held) == [0, 1, 2, 3, 4]
        assert len(held) == 2


def test_it_ends_early_and_keeps_the_best(tmp_path: Path) -> None:
    """Actions at random: the more it learns by heart, the worse on what is held out."""
    rng = np.random.default_rng(0)
    data = write_latents(tmp_path / "data", _episodes(lambda latents: rng.integers(0, 3, len(latents))), DISCRETE)
    model = PPO("MlpPolicy", _venv(DISCRETE), seed=0, device="cpu")
    config = CloningConfig(epochs=60, batch_size=32, learning_rate=0.01, patience=3, validation=0.25)
    result = clone(model, data, config)
    assert len(result.epochs) == result.best.number + 3
    with LatentDataset(data) as dataset:
        _, held = split_episodes(dataset, 0.25, config.seed)
        rows = next(Frames(dataset, held, ["actions"], acted=True).batches(10_000))
    with torch.no_grad():
        inner: Any = model.policy.get_distribution(torch.from_numpy(rows["latents"])).distribution
        loss = -inner.log_prob(torch.from_numpy(rows["actions"])).mean()
    assert float(loss) == pytest.approx(result.best.validation_loss, abs=1e-5)


def test_refused(tmp_path: Path) -> None:
    data = write_latents(tmp_path / "data", _episodes(_choice), DISCRETE)
    venv = _venv(DISCRETE)
    with pytest.raises(OptionError, match="a policy of Stable-Baselines3"):
        clone(object(), data)
    with pytest.raises(OptionError, match=r"actions of .* are in Discrete"):
        clone(PPO("MlpPolicy", _venv(gym.spaces.Discrete(2)), device="cpu"), data)
    with pytest.raises(OptionError, match="acts in Box"):
        clone(PPO("MlpPolicy", _venv(BOX), device="cpu"), data)
    with pytest.raises(OptionError, match="VecNormalize"):
        clone(PPO("MlpPolicy", VecNormalize(venv), device="cpu"), data)
    wide = write_latents(tmp_path / "wide", [{"latents": np.zeros((4, 7), np.float32), "actions": [0] * 3}], DISCRETE)
    with pytest.raises(OptionError, match="holds latents of 7 numbers"):
        clone(PPO("MlpPolicy", venv, device="cpu"), wide)
    bare = write_latents(tmp_path / "bare", [{"latents": np.zeros((4, SIZE), np.float32)}])
    with pytest.raises(OptionError, match="has no actions"):
        clone(PPO("MlpPolicy", venv, device="cpu"), bare)
    with pytest.raises(OptionError, match="go together"):
        clone(PPO("MlpPolicy", venv, device="cpu"), data, CloningConfig(kl_coef=0.1))
    with pytest.raises(RecordingError, match="no dataset of latents"):
        clone(PPO("MlpPolicy", venv, device="cpu"), tmp_path / "nothing")
    venv.encoder = type("Encoder", (), {"fingerprint": "a" * 64})()
    with pytest.raises(OptionError, match="for other latents"):
        clone(PPO("MlpPolicy", venv, device="cpu"), data)
    with pytest.raises(OptionError, match="patience must be a whole number"):
        CloningConfig(patience=0)


def test_statistics_of_scaled_latents_come_from_what_is_trained_on(tmp_path: Path) -> None:
    episodes = _episodes(_choice)
    for episode in episodes:
        episode["latents"] = episode["latents"] * 0.01 + 50
    data = write_latents(tmp_path / "data", episodes, DISCRETE)
    kwargs: dict[str, Any] = {"net_arch": [], "features_extractor_class": ScaledLatents}
    model = PPO("MlpPolicy", _venv(DISCRETE), policy_kwargs=kwargs, device="cpu", seed=0)
    result = clone(model, data, QUICK)
    assert result.best.measures["accuracy"] > 0.9
    extractor: Any = model.policy.features_extractor
    train, _ = split_episodes(LatentDataset(data), QUICK.validation, QUICK.seed)
    rows = np.concatenate([episodes[number]["latents"][:-1] for number in train]).astype(np.float64)
    np.testing.assert_allclose(extractor.mean.numpy(), rows.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(extractor.variance.numpy(), rows.var(axis=0), rtol=1e-2)


def _told(data: Path, goal_size: int = 3, seed: int = 0) -> PPO:
    """A model for the latents of a dataset and goals, that has no environment."""
    model = PPO(
        "MultiInputPolicy",
        env=None,  # type: ignore[arg-type]
        _init_setup_model=False,
        seed=seed,
        device="cpu",
        policy_kwargs={"features_extractor_class": ScaledLatents},
    )
    model.observation_space = gym.spaces.Dict({"latent": latent_box(SIZE), "goal": latent_box(goal_size)})
    model.action_space, model.n_envs = LatentDataset(data).action_space, 1
    model._setup_model()
    return model


def test_goals_are_followed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(24):
        goal = rng.normal(size=3).astype(np.float32)
        latents = rng.normal(size=(31, SIZE)).astype(np.float32)
        episodes.append({"latents": latents, "goal": np.tile(goal, (31, 1)), "actions": np.full(30, goal.argmax())})
    data = write_latents(tmp_path / "data", episodes, DISCRETE)
    model = _told(data)
    assert clone(model, data, QUICK).best.measures["accuracy"] > 0.6  # of five goals that it never saw
    seen = {
        "latent": rng.normal(size=(200, SIZE)).astype("f4"),
        "goal": 3 * np.eye(3, dtype="f4")[rng.integers(0, 3, 200)],
    }
    assert (model.predict(seen, deterministic=True)[0] == seen["goal"].argmax(axis=1)).mean() > 0.9
    # A teacher may be told the same goals, or none.
    close = CloningConfig(**{**vars(QUICK), "epochs": 1, "kl_coef": 1.0})
    clone(_told(data, seed=1), data, close, teacher=model)
    clone(_told(data, seed=1), data, close, teacher=PPO("MlpPolicy", _venv(DISCRETE), device="cpu"))

    # One goal of all episodes, where the dataset has none.
    plain = write_latents(tmp_path / "plain", _episodes(_choice), DISCRETE)
    goal = np.array([1, 0, 0], np.float32)
    assert clone(_told(plain), plain, QUICK, goal=[[1, 0, 0]]).best.measures["accuracy"] > 0.8
    with pytest.raises(OptionError, match="has no label 'goal': give one goal"):
        clone(_told(plain), plain, QUICK)
    with pytest.raises(OptionError, match=r"goals of 4 numbers, but those of goal= have 3"):
        clone(_told(plain, 4), plain, QUICK, goal=goal)
    with pytest.raises(OptionError, match=r"goals of 4 numbers, but those of .*data have 3"):
        clone(_told(data, 4), data, QUICK)
    with pytest.raises(OptionError, match="A goal is given, but the policy observes Box"):
        clone(PPO("MlpPolicy", _venv(DISCRETE), device="cpu"), plain, QUICK, goal=goal)


def _with(value: Any, *keys: str) -> Callable[[str], str]:
    """Metadata with another value, or none, at some keys."""

    def damage(text: str) -> str:
        whole: Any = json.loads(text)
        inner = whole
        for key in keys[:-1]:
            inner = inner[key]
        assert keys[-1] in inner
        inner[keys[-1]] = value
        if value is None:
            del inner[keys[-1]]
        return json.dumps(whole)

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda _: "[" * 100_000, id="nested"),
        pytest.param(lambda _: "[]", id="list"),
        pytest.param(lambda text: text[: len(text) // 2], id="half"),
        pytest.param(_with("x", "vpt_gym", "latent_size"), id="size"),
        pytest.param(_with(None, "vpt_gym", "encoder", "fingerprint"), id="fingerprint"),
        pytest.param(_with([], "vpt_gym", "encoder"), id="encoder"),
        pytest.param(_with("words", "vpt_gym", "dtype"), id="dtype"),
        pytest.param(_with(9, "total_episodes"), id="more"),
        pytest.param(_with(None, "total_episodes"), id="no count"),
        pytest.param(_with([1], "action_space"), id="space"),
        pytest.param(_with("[1]", "action_space"), id="words of a space"),
    ],
)
def test_a_damaged_dataset_is_a_sentence(damage: Callable[[str], str], tmp_path: Path) -> None:
    data = write_latents(tmp_path / "data", _episodes(_choice, (5, 7)), gym.spaces.Discrete(3))
    LatentDataset(data).close()
    file = data / "data" / "metadata.json"
    file.write_text(damage(file.read_text()))
    with pytest.raises(RecordingError, match=r"cannot be read|is no space"):
        LatentDataset(data)
