"""`vpt-gym inspect`."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vpt_gym.cli.arguments import Formatter

if TYPE_CHECKING:
    from vpt_gym.encoders.vpt import VPTEncoder

__all__ = ["add_parser"]

DESCRIPTION = """\
Load VPT weights as training would, every check included, and print what they
are: architecture, parameters, which tensors the network takes and which it
leaves aside, and the fingerprint of the latents that they give."""

EXAMPLES = """\
examples:
  vpt-gym inspect CraftJarvis/MineStudio_VPT.rl_from_early_game_2x
  vpt-gym inspect foundation-model-1x.weights --json
  vpt-gym inspect random:tiny"""

PARTS = (
    ("cnn.stacks.", "convolutions"),
    ("cnn.", "dense layers"),
    ("blocks.", "transformer blocks"),
    ("", "last layers"),
)
"""Parts of the network by how our parameters' names begin; the first that fits counts."""

ARCHITECTURE = {
    "hidden_size": "hidden size",
    "heads": "attention heads",
    "impala_width": "IMPALA width",
    "blocks": "transformer blocks",
    "memory": "memory, frames",
    "dense_size": "dense bottleneck",
    "mlp_ratio": "MLP ratio",
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `inspect` to the commands."""
    parser = commands.add_parser(
        "inspect",
        help="show what a checkpoint holds",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=Formatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run, parser=parser)
    parser.add_argument("source", metavar="SOURCE", help="weights, as for vpt-gym train --encoder")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with every tensor's name")


def run(arguments: argparse.Namespace) -> int:
    """Load, and print."""
    from vpt_gym.encoders import load_encoder

    encoder = load_encoder(arguments.source, device="cpu", precision="float32")
    facts = _facts(encoder)
    print(json.dumps(facts, indent=2) if arguments.json else _table(facts))
    return 0


def _facts(encoder: VPTEncoder) -> dict[str, Any]:
    report = encoder.report
    return {
        "source": encoder.source,
        "files": [str(path) for path in report.files],
        "untrained": report.untrained,
        "architecture": asdict(encoder.config),
        "latent_size": encoder.latent_size,
        "parameters": report.parameters,
        "parts": _parts(encoder),
        "taken": list(report.taken),
        "aside": list(report.aside),
        "heads": dict(report.heads),
        "fingerprint": encoder.fingerprint,
    }


def _parts(encoder: VPTEncoder) -> dict[str, dict[str, int]]:
    from vpt_gym.weights import table

    parts = {name: {"tensors": 0, "parameters": 0} for _, name in PARTS}
    for spec in table(encoder.config):
        part = parts[next(name for start, name in PARTS if spec.parameter.startswith(start))]
        part["tensors"] += 1
        part["parameters"] += math.prod(spec.shape)
    return parts


def _table(facts: dict[str, Any]) -> str:
    files = ", ".join(facts["files"]) or "none: the weights are UNTRAINED, drawn at random"
    lines = [("source", facts["source"]), ("files", files), ("", "")]
    lines += [(words, f"{facts['architecture'][name]:,}") for name, words in ARCHITECTURE.items()]
    lines += [("latent size", f"{facts['latent_size']:,}"), ("", "")]
    rows = [*facts["parts"].items(), ("all taken", {"tensors": len(facts["taken"]), "parameters": facts["parameters"]})]
    lines += [(name, f"{part['tensors']:>4} tensors {part['parameters']:>13,} parameters") for name, part in rows]
    aside = ", ".join(f"{head} {tensors}" for head, tensors in facts["heads"].items())
    lines += [("left aside", f"{len(facts['aside']):>4} tensors" + (f": {aside}" if aside else "")), ("", "")]
    lines += [("fingerprint", facts["fingerprint"])]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in lines)
