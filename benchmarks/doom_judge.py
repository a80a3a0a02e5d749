"""What `doom:mini` is worth in scenarios that it never saw: linear probes of what is in view, and fine-tuning; and its players.

    python benchmarks/doom_judge.py probe        # of angle and size of the nearest object, beside untrained networks
    python benchmarks/doom_judge.py finetune     # all of it against its heads alone, on 50,000 frames of DefendCenter
    python benchmarks/doom_judge.py players      # the scripted players that it learned from, beside random play

What PPO makes of it is one command of the package (docs/evidence.md):

    vpt-gym compare VizdoomDefendCenter-v1 ... --encoders doom:mini "random:mini?seed=0" --seeds 5
"""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from doom_mini import FRAME_SKIP, HELD_OUT, RANDOM_SHARE, SCENARIOS, record_play
from numpy.typing import NDArray

from vpt_gym.encoders import load_encoder
from vpt_gym.envs import doom
from vpt_gym.offline.pretraining.card import read_figures
from vpt_gym.offline.pretraining.config import PretrainingConfig
from vpt_gym.offline.pretraining.run import pretrain
from vpt_gym.offline.probing import fit, scaled

ENCODERS = ("doom:mini", "random:mini?seed=0", "random:mini?seed=1")
LAYERS = ("cnn", "final")
LABELS = ("angle", "size")
NOTHING = -9.0
"""Stands in the recordings where no object is in view."""


def in_view(env: gym.Env[Any, Any]) -> dict[str, NDArray[np.float32]]:
    """Angle and size of the nearest object, to be kept beside a frame."""
    found = doom.nearest(env) or (NOTHING, NOTHING)
    return {"nearest": np.array(found, np.float32)}


def latents_of(source: str, files: list[Path]) -> tuple[dict[str, NDArray[Any]], NDArray[Any], NDArray[Any]]:
    """Latents [N, D] by layer, labels [N, 2] and episode numbers [N] of all frames in which there is an object."""
    kept: dict[str, list[NDArray[Any]]] = {layer: [] for layer in LAYERS}
    labels, episodes = [], []
    for layer in LAYERS:
        encoder = load_encoder(source, layer=layer)
        for index, file in enumerate(files):
            with np.load(file) as arrays:
                frames_thwc, nearest_t2 = arrays["frames"], arrays["nearest"]
            seen_t = nearest_t2[:, 0] != NOTHING
            kept[layer].append(encoder.encode(frames_thwc[None]).numpy()[0][seen_t])
            if layer == LAYERS[0]:
                labels.append(nearest_t2[seen_t])
                episodes.append(np.full(int(seen_t.sum()), index))
    return {layer: np.concatenate(parts) for layer, parts in kept.items()}, *map(np.concatenate, (labels, episodes))  # type: ignore[return-value]


def probe(folder: Path, frames: int) -> None:
    """A table of R^2 on held-out episodes."""
    print(f"R^2 on held-out episodes; {frames:,} frames a scenario, of which those count that show an object\n")
    columns = [f"{label}, {layer}" for label in LABELS for layer in LAYERS]
    print("| scenario | encoder | " + " | ".join(columns) + " |")
    print("|---|---|" + "---|" * len(columns))
    for scenario in HELD_OUT:
        files = sorted(record_play(folder / "views", scenario, frames, seed=2, targets=in_view).glob("episode-*.npz"))
        for source in ENCODERS:
            by_layer, labels, episodes = latents_of(source, files)
            part = np.random.default_rng(0).permutation(len(files))[episodes] % 5
            # Three fifths of the episodes to fit, one to choose the penalty, one to score.
            rows = [part >= 2, part == 1, part == 0]
            scores = []
            for place in range(len(LABELS)):
                for layer in LAYERS:
                    latents = by_layer[layer]
                    parts = [scaled(latents[chosen], latents[rows[0]]) for chosen in rows]
                    scores.append(fit(parts, [labels[chosen, place] for chosen in rows], LABELS[place])[1])
            print(f"| {scenario} | {source} | " + " | ".join(f"{score:.2f}" for score in scores) + " |", flush=True)


def finetune(folder: Path, frames: int, steps: int) -> None:
    """`doom:mini` trained on against itself with its heads alone, from the same recordings."""
    scenario = "DefendCenter"
    record_play(folder / "play", scenario, frames)
    print(f"{scenario}, {steps} steps of 256 frames; the figures are of recordings that were only looked at\n")
    print("| trained | clone loss | exact buttons |\n|---|---|---|")
    for what in ("heads", "all"):
        out = pretrain(
            PretrainingConfig(
                datasets=(str(folder / "play" / scenario),),
                out=folder / f"finetuned-{what}",
                source="doom:mini",
                train=what,
                steps=steps,
                learning_rate=5e-4,
                warm_up=20,
                validation=0.1,
                validate_every=max(1, steps // 4),
            )
        )
        figures = read_figures(out)
        loss, right = figures["val/clone_loss"][-1][1], figures["val/accuracy"][-1][1]
        print(f"| {what} | {loss:.3f} | {right:.1%} |", flush=True)


def players(episodes: int) -> None:
    """A table of returns: the player, the player with the recordings' share of random actions, and random play."""
    print(f"Mean return and standard deviation of {episodes} episodes, seven buttons, frame skip {FRAME_SKIP}\n")
    print("| scenario | player | as it is recorded | random play |\n|---|---|---|---|")
    for scenario in (*SCENARIOS, *HELD_OUT):
        with closing(gym.make(f"Vizdoom{scenario}-v1", **doom.buffers(buttons=True, frame_skip=FRAME_SKIP))) as env:
            cells = [f"{np.mean(found):.1f} ± {np.std(found):.1f}" for found in _returns(env, episodes)]
        print(f"| {scenario} | " + " | ".join(cells) + " |", flush=True)


def _returns(env: gym.Env[Any, Any], episodes: int) -> list[list[float]]:
    found = []
    for share in (0.0, RANDOM_SHARE, 1.0):
        player, chance = doom.Player(0), np.random.default_rng(0)
        env.action_space.seed(0)
        found.append([])
        for seed in range(episodes):
            observation, _ = env.reset(seed=seed)
            total, done = 0.0, False
            while not done:
                wanted = player(env, observation)
                action = env.action_space.sample() if chance.random() < share else wanted
                observation, reward, terminated, truncated, _ = env.step(action)
                total, done = total + float(reward), terminated or truncated
            found[-1].append(total)
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("probe", "finetune", "players"))
    parser.add_argument("--folder", type=Path, default=Path("runs/doom-judge"))
    parser.add_argument("--frames", type=int, help="default: 6,000 of each scenario to probe, 50,000 to fine-tune")
    parser.add_argument("--steps", type=int, default=200, help="of fine-tuning")
    parser.add_argument("--episodes", type=int, default=10, help="of each player in each scenario")
    options = parser.parse_args()
    if options.what == "probe":
        probe(options.folder, options.frames or 6_000)
    elif options.what == "players":
        players(options.episodes)
    else:
        finetune(options.folder, options.frames or 50_000, options.steps)


if __name__ == "__main__":
    main()
