"""A video file to latents, once and for ever: an .npz with one float32 vector a frame.

Frames go through a stream one by one, so a film of any length takes the same memory. Without a file the example makes a
short clip of ViZDoom first and encodes that (needs ViZDoom); a file of your own needs no environment.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import cv2
import gymnasium as gym
import numpy as np
from tqdm import tqdm

import vpt_gym


def main() -> None:
    parser = argparse.ArgumentParser(description="Encode a video file to VPT latents.")
    parser.add_argument("video", nargs="?", type=Path, help="any file that OpenCV reads (default: make a clip)")
    parser.add_argument(
        "--encoder", default="doom:mini", help="source of the weights (doom:mini comes with the package)"
    )
    parser.add_argument("--layer", default="final", help="cnn, block0 to block3, final or all")
    parser.add_argument("--out", type=Path, help="the .npz file (default: beside the video)")
    arguments = parser.parse_args()

    video = arguments.video or make_clip(Path("vizdoom_clip.mp4"), frames=90)
    capture = cv2.VideoCapture(str(video)) if video.is_file() else None
    if capture is None or not capture.isOpened():
        parser.error(f"{video} is not there or is no video that OpenCV can read")

    encoder = vpt_gym.load_encoder(arguments.encoder, layer=arguments.layer)
    stream = encoder.stream(num_envs=1)
    latents = []
    # The container's own count is an estimate: good enough for a progress bar, not for the size of an array.
    with tqdm(total=int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) or None, unit="frame", desc=video.name) as bar:
        while True:
            more, frame_bgr = capture.read()
            if not more:
                break
            frame = cv2.cvtColor(frame_bgr, cv2.COLOR_BGR2RGB)  # OpenCV reads BGR, VPT was trained on RGB
            latents.append(stream.step(frame[None], [not latents])[0].cpu().numpy())
            bar.update()
    fps = capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    if not latents:
        parser.error(f"{video} holds no frame that OpenCV can read")

    out = arguments.out or video.with_suffix(".npz")
    partial = out.with_name(f".{out.name}.partial")
    with partial.open("wb") as file:
        np.savez(file, latents=np.stack(latents), fps=fps, fingerprint=encoder.fingerprint)
    os.replace(partial, out)  # noqa: PTH105 - in one step: nobody ever meets half a file under the final name
    print(f"{out}: latents {np.stack(latents).shape}, fingerprint {encoder.fingerprint[:12]}")


def make_clip(path: Path, frames: int) -> Path:
    """A clip of the random policy in ViZDoom."""
    import vizdoom.gymnasium_wrapper  # noqa: F401 - registers the environments

    env = gym.make("VizdoomHealthGathering-v1", frame_skip=4)
    env.action_space.seed(0)
    observation, _ = env.reset(seed=0)
    height, width = observation["screen"].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 35 / 4, (width, height))
    for _ in range(frames):
        writer.write(cv2.cvtColor(observation["screen"], cv2.COLOR_RGB2BGR))
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            break
    writer.release()
    env.close()
    return path


if __name__ == "__main__":
    main()
