"""`vpt-gym inspect`."""

from __future__ import annotations

import argparse
import json
from contextlib import closing
from dataclasses import dataclass, field
from typing import Annotated, Any

from vpt_gym.cli.arguments import add_command, record_of
from vpt_gym.cli.terminal import say
from vpt_gym.running.options import Option, check_options
from vpt_gym.training.config import ENCODER_OPTIONS

__all__ = ["add_parser"]

DESCRIPTION = """\
Load an encoder as training would, every check included, and print what it is:
the size and the fingerprint of its latents; of VPT also the architecture, the
parameters, and which tensors the network takes and which it leaves aside."""

EXAMPLES = """\
examples:
  vpt-gym inspect CraftJarvis/MineStudio_VPT.rl_from_early_game_2x
  vpt-gym inspect foundation-model-1x.weights --json
  vpt-gym inspect random:tiny --layer cnn
  vpt-gym inspect my_package.encoders:colours: --encoder-arg cells=2"""

ARCHITECTURE = {
    "hidden_size": "hidden size",
    "heads": "attention heads",
    "impala_width": "IMPALA width",
    "blocks": "transformer blocks",
    "memory": "memory, frames",
    "dense_size": "dense bottleneck",
    "mlp_ratio": "MLP ratio",
}


@dataclass(frozen=True)
class Inspection:
    """What `vpt-gym inspect` is asked."""

    source: Annotated[str, Option("an encoder, as for vpt-gym train --encoder", flag="SOURCE")]
    json: Annotated[bool, Option("print one JSON object, with every tensor's name")] = False
    encoder_options: Annotated[dict[str, Any], ENCODER_OPTIONS] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_options(self)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `inspect` to the commands."""
    add_command(
        commands,
        "inspect",
        Inspection,
        run,
        summary="show what an encoder is and what a checkpoint holds",
        description=DESCRIPTION,
        examples=EXAMPLES,
    )


def run(arguments: argparse.Namespace) -> int:
    """Load, and print."""
    asked = record_of(Inspection, arguments)
    from vpt_gym.encoders import EncoderBase, as_encoder

    with closing(as_encoder(asked.source, asked.encoder_options)) as encoder:
        facts = encoder.describe()
        if isinstance(encoder, EncoderBase):
            facts |= encoder.contents()
    say(json.dumps(facts, indent=2) if asked.json else _table(facts))
    return 0


def _table(facts: dict[str, Any]) -> str:
    lines = [("source", facts["source"])]
    if "files" in facts:
        lines.append(("files", ", ".join(facts["files"]) or "none: the weights are UNTRAINED, drawn at random"))
    elif facts["untrained"]:
        lines.append(("weights", "UNTRAINED, drawn at random"))
    options = ", ".join(f"{name}={value}" for name, value in facts["options"].items())
    if facts.get("training"):
        lines.append(("trained on", ", ".join(map(str, facts["training"].get("recordings", ()))) or "it does not say"))
    lines += [("kind", facts["kind"]), ("options", options or "none")]
    lines += [(name, str(facts[name])) for name in ("device", "precision", "backend")]
    lines += [("", "")]
    if "architecture" in facts:
        lines += [(words, f"{facts['architecture'][name]:,}") for name, words in ARCHITECTURE.items()]
    lines += [("frame size", f"{facts['frame_size']}"), ("latent size", f"{facts['latent_size']:,}"), ("", "")]
    if "parts" in facts:
        taken = {"tensors": len(facts["taken"]), "parameters": facts["parameters"]}
        rows = [*facts["parts"].items(), ("all taken", taken)]
        lines += [(name, f"{part['tensors']:>4} tensors {part['parameters']:>13,} parameters") for name, part in rows]
        aside = ", ".join(f"{head} {tensors}" for head, tensors in facts["heads"].items())
        lines += [("left aside", f"{len(facts['aside']):>4} tensors" + (f": {aside}" if aside else "")), ("", "")]
    lines += [("fingerprint", facts["fingerprint"])]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in lines)
