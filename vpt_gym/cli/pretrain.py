"""`vpt-gym pretrain`."""

from __future__ import annotations

import argparse

from vpt_gym.cli.arguments import add_command, record_of
from vpt_gym.cli.terminal import say
from vpt_gym.offline.pretraining.config import PretrainingConfig

__all__ = ["add_parser"]

DESCRIPTION = """\
Train the network itself on recordings of play, from nothing or from VPT's
weights: behaviour cloning over long memories, and whatever else --objective
names. The result is a folder that every --encoder takes. Given again, the
command goes on from the last checkpoint."""

EXAMPLES = """\
examples:
  vpt-gym pretrain plays/basic plays/corridor --out doom
  vpt-gym pretrain plays/* --from random:mini --objective clone=1 \\
    --objective depth_map=30 --steps 20000 --out doom
  vpt-gym pretrain plays/* --from foundation-model-1x.weights --train lora:8 \\
    --learning-rate 1e-4 --out my-vpt
  vpt-gym train VizdoomDefendCenter-v1 --encoder doom"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `pretrain` to the commands."""
    add_command(
        commands,
        "pretrain",
        PretrainingConfig,
        run,
        summary="train the network on recordings",
        description=DESCRIPTION,
        examples=EXAMPLES,
    )


def run(arguments: argparse.Namespace) -> int:
    """Train, with Lightning's progress bar."""
    config = record_of(PretrainingConfig, arguments)
    from vpt_gym.offline.pretraining.run import pretrain

    try:
        folder = pretrain(config)
    except KeyboardInterrupt:
        if not (config.out / "model.safetensors").exists():
            raise
        say(f"vpt-gym: stopped; {config.out} is whole as far as it came, and the same command goes on from there.")
        return 130
    say(f"Everything is in {folder}. Next: vpt-gym train ENV --encoder {folder}")
    return 0
