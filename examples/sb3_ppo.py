"""PPO on VPT latents in a page, with an evaluation in the middle of training that shares the encoder.

One encoder serves the training and the evaluation environments; each has a memory of its own, so evaluating changes no
training latent. `vpt-gym train` does the same and more: it measures the random policy, films, keeps a run folder. Needs
ViZDoom.
"""

from __future__ import annotations

import argparse

from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.vec_env import VecNormalize

import vpt_gym


def main() -> None:
    parser = argparse.ArgumentParser(description="Train PPO on VPT latents in ViZDoom's basic scenario.")
    parser.add_argument(
        "--encoder", default="doom:mini", help="source of the weights (doom:mini comes with the package)"
    )
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--n-envs", type=int, default=8)
    parser.add_argument("--eval-episodes", type=int, default=10)
    arguments = parser.parse_args()

    encoder = vpt_gym.load_encoder(arguments.encoder)
    scene = {"encoder": encoder, "env_kwargs": {"frame_skip": 4}}
    venv = vpt_gym.sb3.make_latent_vec_env("VizdoomBasic-v1", n_envs=arguments.n_envs, seed=0, **scene)
    eval_venv = vpt_gym.sb3.make_latent_vec_env("VizdoomBasic-v1", n_envs=1, seed=1_000, **scene)

    # Most of a latent is the same in every frame of one environment: scaled, what differs is what the head sees. The
    # callback hands the training's statistics to the evaluation, whose rewards stay as they are.
    venv = VecNormalize(venv)
    eval_venv = VecNormalize(eval_venv, training=False, norm_reward=False)

    # The network has done the seeing: a linear head is enough to act on it, and a CPU is the place to train one.
    model = PPO(
        "MlpPolicy",
        venv,
        policy_kwargs={"net_arch": []},
        n_steps=64,
        n_epochs=4,
        learning_rate=1e-3,
        ent_coef=0.01,
        seed=0,
        device="cpu",
    )
    evaluation = EvalCallback(
        eval_venv,
        n_eval_episodes=arguments.eval_episodes,
        eval_freq=max(1, arguments.steps // 4 // arguments.n_envs),
        deterministic=False,
    )
    model.learn(arguments.steps, callback=evaluation)
    model.save("ppo_on_latents.zip")
    venv.save("vecnormalize.pkl")
    print(f"{model.num_timesteps:,} steps; best mean return of an evaluation {evaluation.best_mean_reward:+.1f}")
    print("saved ppo_on_latents.zip and vecnormalize.pkl; playing it again takes both, and the same encoder")
    venv.close()
    eval_venv.close()


# Worker processes import this file again: without the guard each would start training too.
if __name__ == "__main__":
    main()
