"""Demonstrations, a clone of them, and PPO from the clone beside PPO from nothing: scores and a picture of both.

An agent is trained by PPO and then plays; what it saw and did is kept as films of frames (.npz) and encoded into a dataset of
latents, as anybody's recordings would be. A linear policy is cloned from that, and PPO goes on from it with several seeds,
beside as many that begin with nothing. Needs ViZDoom, and `pip install 'vpt-gym[offline]'`.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import matplotlib
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

import vpt_gym
from vpt_gym.heads import ScaledLatents
from vpt_gym.offline.plan import CloningConfig, EncodingConfig

SCENE = {"env_id": "VizdoomBasic-v1", "env_kwargs": {"frame_skip": 4}}
HEAD = {"net_arch": []}
SCALED = {**HEAD, "features_extractor_class": ScaledLatents}
LEARNING = {"n_steps": 64, "n_epochs": 4, "learning_rate": 1e-3, "ent_coef": 0.01, "device": "cpu"}


class Recorder(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps every episode as an .npz of frames, actions and rewards: what `vpt-gym encode` reads."""

    def __init__(self, env: gym.Env[Any, Any], folder: Path) -> None:
        super().__init__(env)
        self.folder = folder
        self.kept = 0
        folder.mkdir(parents=True, exist_ok=True)

    def reset(self, **options: Any) -> Any:
        observation, info = self.env.reset(**options)
        self.frames, self.steps = [observation["screen"]], []
        return observation, info

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.frames.append(observation["screen"])
        self.steps.append((int(action), float(reward), terminated, truncated))
        if terminated or truncated:
            actions, rewards, terminations, truncations = (np.array(each) for each in zip(*self.steps, strict=True))
            np.savez(
                self.folder / f"{self.kept:04}.npz",
                frames=np.stack(self.frames),
                actions=actions,
                rewards=rewards,
                terminations=terminations,
                truncations=truncations,
            )
            self.kept += 1
        return observation, reward, terminated, truncated, info


def main() -> None:  # noqa: PLR0915 - a story told from its start to its end
    parser = argparse.ArgumentParser(description="Clone a trained agent in ViZDoom, and go on from the clone with PPO.")
    parser.add_argument(
        "--encoder", default="doom:mini", help="source of the weights (doom:mini comes with the package)"
    )
    parser.add_argument("--expert-steps", type=int, default=48_000, help="of the demonstrator's training")
    parser.add_argument("--demonstrations", type=int, default=60, help="episodes")
    parser.add_argument("--epochs", type=int, default=60, help="of cloning, at most")
    parser.add_argument("--steps", type=int, default=12_000, help="of PPO, from the clone and from nothing")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--eval-episodes", type=int, default=30)
    parser.add_argument("--n-envs", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("clone_then_ppo"))
    arguments = parser.parse_args()
    arguments.out.mkdir(exist_ok=True)

    encoder = vpt_gym.load_encoder(arguments.encoder)
    venv = vpt_gym.sb3.make_latent_vec_env(**SCENE, n_envs=arguments.n_envs, encoder=encoder, seed=0)
    eval_venv = vpt_gym.sb3.make_latent_vec_env(**SCENE, n_envs=1, encoder=encoder, seed=10_000)

    def score(model: Any, scaling: VecNormalize | None = None) -> float:
        played: Any = eval_venv
        if scaling is not None:
            played = VecNormalize(eval_venv, training=False, norm_reward=False)
            played.obs_rms = scaling.obs_rms
        return float(evaluate_policy(model, played, arguments.eval_episodes, deterministic=True)[0])

    print(f"1. A demonstrator: PPO for {arguments.expert_steps:,} steps")
    scaling = VecNormalize(venv)
    expert = PPO("MlpPolicy", scaling, seed=0, policy_kwargs=HEAD, **LEARNING)
    expert.learn(arguments.expert_steps)
    expert_score = score(expert, scaling)
    print(f"   {expert_score:+.1f} mean return")

    print(f"2. {arguments.demonstrations} episodes of it, encoded")
    demonstrate(expert, scaling, encoder, arguments.demonstrations, arguments.out / "recordings")
    dataset = arguments.out / "latents"
    result = vpt_gym.offline.encode(arguments.out / "recordings", dataset, encoder, EncodingConfig(dtype="float16"))
    print(f"   {result.frames:,} frames at {result.frames / result.seconds:.0f} a second")

    print("3. A clone")
    clone = PPO("MlpPolicy", venv, seed=0, policy_kwargs=SCALED, **LEARNING)
    config = CloningConfig(epochs=arguments.epochs, batch_size=128)
    cloned = vpt_gym.offline.clone(clone, dataset, config)
    clone.save(arguments.out / "clone.zip")
    print(f"   {cloned.best.measures['accuracy']:.0%} of held-out actions; {score(clone):+.1f} mean return")

    print(f"4. PPO for {arguments.steps:,} steps, from the clone and from nothing, {arguments.seeds} seeds each")
    curves: dict[str, list[list[float]]] = {"from the clone": [], "from nothing": []}
    marks = np.linspace(0, arguments.steps, 5).astype(int)
    for seed in range(arguments.seeds):
        rewards = VecNormalize(venv, norm_obs=False)
        taken_up = PPO.load(arguments.out / "clone.zip", env=rewards, seed=seed, device="cpu")
        # Nobody has shown it what states are worth: until it has learned that, what it knows is held still.
        taken_up.policy.action_net.requires_grad_(False)
        curves["from the clone"].append(grow(taken_up, marks, score))
        scaling = VecNormalize(venv)
        fresh = PPO("MlpPolicy", scaling, seed=seed, policy_kwargs=HEAD, **LEARNING)
        curves["from nothing"].append(grow(fresh, marks, lambda model, scaling=scaling: score(model, scaling)))
    for name, runs in curves.items():
        print(f"   {name:<15} " + "  ".join(f"{mean:+.1f}" for mean in np.mean(runs, axis=0)))
    draw(arguments.out / "clone_then_ppo.png", marks, curves, expert_score)
    venv.close()
    eval_venv.close()
    print(f"The picture is {arguments.out / 'clone_then_ppo.png'}.")


def demonstrate(expert: Any, scaling: VecNormalize, encoder: Any, episodes: int, folder: Path) -> None:
    """Lets the expert play, and keeps what it saw and did."""
    env = vpt_gym.VPTLatentObservation(Recorder(gym.make("VizdoomBasic-v1", frame_skip=4), folder), encoder)
    for episode in range(episodes):
        latent, _ = env.reset(seed=20_000 + episode)
        over = False
        while not over:
            action, _ = expert.predict(scaling.normalize_obs(latent), deterministic=True)
            latent, _, terminated, truncated, _ = env.step(action)
            over = terminated or truncated
    env.close()


def grow(model: Any, marks: Any, score: Any) -> list[float]:
    """Scores at each mark of a training."""
    scores = [score(model)]
    for start, stop in pairwise(marks):
        model.learn(int(stop - start), reset_num_timesteps=False)
        model.policy.action_net.requires_grad_(True)
        scores.append(score(model))
    return scores


def draw(path: Path, marks: Any, curves: dict[str, list[list[float]]], expert_score: float) -> None:
    """Every run as a thin line, and the mean of each kind."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    for name, runs in curves.items():
        line = axis.plot(marks, np.mean(runs, axis=0), label=name)[0]
        for run in runs:
            axis.plot(marks, run, color=line.get_color(), linewidth=0.6, alpha=0.6)
    axis.axhline(expert_score, color="0.5", linestyle="--", label="the demonstrator")
    axis.set_xlabel("environment steps of PPO")
    axis.set_ylabel("mean return")
    axis.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


# Worker processes import this file again: without the guard each would start training too.
if __name__ == "__main__":
    main()
