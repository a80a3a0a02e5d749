"""What the benchmark scripts share: the options of every one of them, the machine's facts, and where results go."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch

import vpt_gym
from vpt_gym.encoders.vpt import VPTEncoder
from vpt_gym.running.files import check_writable, write_json
from vpt_gym.running.machine import commit, hardware
from vpt_gym.running.versions import versions


def add_encoder(parser: argparse.ArgumentParser, default: str = "random:2x") -> None:
    """Which encoder, where, and how."""
    parser.add_argument("--encoder", default=default, help="source of the weights (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: %(default)s)")
    parser.add_argument("--precision", default="auto", help="as for load_encoder (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="threads of torch (default: torch's own choice)")


def load(arguments: argparse.Namespace) -> VPTEncoder:
    """The encoder that the options name."""
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    return vpt_gym.load_encoder(arguments.encoder, device=arguments.device, precision=arguments.precision)


def folder(name: str, given: Path | None) -> Path:
    """Where results go: `given`, or runs/<name>-<time>; made, and found writable."""
    path = given or Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    check_writable(path / f"{name}.json")
    return path


def facts(device: torch.device, arguments: argparse.Namespace) -> dict[str, Any]:
    """The head of every JSON."""
    return {
        "arguments": {name: str(value) for name, value in vars(arguments).items()},
        "commit": commit(Path(vpt_gym.__file__).parent),
        "versions": versions(),
        "hardware": hardware(device),
    }


def encoder_words(encoder: VPTEncoder) -> str:
    """The encoder in a phrase."""
    return f"{encoder.source} in {encoder.precision} on {encoder.device.type} ({encoder.path})"


def machine_words(record: dict[str, Any]) -> str:
    """Hardware, software and commit in a sentence, for the document."""
    machine = record["hardware"]
    place = f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads of torch"
    if "gpu" in machine:
        place = f"{machine['gpu']['name']} beside {place}"
    return f"Hardware: {place}. Software: torch {record['versions']['torch']}. Commit {record['commit']}."


def save(path: Path, name: str, record: dict[str, Any]) -> None:
    """Write the JSON, and say where it is."""
    write_json(path / f"{name}.json", record)
    print(f"\nEvery number is in {path / f'{name}.json'}.")
