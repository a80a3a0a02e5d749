"""Actions by diffusion beside cloning with a Gaussian head, from the same demonstrations on latents.

    python benchmarks/diffusion.py two-way
    PYTHONPATH=benchmarks vpt-gym train study_envs:vpt_gym_study/Racing-v0 --encoder random:mini --layer cnn \\
      --precision bfloat16 --net-arch 64,64 --learning-rate 3e-4 --steps 200000 --run runs/car
    PYTHONPATH=benchmarks python benchmarks/diffusion.py demonstrator --run runs/car --steps 30000

`two-way` passes an obstacle left or right, at random in the data; what counts is how many passes are through. `demonstrator`
plays a run, and compares returns; a folder that was played into before, by --out, is not played into again.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import shared
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

from vpt_gym.encoders import load_encoder
from vpt_gym.heads import DiffusionPolicy, ScaledLatents
from vpt_gym.latents import latent_box
from vpt_gym.offline import clone, train_diffusion
from vpt_gym.offline.plan import CloningConfig, DiffusionConfig
from vpt_gym.offline.recordings import ACTED
from vpt_gym.offline.writing import PieceWriter, assemble
from vpt_gym.running.files import read_json, write_json
from vpt_gym.training.algorithms import load_model, load_statistics
from vpt_gym.training.config import TrainingConfig
from vpt_gym.training.environments import latent_envs
from vpt_gym.training.folder import RunFolder


class Obstacle(gym.Env[Any, Any]):
    """Twelve steps forward; at the eighth one must be 1 off the middle, on either side. The latent is where one is."""

    observation_space, action_space = latent_box(3), gym.spaces.Box(-0.5, 0.5, (1,), np.float32)

    def _seen(self) -> Any:
        return np.float32([self.age / 12, self.place, 1.0])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:  # noqa: ARG002
        super().reset(seed=seed)
        self.age, self.place = 0, float(self.np_random.normal() * 0.05)
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self.age, self.place = self.age + 1, self.place + float(action[0])
        hit = self.age == 8 and abs(self.place) < 1
        return self._seen(), float(self.age == 12), hit or self.age == 12, False, {}


def write(path: Path, episodes: list[tuple[Any, Any]], space: gym.Space[Any], encoder: dict[str, Any]) -> None:
    """Latents [T + 1, D] and actions [T, ...] of episodes as a dataset."""
    pieces = []
    for number, (latents, actions) in enumerate(episodes):
        count = len(latents)
        made: Any = SimpleNamespace(name=f"episode {number}", path=path, part=number)
        columns = {"actions": np.concatenate([actions, actions[-1:]]), "rewards": np.zeros(count)}
        columns |= {ACTED: np.arange(count) < count - 1}
        columns |= {key: np.zeros(count, bool) for key in ("terminations", "truncations")}
        pieces.append(path.with_name(f"{path.name}-{number}.hdf5"))
        writer = PieceWriter(pieces[-1], made, f"{number:064x}", number, dtype="float32", compression="none")
        writer.append(latents, np.arange(count) == 0, columns)
        writer.finish()
    size = latents.shape[1]
    facts = {"format": 1, "encoder": encoder, "layers": ["final"], "latent_size": size}
    facts |= {"dtype": "float32", "compression": "none"}
    assemble(path, pieces, facts=facts, action_space=space, latent_size=size)


def two_ways(count: int = 200) -> list[tuple[Any, Any]]:
    """A demonstrator that goes 0.2 a step to a side of its own choice."""
    rng, episodes, env = np.random.default_rng(0), [], Obstacle()
    for number in range(count):
        side = 1 if rng.random() < 0.5 else -1
        latents, actions, over = [env.reset(seed=number)[0]], [], False
        while not over:
            actions.append(np.float32([side * (0.2 if env.age < 8 else 0.0) + 0.01 * rng.normal()]))
            latent, _, over, _, _ = env.step(actions[-1])
            latents.append(latent)
        episodes.append((np.stack(latents), np.stack(actions)))
    return episodes


def demonstrated(model: Any, venv: Any, steps: int) -> tuple[list[tuple[Any, Any]], list[float]]:
    """Episodes of a run's model, as latents that are not scaled, and their returns."""
    raw = venv.get_original_obs if hasattr(venv, "get_original_obs") else None
    episodes, returns = [], []
    observation = venv.reset()
    taken = 0
    while taken < steps:
        latents, actions, total, over = [(raw() if raw else observation)[0]], [], 0.0, False
        while not over:
            action, _ = model.predict(observation, deterministic=True)
            observation, rewards, dones, infos = venv.step(action)
            over, total = bool(dones[0]), total + float((venv.get_original_reward() if raw else rewards)[0])
            seen = raw() if raw else observation
            actions.append(action[0])
            latents.append(infos[0]["terminal_observation"] if over and not raw else seen[0])
        episodes.append((np.stack(latents), np.stack(actions)))
        returns.append(total)
        taken += len(actions)
        print(f"  demonstrated {taken} steps, mean return {np.mean(returns):.2f}", flush=True)
    return episodes, returns


def compare(data: Path, venv: Any, space: gym.Space[Any], asked: Any, size: int, found: dict[str, Any]) -> None:
    """Both ways, trained on the same data with each seed, and played."""
    for seed in range(asked.seeds):
        torch.manual_seed(seed)
        kwargs = {"net_arch": [256, 256], "features_extractor_class": ScaledLatents}
        gaussian = PPO(
            "MlpPolicy", DummyVecEnv([lambda: _Spaces(size, space)]), seed=seed, policy_kwargs=kwargs, device="cpu"
        )
        clone(gaussian, data, CloningConfig(seed=seed))
        policy = DiffusionPolicy(latent_box(size), space, horizon=asked.horizon, replan=asked.replan, width=asked.width)
        train_diffusion(policy, data, DiffusionConfig(steps=asked.gradient_steps, seed=seed))
        for name, model in (("gaussian", gaussian), ("diffusion", policy)):
            venv.seed(1000 + seed)
            mean, _ = evaluate_policy(model, venv, asked.episodes, deterministic=name == "gaussian", warn=False)
            found.setdefault(name, []).append(float(mean))
            print(f"  seed {seed} {name:<10} {mean:.3f}", flush=True)


class _Spaces(gym.Env[Any, Any]):
    def __init__(self, size: int, space: gym.Space[Any]) -> None:
        self.observation_space, self.action_space = latent_box(size), space


def main() -> None:
    parser = shared.parser("diffusion", __doc__)
    parser.add_argument("what", choices=["two-way", "demonstrator"])
    parser.add_argument("--run", type=Path, help="a run folder of vpt-gym train, the demonstrator")
    parser.add_argument("--steps", type=int, default=30_000, help="of demonstrations (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=20, help="of every evaluation (default: %(default)s)")
    parser.add_argument("--gradient-steps", type=int, default=5000)
    parser.add_argument("--horizon", type=int, default=8, help="actions of a chunk (default: %(default)s)")
    parser.add_argument("--replan", type=int, help="of which so many are played (default: half of them)")
    parser.add_argument("--width", type=int, default=128)
    asked = parser.parse_args()
    if asked.what == "demonstrator" and asked.run is None:
        parser.error("demonstrator needs --run")
    out = shared.folder("diffusion", asked.out)
    found: dict[str, Any] = {}
    if asked.what == "two-way":
        with tempfile.TemporaryDirectory() as place:
            data = Path(place, "latents")
            made = {"source": "none:", "fingerprint": "0" * 64, "kind": "none", "options": {}}
            write(data, two_ways(), Obstacle.action_space, made)
            compare(data, DummyVecEnv([Obstacle]), Obstacle.action_space, asked, 3, found)
    else:
        folder = RunFolder.open(asked.run)
        training = TrainingConfig.from_dict(folder.read_config()["training"])
        with (
            closing(load_encoder(training.encoder, **training.encoder_options)) as encoder,
            closing(latent_envs(training, encoder, 1)) as plain,
        ):
            data, played = out / "latents", out / "demonstrated.json"
            if not played.exists():
                plain.seed(0)
                venv = load_statistics(training, folder, plain, trust=False)
                episodes, returns = demonstrated(load_model(training, folder.model, venv, encoder), venv, asked.steps)
                write(data, episodes, plain.action_space, encoder.describe())
                write_json(played, {"returns": returns})
            found["demonstrator"] = read_json(played, "delete it, and the run is played again")["returns"]
            compare(data, plain, plain.action_space, asked, encoder.latent_size, found)
    print(json.dumps({name: round(float(np.mean(values)), 3) for name, values in found.items()}))
    write_json(out / "diffusion.json", {**shared.facts(torch.device("cpu"), asked), "found": found})


if __name__ == "__main__":
    main()
