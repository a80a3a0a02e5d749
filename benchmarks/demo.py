"""What `make demo` reaches: the Makefile's own command over seeds, as a Markdown table with hardware and versions.

    python benchmarks/demo.py --seeds 0 1 2
    python benchmarks/demo.py --seeds 0 -- --steps 512 --eval-episodes 2

What stands behind `--` goes to `vpt-gym train`, and is printed with the command. Run folders stay under runs/benchmark-demo-*.
Progress goes to standard error, the table alone to standard output. Needs vpt_gym and ViZDoom.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean
from typing import Any

from vpt_gym.running.machine import commit, cpu_words

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the demo over seeds and print a Markdown table.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    own, extra = sys.argv[1:], []
    if "--" in own:
        own, extra = own[: own.index("--")], own[own.index("--") + 1 :]
    arguments = parser.parse_args(own)

    demo = [*demo_arguments(), *extra]
    folder = Path("runs") / f"benchmark-demo-{time.strftime('%Y%m%d-%H%M%S')}"
    runs = []
    for number, seed in enumerate(arguments.seeds, start=1):
        print(f"[{number}/{len(arguments.seeds)}] seed {seed}", file=sys.stderr, flush=True)
        runs.append(run(demo, seed, folder / f"seed-{seed}"))
    print(report(demo, arguments.seeds, runs))


def demo_arguments() -> list[str]:
    """The arguments of `vpt-gym train` that `make demo` uses."""
    found = re.search(r"^DEMO \?= (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert found is not None
    return shlex.split(found[1])


def run(demo: list[str], seed: int, folder: Path) -> dict[str, Any]:
    """One training in a process of its own; what its config.json says."""
    command = [sys.executable, "-m", "vpt_gym.cli", "train", *demo, "--seed", str(seed), "--run", str(folder)]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, stdout=sys.stderr, check=False, env=environment)
    if done.returncode:
        sys.exit(f"seed {seed} ended with code {done.returncode}; see above")
    values: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return values


def report(demo: list[str], seeds: list[int], runs: list[dict[str, Any]]) -> str:
    """The table, with what is needed to read it."""
    episodes = runs[0]["training"]["eval_episodes"]
    weights = "untrained" if runs[0]["encoder"]["untrained"] else "trained"
    versions = ", ".join(f"{name} {number}" for name, number in runs[0]["versions"].items() if name != "minestudio")
    threads = "".join(f", OMP_NUM_THREADS={n}" for n in filter(None, [os.environ.get("OMP_NUM_THREADS")]))
    lines = [
        f"`vpt-gym train {shlex.join(demo)}` over {len(seeds)} seeds; {weights} encoder on {runs[0]['encoder']['device']} "
        f"in {runs[0]['encoder']['precision']}; mean return ± standard deviation over {episodes} episodes; "
        f"seconds of the training alone, and of the whole command after its start.",
        "",
        f"Hardware: {cpu_words()}{threads}. Software: {versions}, {platform.system()}. Commit {commit(ROOT / 'vpt_gym')}.",
        "",
        "| Seed | Random policy | Trained policy | Steps | Frames/s | Training, s | In all, s |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for seed, one in zip(seeds, runs, strict=True):
        random, trained, steps = one["random_policy"], one["evaluation"], one["steps"]
        training, total = one["seconds"]["training"], one["seconds"]["total"]
        lines.append(
            f"| {seed} | {random['mean']:+.1f} ± {random['std']:.1f} | {trained['mean']:+.1f} ± {trained['std']:.1f} | "
            f"{steps:,} | {steps / training:.0f} | {training:.0f} | {total:.0f} |"
        )
    random = fmean(one["random_policy"]["mean"] for one in runs)
    trained = fmean(one["evaluation"]["mean"] for one in runs)
    training = fmean(one["seconds"]["training"] for one in runs)
    total = fmean(one["seconds"]["total"] for one in runs)
    steps = fmean(one["steps"] for one in runs)
    lines.append(
        f"| mean | {random:+.1f} | {trained:+.1f} | {steps:,.0f} | {steps / training:.0f} | {training:.0f} | {total:.0f} |"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
