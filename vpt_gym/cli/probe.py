"""`vpt-gym probe`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from vpt_gym.cli.arguments import add_command, record_of
from vpt_gym.cli.terminal import say
from vpt_gym.offline.plan import ProbingConfig
from vpt_gym.running.options import Option

__all__ = ["add_parser"]

DESCRIPTION = """\
Fit linear probes: how well a linear layer reads a label of every frame out of
the latents, on episodes that it has not seen. On a dataset of
`vpt-gym encode --layer all` it compares the encoder's layers, so that one can
pick the layer for a task. Prints a table, and draws a picture."""

EXAMPLES = """\
examples:
  vpt-gym probe latents --label actions
  vpt-gym probe latents --label health --label position --out probes.png"""


@dataclass(frozen=True, kw_only=True)
class Probing(ProbingConfig):
    """What `vpt-gym probe` is asked."""

    dataset: Annotated[Path, Option("a dataset of vpt-gym encode", flag="DATASET")]
    label: Annotated[
        tuple[str, ...], Option("what to read: a label of the dataset, actions or rewards", metavar="NAME")
    ]
    out: Annotated[Path | None, Option("the picture's file, such as probes.png", group="output")] = None


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `probe` to the commands."""
    add_command(
        commands,
        "probe",
        Probing,
        run,
        summary="see what each layer of an encoder tells",
        description=DESCRIPTION,
        examples=EXAMPLES,
    )


def run(arguments: argparse.Namespace) -> int:
    """Probe, and print a table."""
    asked = record_of(Probing, arguments)
    from vpt_gym.offline import LatentDataset, probe

    config = record_of(ProbingConfig, arguments)
    with LatentDataset(asked.dataset) as dataset:
        probes = probe(dataset, asked.label, config)
    say(f"{'label':<20} {'layer':<8} {'probe':<9} {'score':>7} {'without':>8}   on held-out episodes")
    for each in probes:
        score = f"{each.score:>7.3f} {each.baseline:>8.3f}"
        say(f"{each.label:<20} {each.layer:<8} {each.kind:<9} {score}   {'R2' if each.kind == 'ridge' else 'accuracy'}")
    if asked.out is not None:
        from vpt_gym.offline.curves import draw_probes

        draw_probes(probes, asked.out)
        say(f"The picture is in {asked.out}.")
    return 0
