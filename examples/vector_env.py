"""Several environments at once: one call of the network for all, and the true last latent of every episode.

In SAME_STEP mode Gymnasium resets an environment in the very step that ends its episode. The observation is then the next
episode's opening latent, and `infos["final_obs"]` holds the last latent of the ended one. Needs ViZDoom.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

import vpt_gym


def main() -> None:
    parser = argparse.ArgumentParser(description="Step environments in parallel with random actions.")
    parser.add_argument(
        "--encoder", default="doom:mini", help="source of the weights (doom:mini comes with the package)"
    )
    parser.add_argument("--num-envs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()

    encoder = vpt_gym.load_encoder(arguments.encoder)
    # ViZDoom's engine looks whether this folder exists and then makes it; of several that do so at once one may crash.
    Path("_vizdoom").mkdir(exist_ok=True)
    envs = gym.make_vec(
        # The module before the colon is imported where the environment is made: in each worker.
        "vizdoom.gymnasium_wrapper:VizdoomBasic-v1",
        num_envs=arguments.num_envs,
        vectorization_mode="async",
        vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
        frame_skip=4,
    )
    envs = vpt_gym.vector.VPTLatentObservation(envs, encoder)
    envs.action_space.seed(0)

    latents, _ = envs.reset(seed=0)
    print(f"{arguments.num_envs} environments, observations {latents.dtype} {latents.shape}")
    returns, running = [], np.zeros(arguments.num_envs)
    for _ in range(arguments.steps):
        latents, rewards, terminations, truncations, infos = envs.step(envs.action_space.sample())
        running += rewards
        for row in np.flatnonzero(terminations | truncations):
            last = infos["final_obs"][row]
            returns.append(running[row])
            running[row] = 0.0
            if len(returns) == 1:
                distance = float(np.sqrt(((last - latents[row]) ** 2).mean()))
                print(
                    f"first episode to end: row {row}; its last latent is {distance:.2f} (rms) from the next opening one"
                )
    if returns:
        print(f"{len(returns)} episodes ended, mean return {np.mean(returns):+.1f} with random actions")
    envs.close()


if __name__ == "__main__":
    main()
