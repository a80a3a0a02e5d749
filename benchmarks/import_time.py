"""What `import vpt_gym` costs beyond `import torch`, in fresh interpreters, as a Markdown table.

    python benchmarks/import_time.py --runs 15

Every interpreter imports torch first and then takes the time of what is asked of it; the three variants take turns. The
first round warms the file cache and is not counted. Times are medians.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import torch
from shared import facts, folder, machine_words, markdown, parser, save

ROOT = Path(__file__).parents[1]

VARIANTS = {
    "import vpt_gym": "import vpt_gym",
    "import vpt_gym; vpt_gym.load_encoder": "import vpt_gym; vpt_gym.load_encoder",
    "import vpt_gym; vpt_gym.sb3": "import vpt_gym; vpt_gym.sb3",
}

CODE = """
import time
before = time.perf_counter()
import torch
between = time.perf_counter()
{statement}
after = time.perf_counter()
print(between - before, after - between)
"""


def main() -> None:
    options = parser("import_time", __doc__)
    options.add_argument("--runs", type=int, default=15, help="interpreters for each variant (default: 15)")
    arguments = options.parse_args()
    out = folder("import_time", arguments.out)
    record = facts(torch.device("cpu"), arguments)
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    of_torch: list[float] = []
    for number in range(arguments.runs + 1):
        for name, statement in VARIANTS.items():
            torch_seconds, beyond = measure(statement)
            if number:
                of_torch.append(torch_seconds)
                seconds[name].append(beyond)
        print(f"round {number} of {arguments.runs}", file=sys.stderr)
    record |= {"torch_seconds": of_torch, "seconds": seconds}
    rows = [["Statement", "beyond import torch, s"]]
    rows += [[f"`{name}`", f"{median(times):.3f}"] for name, times in seconds.items()]
    print(
        f"Medians of {arguments.runs} fresh interpreters; `import torch` itself takes {median(of_torch):.2f} s there.\n"
    )
    print(f"{machine_words(record)}\n")
    print(markdown(rows, left=(0,)))
    save(out, "import_time", record)


def measure(statement: str) -> tuple[float, float]:
    """Seconds of `import torch`, and of the statement behind it, in an interpreter of its own."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", CODE.format(statement=statement)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    torch_seconds, beyond = map(float, done.stdout.split())
    return torch_seconds, beyond


if __name__ == "__main__":
    main()
