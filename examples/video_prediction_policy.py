"""Video Prediction Policy, from frames and words to play: a video diffusion model, VideoFormer, and actions by diffusion.

python examples/video_prediction_policy.py --model FOLDER --clip openai/clip-vit-base-patch32@refs/pr/15
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from gymnasium import Env
from gymnasium.spaces import Box, Dict

import vpt_gym
from vpt_gym.encoders.text import embed_goal
from vpt_gym.heads import DiffusionPolicy
from vpt_gym.latents import latent_box
from vpt_gym.offline import encode, train_diffusion
from vpt_gym.offline.plan import DiffusionConfig


class Target(Env):
    """A bright square; the action is how far to move it, and it shall come to the middle."""

    observation_space, action_space = Box(0, 255, (32, 32, 3), np.uint8), Box(-4, 4, (1,), np.float32)

    def reset(self, *, seed=None, options=None):  # noqa: ARG002 - as Gymnasium has it
        super().reset(seed=seed)
        self.place, self.age = float(self.np_random.uniform(0, 28)), 0
        return self.render(), {}

    def step(self, action):
        self.place, self.age = float(np.clip(self.place + action[0], 0, 28)), self.age + 1
        return self.render(), -abs(self.place - 14) / 14, False, self.age == 12, {}

    def render(self):
        frame = np.zeros((32, 32, 3), np.uint8)
        frame[12:20, round(self.place) : round(self.place) + 4] = 255
        return frame


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a folder or hub repository with a video diffusion pipeline")
    parser.add_argument("--clip", required=True, help="a folder or hub repository with CLIP")
    for name, default in {"frames": 16, "episodes": 20, "steps": 2000, "width": 384}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    asked, words = parser.parse_args(), "bring the square to the middle"

    source = f"video:{asked.model}?frames={asked.frames}&pool=grid:2"
    encoder, goal = vpt_gym.load_encoder(source, text=words, clip=asked.clip), embed_goal(words, asked.clip)
    with tempfile.TemporaryDirectory() as place:
        env, demonstrations = Target(), Path(place, "demonstrations")
        demonstrations.mkdir()
        for number in range(asked.episodes):
            frames, actions, over = [env.reset(seed=number)[0]], [], False
            while not over:
                actions.append(np.clip([14 - env.place], -4, 4).astype(np.float32))
                frame, _, _, over, _ = env.step(actions[-1])
                frames.append(frame)
            np.savez(demonstrations / f"{number:03}.npz", frames=np.stack(frames), actions=np.stack(actions))
        encode(demonstrations, Path(place, "latents"), encoder)
        torch.manual_seed(0)
        space = Dict({"latent": latent_box(encoder.latent_size), "goal": latent_box(len(goal))})
        policy = DiffusionPolicy(space, env.action_space, horizon=4, grid=encoder.grid, width=asked.width)
        train_diffusion(policy, Path(place, "latents"), DiffusionConfig(steps=asked.steps, batch_size=64), goal=goal)

    played, state, total, over = vpt_gym.VPTLatentObservation(Target(), encoder), None, 0.0, False
    latent, _ = played.reset(seed=1000)
    while not over:
        action, state = policy.predict({"latent": latent, "goal": goal}, state)
        latent, reward, _, over, _ = played.step(action)
        total += reward
    print(f"Played one episode of {encoder.grid} grids: return {total:.2f}")


if __name__ == "__main__":
    main()
