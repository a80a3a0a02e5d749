"""What `doom:mini` is worth in scenarios that it never saw: linear probes of what ViZDoom knows, fine-tuning; and its players.

    python benchmarks/doom_judge.py probe        # health, ammunition, the nearest object, by layer, beside untrained networks
    python benchmarks/doom_judge.py probe --encoder runs/doom-longer/encoder  # another one
    python benchmarks/doom_judge.py finetune     # all of it against its heads alone, on 50,000 frames of DefendCenter
    python benchmarks/doom_judge.py players      # the scripted players that it learned from, beside random play

What PPO makes of it is one command of the package (docs/evidence.md):

    vpt-gym compare VizdoomDefendCenter-v1 ... --encoders doom:mini "random:mini?seed=0" --seeds 5
"""

from __future__ import annotations

import argparse
import math
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from doom_mini import FRAME_SKIP, HELD_OUT, RANDOM_SHARE, SCENARIOS, record_play
from numpy.typing import NDArray
from vizdoom import GameVariable

from vpt_gym.encoders import load_encoder
from vpt_gym.envs import doom
from vpt_gym.nn.net import layer_names
from vpt_gym.offline.pretraining.card import read_figures
from vpt_gym.offline.pretraining.config import PretrainingConfig
from vpt_gym.offline.pretraining.run import pretrain
from vpt_gym.offline.probing import fit, scaled

TRAINED, UNTRAINED = "doom:mini", ("random:mini?seed=0", "random:mini?seed=1")
LABELS = ("angle", "size", "distance", "moves", "health", "ammunition")
OF_OBJECTS = 4
"""Of the labels, so many are the nearest object's, and not there where no object is in view."""


class View:
    """What ViZDoom knows of a frame, to be kept beside it: one number for each of the labels, NaN where there is no object."""

    def __init__(self) -> None:
        self._before: doom.Nearest | None = None
        self._time = 0

    def __call__(self, env: gym.Env[Any, Any]) -> dict[str, NDArray[np.float32]]:
        """One frame's."""
        game: Any = env.unwrapped.game  # type: ignore[attr-defined]
        # An episode's first frame has none before it.
        opens, self._time = game.get_episode_time() <= self._time, game.get_episode_time()
        found, before = doom.nearest(env), None if opens else self._before
        self._before = found
        labels = [np.nan] * OF_OBJECTS
        if found is not None:
            same = before is not None and before.number == found.number
            # Monsters are moved without a velocity, so what counts is the way since the frame before.
            moved = float(math.dist(before.place, found.place) > 1) if same and before else np.nan
            labels = [found.angle, found.size, found.distance, moved]
        own = (GameVariable.HEALTH, GameVariable.SELECTED_WEAPON_AMMO)
        return {"view": np.array([*labels, *map(game.get_game_variable, own)], np.float32)}


def latents_of(source: str, files: list[Path]) -> dict[str, NDArray[np.float32]]:
    """Latents [N, D] of all frames, by layer."""
    encoder = load_encoder(source, layer="all")
    latents_nd = np.concatenate([encoder.encode(_frames(file)[None]).numpy()[0] for file in files])
    names = layer_names(encoder.config)
    return dict(zip(names, np.split(latents_nd, len(names), axis=1), strict=True))


def probe(folder: Path, frames: int, trained: str) -> None:
    """A table of R^2 on held-out episodes."""
    print(
        f"R^2 on held-out episodes of {frames:,} frames a scenario: trained / untrained, the mean of {len(UNTRAINED)}\n"
    )
    for number, scenario in enumerate(HELD_OUT):
        files = sorted(record_play(folder / "views", scenario, frames, seed=2, targets=View()).glob("episode-*.npz"))
        views_nl = np.concatenate([np.load(file)["view"] for file in files])
        episodes_n = np.repeat(np.arange(len(files)), [len(np.load(file)["view"]) for file in files])
        part_n = np.random.default_rng(0).permutation(len(files))[episodes_n] % 5
        latents = {source: latents_of(source, files) for source in (trained, *UNTRAINED)}
        layers = list(latents[trained])
        if number == 0:
            print("| scenario | what | " + " | ".join(layers) + " |\n|---|---|" + "---|" * len(layers))
        for place, label in enumerate(LABELS):
            known_n = np.isfinite(views_nl[:, place])
            # Three fifths of the episodes to fit, one to choose the penalty, one to score.
            rows = [np.flatnonzero(known_n & chosen) for chosen in (part_n >= 2, part_n == 1, part_n == 0)]
            values = [views_nl[chosen, place] for chosen in rows]
            if not all(len(part) and np.ptp(part) for part in values):
                print(f"| {scenario} | {label} |" + " - |" * len(layers), flush=True)
                continue
            cells = []
            for layer in layers:
                scores = []
                for source in (trained, *UNTRAINED):
                    parts = [latents[source][layer][chosen] for chosen in rows]
                    scores.append(fit([scaled(part, parts[0]) for part in parts], values, label)[1])
                ours, theirs = round(scores[0], 2), round(float(np.mean(scores[1:])), 2)
                mark = "**" if ours > theirs else ""
                cells.append(f"{mark}{ours:.2f}{mark} / {theirs:.2f}")
            print(f"| {scenario} | {label} | " + " | ".join(cells) + " |", flush=True)


def _frames(file: Path) -> NDArray[np.uint8]:
    with np.load(file) as arrays:
        frames_thwc: NDArray[np.uint8] = arrays["frames"]
    return frames_thwc


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
    parser.add_argument("--encoder", default=TRAINED, help="what is probed")
    parser.add_argument("--frames", type=int, help="default: 6,000 of each scenario to probe, 50,000 to fine-tune")
    parser.add_argument("--steps", type=int, default=200, help="of fine-tuning")
    parser.add_argument("--episodes", type=int, default=10, help="of each player in each scenario")
    options = parser.parse_args()
    if options.what == "probe":
        probe(options.folder, options.frames or 6_000, options.encoder)
    elif options.what == "players":
        players(options.episodes)
    else:
        finetune(options.folder, options.frames or 50_000, options.steps)


if __name__ == "__main__":
    main()
