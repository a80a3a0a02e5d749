"""What does a latent know? A linear probe reads the ammunition left out of the latents of each layer.

`layer="all"` records every layer side by side in one pass; ridge regression then tries each of them alone. `cnn` comes
before the memory and sees one frame, in which no ammunition counter is drawn; the layers behind it see up to 128. Two
guesses without any latent stand beside them: the mean, and a line through the step number, since under a random policy
the ammunition mostly falls with time. Episodes used for the score were neither fitted on nor chosen by. Needs ViZDoom.
"""

from __future__ import annotations

import argparse

import gymnasium as gym
import numpy as np
import vizdoom.gymnasium_wrapper  # noqa: F401 - registers the environments
from tqdm import tqdm

import vpt_gym

RIDGE = (1.0, 10.0, 100.0, 1_000.0, 10_000.0)


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit linear probes to the layers of a VPT network.")
    parser.add_argument(
        "--encoder", default="doom:mini", help="source of the weights (doom:mini comes with the package)"
    )
    parser.add_argument("--episodes", type=int, default=32, help="4 or more; a quarter chooses, a quarter scores")
    arguments = parser.parse_args()
    if arguments.episodes < 4:
        parser.error("--episodes must be 4 or more")

    encoder = vpt_gym.load_encoder(arguments.encoder, layer="all")
    latents, ammunition, steps, episode = record(encoder, arguments.episodes)
    choosing, scoring = arguments.episodes // 2, arguments.episodes * 3 // 4
    parts = (episode < choosing, (episode >= choosing) & (episode < scoring), episode >= scoring)
    layers = ("cnn", *(f"block{i}" for i in range(encoder.config.blocks)), "final")

    print(
        f"{len(latents):,} frames of {arguments.episodes} episodes; mean error in rounds on {parts[2].sum():,} unseen ones:"
    )
    guess = ammunition[parts[0]].mean()
    print(f"  {'the mean':<10} {np.abs(ammunition[parts[2]] - guess).mean():5.2f}")
    print(f"  {'the time':<10} {probe(steps[:, None], ammunition, parts):5.2f}")
    for name, layer in zip(layers, np.split(latents, len(layers), axis=1), strict=True):
        print(f"  {name:<10} {probe(layer, ammunition, parts):5.2f}")


def record(encoder: vpt_gym.VPTEncoder, episodes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Latents [F, D] of every frame but the last of each episode; ammunition, step and episode number [F] of each."""
    env = vpt_gym.VPTLatentObservation(gym.make("VizdoomBasic-v1", frame_skip=4), encoder, keep=["gamevariables"])
    env.action_space.seed(0)
    latents, labels = [], []
    for number in tqdm(range(episodes), unit="episode"):
        observation, _ = env.reset(seed=0 if number == 0 else None)
        step, over = 0, False
        while not over:  # ViZDoom's last observation is all zeros and no frame of the game, so it is left out
            latents.append(observation["latent"])
            labels.append((observation["gamevariables"][0], step, number))
            observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
            step, over = step + 1, terminated or truncated
    env.close()
    ammunition, steps, numbers = np.array(labels, dtype=np.float64).T
    return np.stack(latents), ammunition, steps, numbers


def probe(inputs: np.ndarray, target: np.ndarray, parts: tuple[np.ndarray, np.ndarray, np.ndarray]) -> float:
    """Mean absolute error on the third part, of ridge regressions fitted on the first and chosen by the second."""
    fitting, choosing, scoring = parts
    mean, spread = inputs[fitting].mean(axis=0), inputs[fitting].std(axis=0) + 1e-3
    x = (inputs - mean).astype(np.float64) / spread
    middle = target[fitting].mean()
    gram, moments = x[fitting].T @ x[fitting], x[fitting].T @ (target[fitting] - middle)
    errors = []
    for ridge in RIDGE:
        weights = np.linalg.solve(gram + ridge * np.eye(len(gram)), moments)
        error = np.abs(x @ weights + middle - target)
        errors.append((error[choosing].mean(), error[scoring].mean()))
    return float(min(errors)[1])


if __name__ == "__main__":
    main()
