"""Fine-tune VPT in Minecraft: its own heads are the policy, and a KL loss keeps them near what VPT knew.

The reward is shaped: a log counts one, planks a little, so that the first trees are worth finding. Needs MineStudio with its
engine (docs/minecraft.md says how). The default weights are VPT's own; `--encoder random:tiny` is untrained, needs no download
and shows that everything runs.
"""

from __future__ import annotations

import argparse

import vpt_gym
from vpt_gym.heads import KLPPO, PretrainedHeadPolicy

LOGS = [f"{wood}_log" for wood in ("oak", "birch", "spruce", "jungle", "acacia", "dark_oak")]
PLANKS = [f"{wood.removesuffix('_log')}_planks" for wood in LOGS]
REWARDS = [
    {"event": "mine_block", "identity": "log", "objects": LOGS, "reward": 1.0, "max_reward_times": 64},
    {"event": "craft_item", "identity": "planks", "objects": PLANKS, "reward": 0.1, "max_reward_times": 64},
]


def main() -> None:
    parser = argparse.ArgumentParser(description="Fine-tune VPT's heads in Minecraft to gather wood.")
    parser.add_argument(
        "--encoder", default="CraftJarvis/MineStudio_VPT.rl_from_early_game_2x", help="source of weights"
    )
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--n-envs", type=int, default=4, help="games at once; each takes about 4 GB of memory")
    parser.add_argument("--episode", type=int, default=2_000, help="steps until an episode is truncated")
    parser.add_argument("--rollout", type=int, default=256, help="steps of each game between two updates")
    arguments = parser.parse_args()

    encoder = vpt_gym.load_encoder(arguments.encoder)
    env_kwargs = {
        "callbacks": [("RewardsCallback", {"reward_cfg": REWARDS})],
        "max_episode_steps": arguments.episode,
    }
    venv = vpt_gym.sb3.make_latent_vec_env(
        "vpt_gym/Minecraft-v0", arguments.n_envs, encoder=encoder, env_kwargs=env_kwargs, seed=0
    )
    model = KLPPO(
        PretrainedHeadPolicy,
        venv,
        policy_kwargs={"heads": encoder.heads, "adapters": 256},
        n_steps=arguments.rollout,
        learning_rate=2e-5,
        gamma=0.999,
        verbose=1,
        seed=0,
    )
    model.learn(arguments.steps)
    model.save("minecraft_finetuned.zip")
    print(f"{model.num_timesteps:,} steps; saved minecraft_finetuned.zip; playing it takes the same encoder")
    venv.close()


# Worker processes import this file again: without the guard each would start training too.
if __name__ == "__main__":
    main()
