"""What pre-training costs on this machine: frames a second, the network's share of them, and memory.

    python benchmarks/pretraining.py
    python benchmarks/pretraining.py --cases random:1x=lora:8 --rows 2 --length 8

Every case runs in a process of its own: first the steps of the network alone, on batches that lie in memory (forward, backward,
AdamW), then `vpt_gym.offline.pretrain` whole: reading and decoding, Lightning, logs. The pace kept is the second over the
first. The time in the network is what of a step of that training goes into forward, backward and AdamW, the median step.
Memory is the peak of the process over both. Recordings are random play in ViZDoom's Basic, made anew at the size that the
network reads.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import gymnasium as gym
import shared
import torch
from offline import peak
from vizdoom import gymnasium_wrapper  # noqa: F401  registers the scenarios

from vpt_gym.encoders.loading import load_network
from vpt_gym.offline.pretraining.config import PretrainingConfig
from vpt_gym.offline.pretraining.heads import parts_of
from vpt_gym.offline.pretraining.module import Pretraining, lightning_module
from vpt_gym.offline.pretraining.objectives import make_objectives
from vpt_gym.offline.pretraining.parts import choose_parts
from vpt_gym.offline.pretraining.pieces import Loader, Pieces
from vpt_gym.offline.pretraining.policy import TrunkPolicy
from vpt_gym.offline.pretraining.run import pretrain
from vpt_gym.offline.readers.finding import find_recordings
from vpt_gym.offline.recorder import record

NAME = "pretraining"
CASES = ["random:tiny=all", "random:mini=all", "random:1x=lora:8"]
WARM = 3
"""Steps that do not count: buffers are made, code is compiled."""


class Clock:
    """An objective that asks for nothing and knows when each step was."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, *_: Any) -> dict[str, Any]:
        self.times.append(time.perf_counter())
        return {}

    def pace(self, frames: int) -> float:
        """Frames a second, by the median step."""
        times = self.times[WARM:]
        return frames / median(later - earlier for earlier, later in pairwise(times))


@contextmanager
def timed_steps() -> Iterator[list[float]]:
    """Inside, how long each step of a training is in forward, backward and the optimiser."""
    seconds: list[float] = []

    def optimizer_step(self: Any, *arguments: Any, **options: Any) -> None:
        began = time.perf_counter()
        super(Pretraining, self).optimizer_step(*arguments, **options)
        seconds.append(time.perf_counter() - began)

    Pretraining.optimizer_step = optimizer_step  # type: ignore[attr-defined]
    try:
        yield seconds
    finally:
        del Pretraining.optimizer_step  # type: ignore[attr-defined]


def play(source: str, folder: Path, frames: int) -> Path:
    """Random play at the size that the network reads."""
    return record(
        lambda: gym.make("VizdoomBasic-v1", frame_skip=4),
        lambda _: lambda env, __: env.action_space.sample(),
        folder,
        frames=frames,
        frame_size=load_network(source).config.frame_size,
        image_key="screen",
    )


def alone(config: PretrainingConfig) -> float:
    """The network's own frames a second, on batches that were read before."""
    recordings = list(find_recordings(Path(config.datasets[0]), lambda *_: None))
    net = load_network(config.source, trainable=True, device="cpu")
    assert recordings[0].action_space is not None
    policy = TrunkPolicy(net, parts_of(recordings[0].action_space), None)
    choose_parts(policy, config.train)
    pieces = Pieces(
        recordings,
        rows=config.rows,
        length=config.length,
        batches=config.steps,
        seed=0,
        frame_size=net.config.frame_size,
        keys=[],
    )
    batches = list(Loader(pieces, 0))
    clock = Clock()
    objectives = {**make_objectives(config.objective, policy, pieces[0]), "clock": clock}
    module = lightning_module(
        policy,
        objectives,
        {"training": pieces},
        steps=config.steps,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warm_up=config.warm_up,
    )
    optimizer = module.configure_optimizers()["optimizer"]
    trained = [p for p in module.parameters() if p.requires_grad]
    for index, batch in enumerate(batches):
        loss, _ = module._run(batch, index, "training")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, config.clip)
        optimizer.step()
    return clock.pace(config.rows * config.length)


def case(name: str, arguments: Any) -> dict[str, float]:
    """One network and what of it is trained, in this process."""
    source, train = name.split("=")
    frames = arguments.rows * arguments.length
    with tempfile.TemporaryDirectory(dir=arguments.out) as place:
        plays = play(source, Path(place, "plays"), min(20_000, arguments.steps * frames))
        config = PretrainingConfig(
            datasets=(str(plays),),
            out=Path(place, "encoder"),
            source=source,
            train=train,
            steps=arguments.steps,
            rows=arguments.rows,
            length=arguments.length,
            validation=0.0,
            device="cpu",
        )
        own, clock = alone(config), Clock()
        with timed_steps() as seconds:
            pretrain(config, {"clock": clock})
        whole = clock.pace(frames)
    return {
        "frames/s": whole,
        "the network alone, frames/s": own,
        "pace kept": whole / own,
        "time in the network": median(seconds[WARM:]) * whole / frames,
        "peak of memory, GB": peak() / 2**20,
    }


def main() -> None:
    parser = shared.parser(NAME, __doc__)
    parser.add_argument("--cases", nargs="+", default=CASES, metavar="SOURCE=TRAIN")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=16)
    parser.add_argument("--part", help="one case, in this process")
    arguments = parser.parse_args()
    if arguments.steps < WARM + 2:
        parser.error(f"--steps must be {WARM + 2} or more: the first {WARM} are not counted")
    if arguments.part:
        print(json.dumps(case(arguments.part, arguments)))
        return
    out = shared.folder(NAME, arguments.out)
    scratch = Path(tempfile.mkdtemp(prefix=".pretraining-", dir=out))
    found = shared.facts(torch.device("cpu"), arguments)
    rows = []
    try:
        for name in arguments.cases:
            command = [sys.executable, __file__, "--part", name, "--out", str(scratch)]
            for option in ("steps", "rows", "length"):
                command += [f"--{option}", str(getattr(arguments, option))]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[name] = json.loads(done.stdout.splitlines()[-1])
            rows = rows or [["network = trained", *found[name]]]
            rows.append([name, *(f"{value:,.2f}" for value in found[name].values())])
    finally:
        shutil.rmtree(scratch)
    print(shared.markdown(rows, left=(0,)))
    print(f"\nBatches of {arguments.rows} rows of {arguments.length} frames. {shared.machine_words(found)}")
    shared.save(out, NAME, found)


if __name__ == "__main__":
    main()
