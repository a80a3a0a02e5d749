"""Records play: any Gymnasium pixel environment, any player, whole episodes, each of them from a seed of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from vpt_gym.checks import check_count
from vpt_gym.config import FRAME_SIZE
from vpt_gym.errors import OptionError, VPTGymError
from vpt_gym.frames import FrameSource, find_frames
from vpt_gym.offline.readers.episodes import EpisodeRecording
from vpt_gym.offline.spaces import text_of
from vpt_gym.running.files import claimed_place, read_json, write_atomically, write_json

__all__ = ["Play", "Targets", "record"]

Play = Callable[[gym.Env[Any, Any], Any], Any]
"""Environment and observation to action. May look at what an agent cannot see."""
Targets = Callable[[gym.Env[Any, Any]], Mapping[str, NDArray[Any]]]
"""What else is kept of every frame, such as maps of depth."""

SETTINGS_FILE: Final = "recording.json"
_LONGEST_BURST: Final = 8


def record(
    make_env: Callable[[], gym.Env[Any, Any]],
    make_player: Callable[[int], Play],
    out: Path | str,
    *,
    frames: int,
    frame_size: int = FRAME_SIZE,
    image_key: str | None = None,
    seed: int = 0,
    random_share: float = 0.0,
    targets: Targets | None = None,
    longest: int = 1000,
    tick: Callable[[int], None] = lambda _: None,
) -> Path:
    """Plays episodes until there are enough frames, and writes each as it ends; goes on where an earlier call stopped.

    Episode k depends on the seed and on k alone, so that what was interrupted goes on as if nothing had happened.

    Args:
        make_env: makes the environment.
        make_player: makes a player from a seed, once an episode.
        out: folder of the recordings.
        frames: at least so many, over all episodes in the folder.
        frame_size: side in pixels that frames are kept at: what the network that is to learn from them reads.
        image_key: of the picture in a Dict observation; None for the only one.
        seed: of the recordings.
        random_share: of the actions that are drawn at random, in bursts of up to eight, 0 to 1. What is kept as the action is
            the player's all the same: so mistakes and their repair are in the data.
        targets: what else is kept of every frame.
        longest: frames of an episode after which it is cut.
        tick: told the number of frames in the folder, after every episode.

    Returns:
        The folder. Episodes are what `readers.episodes.EpisodeRecording` reads: `frames` uint8 [T, size, size, 3], `actions`
        (the player's) and `played` (what was done) [T, ...], `rewards` float32 [T], `terminations` and `truncations` bool [T],
        and the targets.

    Raises:
        OptionError: a number is out of its range, or another command records into the folder.
        VPTGymError: the folder holds recordings of something else, the environment shows no picture, or a reward is not finite.
    """
    check_count("frames", frames)
    check_count("longest", longest)
    if not 0 <= random_share <= 1:
        raise OptionError(f"random_share must be from 0 to 1, not {random_share!r}.")
    place = Path(out).expanduser()
    with claimed_place(place, folder=True), closing(make_env()) as env:
        image = find_frames(env.observation_space, image_key, owner=f"record {env}", size=frame_size)
        described = {
            "env": None if env.spec is None else env.spec.id,
            "frame_size": frame_size,
            "action_space": json.loads(text_of(env.action_space)),
            "seed": seed,
            "random_share": random_share,
            "env_options": {} if env.spec is None else _told(env.spec.kwargs),
            "player": _name_of(make_player),
            "targets": None if targets is None else _name_of(targets),
            "longest": longest,
        }
        _claim(place, described)
        there = sorted(place.glob("episode-*.npz"))
        done = sum(EpisodeRecording(path, path.name).frame_count or 0 for path in there)
        index = len(there)
        while done < frames:
            arrays = _episode(
                env,
                make_player,
                np.random.SeedSequence(seed, spawn_key=(index,)),
                image,
                random_share,
                targets,
                longest,
            )
            _write(place / f"episode-{index:06d}.npz", arrays)
            done, index = done + len(arrays["rewards"]), index + 1
            tick(done)
    return place


def _claim(place: Path, described: dict[str, Any]) -> None:
    file = place / SETTINGS_FILE
    if not file.exists():
        if any(place.iterdir()):
            raise VPTGymError(f"{place} holds something else than recordings: name a new or an empty folder.")
        write_json(file, described)
        return
    there = read_json(file, "restore it, or name another folder")
    # Recordings of before have not told all of it.
    changed = ", ".join(name for name, value in described.items() if there.get(name, value) != value)
    if changed:
        raise VPTGymError(f"{place} holds recordings that were made otherwise ({changed}): name another folder.")


def _told(options: Mapping[str, Any]) -> dict[str, str]:
    """What an environment was made with, but for objects that say no more than where they lie in memory."""
    told = {name: repr(value) for name, value in sorted(options.items())}
    return {name: words for name, words in told.items() if " at 0x" not in words}


def _name_of(called: object) -> str:
    """Of a class or function, or of the class that an object is of."""
    named: Any = called if hasattr(called, "__qualname__") else type(called)
    return f"{named.__module__}.{named.__qualname__}"


def _episode(
    env: gym.Env[Any, Any],
    make_player: Callable[[int], Play],
    sequence: np.random.SeedSequence,
    image: FrameSource,
    random_share: float,
    targets: Targets | None,
    longest: int,
) -> dict[str, NDArray[Any]]:
    of_env, of_player, of_bursts = (int(word) for word in sequence.generate_state(3))
    random = np.random.default_rng(of_bursts)
    env.action_space.seed(of_bursts)
    player, kept = make_player(of_player), dict[str, list[Any]]()
    observation, _ = env.reset(seed=of_env)
    burst, drawn = 0, None
    # So many bursts that, at their mean length, the share comes out.
    mean = (1 + _LONGEST_BURST) / 2
    start = 1.0 if random_share == 1 else min(1.0, random_share / (mean * (1 - random_share)))
    for step in range(longest):
        action = player(env, observation)
        if burst == 0 and random.random() < start:
            burst, drawn = int(random.integers(1, _LONGEST_BURST + 1)), env.action_space.sample()
        played = drawn if burst > 0 else action
        burst = max(0, burst - 1)
        row = {"frames": image.of_one(observation)[0], "actions": action, "played": played}
        if targets is not None:
            row |= targets(env)
        observation, reward, terminated, truncated, _ = env.step(played)
        if not abs(float(reward)) <= float(np.finfo(np.float32).max):  # NaN is not
            raise VPTGymError(
                f"{env}: the reward of step {step + 1} is {reward}, after reset(seed={of_env}): mend the environment; the "
                "episodes before this one are kept."
            )
        truncated = truncated or step + 1 == longest
        row |= {"rewards": np.float32(reward), "terminations": bool(terminated), "truncations": bool(truncated)}
        for name, value in row.items():
            kept.setdefault(name, []).append(np.array(value))
        if terminated or truncated:
            break
    space = np.array(text_of(env.action_space))
    return {name: np.stack(values) for name, values in kept.items()} | {"action_space": space}


def _write(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """A file of arrays, whole or not at all."""

    def write(part: Path) -> None:
        with part.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())

    write_atomically(path, write)
