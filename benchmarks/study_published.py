"""The study of docs/evidence.md with VPT's published weights: the command, and a short run of it on a stand-in for the file.

    python benchmarks/study_published.py --steps 512

The stand-in has the name, the size and the tensors' names of OpenAI's foundation-model-1x.weights, and untrained numbers. It
is trained on in the first environment alone; what is printed is how fast that was, and how long the whole command would take.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import torch
from safetensors.torch import load_file
from shared import facts, machine_words, markdown

from vpt_gym.compare import ComparisonConfig
from vpt_gym.compare.results import results_of
from vpt_gym.encoders.loading import load_network
from vpt_gym.weights import save_checkpoint

WEIGHTS = "foundation-model-1x.weights"
ENVS = tuple(f"Vizdoom{name}-v1?frame_skip=4" for name in ("DefendCenter", "HealthGatheringSupreme", "TakeCover"))
ENCODERS = (WEIGHTS, f"{WEIGHTS}@cnn", f"{WEIGHTS}@reset", "random:1x")
STEPS, SEEDS = 500_000, 5


def command(envs: Sequence[str], steps: int, seeds: int, out: Path | str) -> list[str]:
    """What to type, after `vpt-gym`."""
    words = ["compare", *envs, "--encoders", *ENCODERS, "--steps", str(steps), "--seeds", str(seeds)]
    return [*words, "--out", str(out)]


def stand_in(place: Path) -> None:
    """A file of untrained weights, named and laid out as OpenAI's."""
    with tempfile.TemporaryDirectory() as folder:
        saved = save_checkpoint(load_network("random:1x"), None, Path(folder, "checkpoint"))
        torch.save(load_file(saved / "model.safetensors"), place / WEIGHTS)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=512, help="of each of the stand-in's trainings (default: 512)")
    parser.add_argument("--out", type=Path, default=Path("runs/study-published"), help="default: %(default)s")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    stand_in(options.out)
    words = [*command(ENVS[:1], options.steps, 1, "matrix"), "--eval-episodes", "1", "--no-diagnose"]
    subprocess.run([sys.executable, "-m", "vpt_gym.cli", *words], cwd=options.out, check=True)
    found = results_of(ComparisonConfig(ENVS[:1], ENCODERS, options.out / "matrix", seeds=1).cells())
    rows, hours = [["Encoder", "Steps/s in training"]], 0.0
    for encoder in ENCODERS:
        pace = options.steps / mean(result.seconds for result in found if result.cell.encoder == encoder)
        rows.append([encoder, f"{pace:.1f}"])
        hours += STEPS * SEEDS * len(ENVS) / pace / 3600
    print(f"\n{machine_words(facts(torch.device('cpu'), options))}\n\n{markdown(rows)}")
    print(f"\nAt this pace the trainings of the whole command take {hours:,.0f} hours, one at a time:")
    print(f"vpt-gym {shlex.join(command(ENVS, STEPS, SEEDS, 'runs/study-published'))}")


if __name__ == "__main__":
    main()
