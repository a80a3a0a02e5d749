"""What the benchmark scripts share: the options of every one of them, the machine's facts, tables, and where results go."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import vpt_gym
from vpt_gym.bench.pictures import Pictures, load_pictures
from vpt_gym.encoders.protocol import Encoder
from vpt_gym.running.files import check_writable, write_json
from vpt_gym.running.machine import commit, hardware
from vpt_gym.running.versions import versions


def parser(name: str, document: str | None, *, encoder: bool = False) -> argparse.ArgumentParser:
    """The options of every script; with `encoder`, also which encoder, where, and how."""
    made = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    if encoder:
        made.add_argument("--encoder", default="random:2x", help="source of the weights (default: %(default)s)")
        made.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: %(default)s)")
        made.add_argument("--precision", default="auto", help="as for load_encoder (default: %(default)s)")
        made.add_argument("--threads", type=int, help="threads of torch (default: torch's own choice)")
    made.add_argument("--out", type=Path, help=f"folder for the results (default: runs/{name}-<time>)")
    return made


def load(arguments: argparse.Namespace) -> tuple[Encoder, Pictures]:
    """The encoder that the options name, and pictures at its size."""
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    encoder = vpt_gym.load_encoder(arguments.encoder, device=arguments.device, precision=arguments.precision)
    return encoder, load_pictures((), encoder.frame_size)


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


def encoder_words(encoder: Encoder) -> str:
    """The encoder in a phrase."""
    return f"{encoder.describe()['source']} in {encoder.precision} on {encoder.device.type} ({encoder.backend})"


def machine_words(record: dict[str, Any]) -> str:
    """Hardware, software and commit in a sentence, for the document."""
    machine = record["hardware"]
    place = f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads of torch"
    if "gpu" in machine:
        place = f"{machine['gpu']['name']} beside {place}"
    return f"Hardware: {place}. Software: torch {record['versions']['torch']}. Commit {record['commit']}."


def markdown(rows: Sequence[Sequence[str]], left: Sequence[int] = ()) -> str:
    """A Markdown table, its header first; numbers to the right, but for the columns in `left`."""
    rule = [":---" if column in left else "---:" for column in range(len(rows[0]))]
    return "\n".join("| " + " | ".join(cell.strip() for cell in row) + " |" for row in (rows[0], rule, *rows[1:]))


def save(path: Path, name: str, record: dict[str, Any]) -> None:
    """Write the JSON, and say where it is."""
    write_json(path / f"{name}.json", record)
    print(f"\nEvery number is in {path / f'{name}.json'}.")
