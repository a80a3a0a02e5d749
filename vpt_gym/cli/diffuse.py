"""`vpt-gym diffuse`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from vpt_gym.cli.arguments import add_command, ending_in, record_of
from vpt_gym.cli.terminal import say
from vpt_gym.offline.plan import DiffusionConfig
from vpt_gym.running.options import COUNT, Option

if TYPE_CHECKING:
    from vpt_gym.offline.dataset import LatentDataset

__all__ = ["add_parser"]

DESCRIPTION = """\
Train a diffusion policy to act as in the demonstrations of a dataset of
latents. It plays chunks of actions; where demonstrators do now this and now
that, it does one of the two. vpt-gym eval RUN --policy FILE plays it."""

EXAMPLES = """\
examples:
  vpt-gym diffuse latents --out policy.safetensors
  vpt-gym diffuse latents --out policy.safetensors --horizon 16 --replan 4 \\
    --width 128 --steps 5000
  vpt-gym diffuse latents --out policy.safetensors --goal 'open the door'"""

_policy = {"group": "policy"}


@dataclass(frozen=True, kw_only=True)
class Diffusing(DiffusionConfig):
    """What `vpt-gym diffuse` is asked."""

    dataset: Annotated[Path, Option("a dataset of vpt-gym encode, with actions", flag="DATASET")]
    out: Annotated[Path, Option("the policy's file, .safetensors", group="output")]
    horizon: Annotated[int, Option("actions of a chunk", COUNT, **_policy)] = 10
    replan: Annotated[int | None, Option("of which so many are played (default: half of them)", COUNT, **_policy)] = (
        None
    )
    width: Annotated[int, Option("of the network", COUNT, **_policy)] = 384
    layers: Annotated[int, Option("of the encoder, and of the decoder", COUNT, **_policy)] = 4
    goal: Annotated[
        str | None,
        Option("what all episodes do, in words (default: the dataset's label goal, if there is one)", **_policy),
    ] = None
    clip: Annotated[
        str | None,
        Option("a folder or hub repository with CLIP, which embeds the goal", metavar="PLACE", **_policy),
    ] = None


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `diffuse` to the commands."""
    add_command(
        commands,
        "diffuse",
        Diffusing,
        run,
        summary="train a diffusion policy on demonstrations",
        description=DESCRIPTION,
        examples=EXAMPLES,
    )


def run(arguments: argparse.Namespace) -> int:
    """Train, and print how it went."""
    asked = record_of(Diffusing, arguments)
    from vpt_gym.encoders.text import asked_goal
    from vpt_gym.offline import LatentDataset, train_diffusion
    from vpt_gym.running.files import claimed_place

    out = ending_in(".safetensors", asked.out)
    config = record_of(DiffusionConfig, arguments)
    with claimed_place(out), LatentDataset(asked.dataset) as dataset:
        goal = asked_goal(asked.goal, asked.clip)
        say(f"{asked.dataset}: {len(dataset)} episodes, {dataset.frames:,} latents of {dataset.latent_size} numbers")
        policy = _made(asked, dataset, dataset.goal_size if goal is None else len(goal))
        result = train_diffusion(policy, dataset, config, goal=goal)
        policy.save(out)
    for step, loss in result.losses.items():
        held = f", held out {result.validation[step]:.4f}" if step in result.validation else ""
        say(f"  step {step:<7} loss {loss:.4f}{held}")
    say(f"Saved in {out}. Next: vpt-gym eval RUN --policy {out}")
    return 130 if result.stopped else 0


def _made(asked: Diffusing, dataset: LatentDataset, goal_size: int) -> Any:
    """A policy for the dataset's latents, goals and actions."""
    import gymnasium as gym
    import torch

    from vpt_gym.errors import OptionError
    from vpt_gym.heads import DiffusionPolicy
    from vpt_gym.latents import latent_box

    if dataset.action_space is None:
        raise OptionError(f"{asked.dataset} has no actions to learn: encode recordings that have them.")
    space: gym.Space[Any] = latent_box(dataset.latent_size)
    if goal_size:
        space = gym.spaces.Dict({"latent": space, "goal": latent_box(goal_size)})
    grid = dataset.encoder.get("grid")
    torch.manual_seed(asked.seed)
    return DiffusionPolicy(
        space,
        dataset.action_space,
        horizon=asked.horizon,
        replan=asked.replan,
        grid=None if grid is None else tuple(grid),
        width=asked.width,
        encoder_layers=asked.layers,
        decoder_layers=asked.layers,
        device="cuda" if torch.cuda.is_available() and asked.device != "cpu" else "cpu",
    )
