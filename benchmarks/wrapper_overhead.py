"""What `VecVPTLatent.step` costs beyond the environment's own time and the network's, as Markdown.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/wrapper_overhead.py --encoder random:2x --envs 64

The inner VecEnv hands out prepared frames at once; its episodes end one after the other. Two measurements, interleaved:

- inside: the same step is taken apart. Its whole time, less what the inner environment took, less what the calls of
  the stream's `step` took (on CUDA until the device is done). What is left is the wrapper's. Small differences of large times
  do not enter, so this is the figure to quote.
- outside: whole steps of the wrapper in turn with steps of the inner environment and of the stream alone, and the difference
  of the medians. It holds the network's own ups and downs, and is a check on the other.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import numpy as np
import torch
from prepared import PreparedVecEnv
from shared import encoder_words, facts, folder, load, machine_words, markdown, parser, save

from vpt_gym.bench.pictures import Pictures
from vpt_gym.encoders.protocol import Encoder
from vpt_gym.sb3 import VecVPTLatent

WARM_UP = 5


class Stopwatch:
    """Adds up the time of the calls of a function that it stands in front of."""

    def __init__(self, device: torch.device) -> None:
        self.seconds = 0.0
        self._device = device

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = function(*args, **kwargs)
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self.seconds += time.perf_counter() - start
            return result

        return timed


@contextmanager
def timed_calls(owner: type, name: str, watch: Stopwatch) -> Iterator[None]:
    """Inside, calls of a method are timed."""
    original = getattr(owner, name)
    setattr(owner, name, watch.around(original))
    try:
        yield
    finally:
        setattr(owner, name, original)


def main() -> None:
    options = parser("wrapper_overhead", __doc__, encoder=True)
    options.add_argument("--envs", type=int, default=64, help="environments (default: 64)")
    options.add_argument("--steps", type=int, default=100, help="measured steps of each kind (default: 100)")
    options.add_argument("--episode", type=int, default=200, help="steps of an episode (default: 200)")
    arguments = options.parse_args()
    out = folder("wrapper_overhead", arguments.out)
    encoder, pictures = load(arguments)
    seconds, shares = measure(encoder, pictures, arguments.envs, arguments.steps, arguments.episode)
    middle = {name: median(times) for name, times in seconds.items()}
    outside = middle["whole"] / (middle["environment"] + middle["network"]) - 1
    record = facts(encoder.device, arguments)
    record |= {"seconds": seconds, "inside_shares": shares, "inside": median(shares), "outside": outside}
    rows = [["Environments", "Step, ms", "Inner environment, ms", "Network, ms", "Overhead inside", "outside"]]
    times = [f"{1000 * middle[name]:.2f}" for name in ("whole", "environment", "network")]
    rows.append([str(arguments.envs), *times, f"{median(shares):.2%}", f"{outside:+.2%}"])
    print(f"{encoder_words(encoder)}; medians of {arguments.steps} steps. {machine_words(record)}\n")
    print(markdown(rows))
    save(out, "wrapper_overhead", record)


def measure(
    encoder: Encoder, pictures: Pictures, envs: int, steps: int, episode: int
) -> tuple[dict[str, list[float]], list[float]]:
    """Seconds of every step of each kind, and the wrapper's share of every step that was taken apart."""
    venv = VecVPTLatent(PreparedVecEnv(envs, pictures, episode=episode), encoder)
    venv.reset()
    alone, stream = PreparedVecEnv(envs, pictures), encoder.stream(envs)
    actions, first, frames = np.zeros(envs, np.int64), np.zeros(envs, np.bool_), alone.reset()
    of_env, of_network = Stopwatch(encoder.device), Stopwatch(encoder.device)

    def taken_apart() -> None:
        of_env.seconds = of_network.seconds = 0.0
        with timed_calls(PreparedVecEnv, "step_wait", of_env), timed_calls(type(stream), "step", of_network):
            venv.step(actions)

    kinds: dict[str, Callable[[], object]] = {
        "inside": taken_apart,
        "whole": lambda: venv.step(actions),
        "environment": lambda: alone.step(actions),
        "network": lambda: stream.step(frames, first).cpu().numpy(),
    }
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    shares: list[float] = []
    for number in range(-WARM_UP, steps):
        for name, step in kinds.items():
            start = time.perf_counter()
            step()
            total = time.perf_counter() - start
            if number >= 0:
                seconds[name].append(total)
        if number >= 0:
            used = of_env.seconds + of_network.seconds
            shares.append((seconds["inside"][-1] - used) / used)
        if number % 10 == 0:
            print(f"step {number} of {steps}", file=sys.stderr)
    return seconds, shares


if __name__ == "__main__":
    main()
