"""Fine-tune VPT in Minecraft: its own heads are the policy, and a KL loss keeps them near what VPT knew.

The reward is shaped: a log counts one, planks a little, so that the first trees are worth finding. Needs MineStudio with its
engine (docs/minecraft.md). The default weights are VPT's own; `--encoder random:mini` is untrained and needs no download.
"""

import argparse

from stable_baselines3.common.callbacks import CheckpointCallback

import vpt_gym
from vpt_gym.heads import KLPPO, PretrainedHeadPolicy

WOODS = ["oak", "birch", "spruce", "jungle", "acacia", "dark_oak"]
REWARDS = [
    {"event": event, "identity": what, "objects": [f"{wood}_{what}" for wood in WOODS], "reward": reward}
    | {"max_reward_times": 64}
    for event, what, reward in (("mine_block", "log", 1.0), ("craft_item", "planks", 0.1))
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Fine-tune VPT's heads to gather wood.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--encoder", default="CraftJarvis/MineStudio_VPT.rl_from_early_game_2x", help="weights")
    parser.add_argument("--steps", type=int, default=1_000_000, help="steps of all games together")
    parser.add_argument("--n-envs", type=int, default=4, help="games at once")
    parser.add_argument("--episode", type=int, default=2_000, help="steps until an episode is truncated")
    parser.add_argument("--rollout", type=int, default=256, help="steps of each game between two updates")
    arguments = parser.parse_args()

    encoder = vpt_gym.load_encoder(arguments.encoder)
    rewarded = {"callbacks": [("RewardsCallback", {"reward_cfg": REWARDS})], "max_episode_steps": arguments.episode}
    venv = vpt_gym.sb3.make_latent_vec_env(
        "vpt_gym/Minecraft-v0", arguments.n_envs, encoder=encoder, env_kwargs=rewarded, seed=0
    )
    policy = {"heads": encoder.heads, "adapters": 256}
    model = KLPPO(
        PretrainedHeadPolicy,
        venv,
        n_steps=arguments.rollout,
        learning_rate=2e-5,
        policy_kwargs=policy,
        verbose=1,
        seed=0,
    )
    try:
        model.learn(arguments.steps, callback=CheckpointCallback(25_000, "checkpoints"))  # of each game's steps
    finally:  # a game that crashes, or Ctrl-C: what was learnt is kept, and the games end
        model.save("minecraft_finetuned.zip")
        print(f"{model.num_timesteps:,} steps; saved minecraft_finetuned.zip; playing it takes the same encoder")
        venv.close()


# Worker processes import this file again: without the guard each would start training too.
if __name__ == "__main__":
    main()
