"""One Gymnasium environment whose observation is a VPT latent: wrap it, and step it as ever.

The network is `doom:mini`, VPT's architecture at a small size, trained in ViZDoom and part of the package; pass another
source, such as CraftJarvis/MineStudio_VPT.rl_from_early_game_2x, as the first argument. Needs ViZDoom.
"""

from __future__ import annotations

import argparse

import gymnasium as gym
import vizdoom.gymnasium_wrapper  # noqa: F401 - registers the environments

import vpt_gym


def main() -> None:
    parser = argparse.ArgumentParser(description="Play episodes at random and look at the latents.")
    parser.add_argument("encoder", nargs="?", default="doom:mini", help="source of the weights")
    parser.add_argument("--episodes", type=int, default=3)
    arguments = parser.parse_args()

    encoder = vpt_gym.load_encoder(arguments.encoder)
    env = gym.make("VizdoomBasic-v1", frame_skip=4)
    print("before:", env.observation_space)
    env = vpt_gym.VPTLatentObservation(env, encoder, keep=["gamevariables"])
    print("after: ", env.observation_space)

    env.action_space.seed(0)
    for episode in range(arguments.episodes):
        # Only the first reset is seeded; the episodes after it follow from that seed. A reset opens an episode, and the
        # network's memory of the one before is gone.
        observation, _ = env.reset(seed=0 if episode == 0 else None)
        opening = observation["latent"]
        total, steps, over = 0.0, 0, False
        while not over:
            ammunition = observation["gamevariables"][0]  # before the step: ViZDoom's last observation is all zeros
            observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            total, steps, over = total + float(reward), steps + 1, terminated or truncated
        last = observation["latent"]
        distance = float(((last - opening) ** 2).mean() ** 0.5)
        print(
            f"episode {episode}: return {total:+.0f} in {steps} steps, ammunition left {ammunition:.0f}, "
            f"latent {last.dtype} {last.shape}, {distance:.2f} (rms) away from the opening one"
        )
    env.close()


if __name__ == "__main__":
    main()
