"""`vpt-gym record`."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tqdm import tqdm

from vpt_gym.cli.arguments import add_command, record_of
from vpt_gym.cli.terminal import say
from vpt_gym.errors import OptionError, VPTGymError
from vpt_gym.running.options import COUNT, FRACTION, Option, check_options

if TYPE_CHECKING:
    from vpt_gym.offline.recorder import Play

__all__ = ["add_parser"]

DESCRIPTION = """\
Play a pixel environment and keep what was seen and done: a folder of episodes,
for `vpt-gym pretrain`. Given again, the command goes on where it stopped, also
after kill -9: an episode depends on the seed and its number alone."""

EXAMPLES = """\
examples:
  vpt-gym record CarRacing-v3 --policy random --frames 10000 --out plays/car
  vpt-gym record VizdoomBasic-v1 --policy vpt_gym.envs.doom:Player \\
    --env-arg frame_skip=4 --image-key screen --frame-size 64 \\
    --random-share 0.25 --frames 50000 --out plays/basic
  vpt-gym record VizdoomBasic-v1 --policy runs/VizdoomBasic-v1-20250101-120000 \\
    --frames 50000 --out plays/trained

A run is played in its environment's arguments. A player is a class or function that takes a seed and gives a function of
environment and observation, which gives the action. Its attributes
env_kwargs() and targets(env), where it has them, say what gym.make must be
told and what is kept beside the frames."""


@dataclass(frozen=True)
class Recording:
    """What `vpt-gym record` is told."""

    env_id: Annotated[str, Option("the environment's id, or module:id", flag="ENV")]
    out: Annotated[Path, Option("folder of the recordings, new or of the same kind")]
    policy: Annotated[str, Option("random, a run folder of vpt-gym train, or a player as module:name")] = "random"
    frames: Annotated[int, Option("frames in the folder, at least; episodes are whole", COUNT)] = 10_000
    frame_size: Annotated[int, Option("side in pixels of the kept frames: what the network reads", COUNT)] = 128
    random_share: Annotated[
        float, Option("share of the actions that are drawn at random; what is kept is the player's", FRACTION)
    ] = 0.0
    longest: Annotated[int, Option("frames after which an episode is cut", COUNT)] = 1000
    seed: Annotated[int, Option("of the recordings")] = 0
    image_key: Annotated[str | None, Option("entry of a Dict observation that is the image")] = None
    env_kwargs: Annotated[dict[str, Any], Option("keyword argument of gym.make", flag="--env-arg")] = field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        check_options(self)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `record` to the commands."""
    add_command(
        commands,
        "record",
        Recording,
        run,
        summary="play and keep the recordings",
        description=DESCRIPTION,
        examples=EXAMPLES,
    )


def run(arguments: argparse.Namespace) -> int:
    """Record, with a progress bar."""
    config = record_of(Recording, arguments)
    import gymnasium as gym

    from vpt_gym.offline.recorder import record
    from vpt_gym.providers import qualified_id

    make_player: Any = _random if config.policy == "random" else _player(config.policy)
    wanted: dict[str, Any] = getattr(make_player, "env_kwargs", dict)()

    def make_env() -> gym.Env[Any, Any]:
        try:
            return gym.make(qualified_id(config.env_id), **{**wanted, **config.env_kwargs})
        except (gym.error.Error, ImportError, TypeError, ValueError, RuntimeError) as error:
            raise OptionError(f"{config.env_id} cannot be made: {str(error).strip()}") from error

    with tqdm(total=config.frames, unit="frame", unit_scale=True, dynamic_ncols=True) as bar:

        def tick(done: int) -> None:
            bar.update(min(done, config.frames) - bar.n)

        folder = record(
            make_env,
            make_player,
            config.out,
            frames=config.frames,
            frame_size=config.frame_size,
            image_key=config.image_key or getattr(make_player, "image_key", None),
            seed=config.seed,
            random_share=config.random_share,
            targets=getattr(make_player, "targets", None),
            longest=config.longest,
            tick=tick,
        )
    say(f"{len(list(folder.glob('*.npz')))} episodes in {folder}. Next: vpt-gym pretrain {folder} --out encoder")
    return 0


def _random(seed: int) -> Play:
    """A player that draws every action."""
    del seed
    # `record` seeds the action space for every episode.
    return lambda env, _: env.action_space.sample()


def _player(name: str) -> Callable[[int], Play]:
    if Path(name).is_dir():
        from vpt_gym.training.player import SavedPlayer

        return SavedPlayer(Path(name))
    module, colon, attribute = name.partition(":")
    if not colon:
        raise OptionError(
            f"--policy must be random, a run folder, or module:name such as vpt_gym.envs.doom:Player, not {name!r}."
        )
    try:
        found: Callable[[int], Play] = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise VPTGymError(f"--policy {name}: there is no module {error.name!r} where Python looks.") from error
    except AttributeError as error:
        raise OptionError(f"--policy {name}: {module} has no {attribute!r}.") from error
    return found
