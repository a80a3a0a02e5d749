"""Loads thousands of damaged and hostile checkpoints, of every kind of file, and counts how that ends.

Each mutation follows from the seed and its number: `--only 1234` does that one again, and says what came. A load may end in a
WeightsError or in a network. The network must be the one that an independent reader (the safetensors library, or torch.load)
finds in the same files, or, where that refuses them, the one that was written. The table counts processes that died or
raised anything else, loads that took more than ten seconds or a gigabyte, and networks that are another.
"""

from __future__ import annotations

import json
import multiprocessing
import pickle
import random
import resource
import shutil
import sys
import tempfile
import time
import types
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import attack_files
import torch
from safetensors.torch import load_file
from shared import facts, folder, markdown, parser, save

from vpt_gym.errors import VPTGymError, WeightsError
from vpt_gym.weights import load_checkpoint, load_heads, resolve, table

SECONDS = 10.0
"""More than a load may take."""
READER_SECONDS = 60.0
GIGABYTE = 2**30
REFUSED, LOADED, WRONG, RAISED, LARGE, HUNG, DIED = (
    "refused",
    "loaded",
    "wrong",
    "raised",
    "above 1 GB",
    "hung",
    "died",
)
BAD = (WRONG, RAISED, LARGE, HUNG, DIED)


class Ending(NamedTuple):
    """How one mutation ended."""

    number: int
    container: str
    word: str
    detail: str


def main() -> None:
    options = parser("attack", __doc__)
    options.add_argument("--mutations", type=int, default=10_000, help="how many (default: %(default)s)")
    options.add_argument("--seed", type=int, default=0, help="what they follow from (default: %(default)s)")
    options.add_argument("--workers", type=int, default=2, help="processes that load (default: %(default)s)")
    options.add_argument("--only", type=int, help="the number of one mutation, to do again and be told what came")
    arguments = options.parse_args()
    out = folder("attack", arguments.out)
    numbers = range(arguments.mutations) if arguments.only is None else [arguments.only]
    endings = []
    for ending in attack(numbers, arguments.seed, arguments.workers):
        endings.append(ending)
        if ending.word in BAD or arguments.only is not None:
            print(f"{ending.number} ({ending.container}) {ending.word}: {ending.detail}")
        if len(endings) % 500 == 0:
            print(f"{len(endings)} of {len(numbers)}", file=sys.stderr)
    print(counts(endings))
    record = facts(torch.device("cpu"), arguments)
    save(out, "attack", record | {"endings": [ending._asdict() for ending in endings]})
    if any(ending.word in BAD for ending in endings):
        sys.exit(1)


def counts(endings: Iterable[Ending]) -> str:
    """The table: a line for each container, and one for all of them."""
    found = Counter((ending.container, ending.word) for ending in endings)
    words = (REFUSED, LOADED, *BAD)
    rows = [["Container", *words]]
    for container in attack_files.CONTAINERS:
        rows.append([container, *(str(found[container, word]) for word in words)])
    rows.append(
        ["all", *(str(sum(count for (_, one), count in found.items() if one == word)) for word in words)],
    )
    return markdown(rows, left=(0,))


def attack(numbers: Iterable[int], seed: int, workers: int) -> Iterator[Ending]:
    """Do the mutations of these numbers, in processes that live as long as nothing goes wrong in them."""
    waiting = iter(numbers)
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place, "whole")
        attack_files.write(whole)
        crew = [Worker(Path(place, str(index)), whole, seed) for index in range(workers)]
        try:
            while True:
                for worker in crew:
                    if worker.number is None and (number := next(waiting, None)) is not None:
                        worker.start(number)
                busy = [worker for worker in crew if worker.number is not None]
                if not busy:
                    return
                left = max(0.0, min(worker.deadline for worker in busy) - time.monotonic())
                ready = wait([worker.pipe for worker in busy], left)
                for worker in busy:
                    if worker.pipe in ready:
                        yield from worker.heard()
                    elif time.monotonic() > worker.deadline and not worker.pipe.poll():
                        yield worker.given_up()
        finally:
            for worker in crew:
                worker.stop()


class Worker:
    """A process that loads one mutation after the other, and is started anew when it dies or hangs."""

    def __init__(self, place: Path, whole: Path, seed: int) -> None:
        self._arguments = place, whole, seed
        self.number: int | None = None
        self.deadline = 0.0
        self._begin()

    def _begin(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, *self._arguments), daemon=True)
        self._process.start()
        theirs.close()
        self.pipe.recv()  # it has imported what it needs

    def start(self, number: int) -> None:
        self.number, self.deadline = number, time.monotonic() + READER_SECONDS
        self.pipe.send(number)

    def heard(self) -> Iterator[Ending]:
        """Take what the process says: that it begins to load, that it is done with that, or how it ended."""
        try:
            said = self.pipe.recv()
        except EOFError:
            self._process.join()
            yield self._ended(DIED, f"exit code {self._process.exitcode}")
            self._begin()
            return
        if isinstance(said, float):
            self.deadline = time.monotonic() + said
        else:
            yield self._ended(*said)

    def given_up(self) -> Ending:
        self.stop()
        ending = self._ended(HUNG, f"more than {SECONDS:g} seconds")
        self._begin()
        return ending

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self.pipe.close()

    def _ended(self, word: str, detail: str) -> Ending:
        assert self.number is not None
        number, self.number = self.number, None
        return Ending(number, container_of(number), word, detail)


def container_of(number: int) -> str:
    return attack_files.CONTAINERS[number % len(attack_files.CONTAINERS)]


def serve(pipe: Connection, place: Path, whole: Path, seed: int) -> None:
    """What a worker does until it is stopped."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # zipfile's and torch's, about what is done to the files on purpose
    size = status("VmSize") + 4 * GIGABYTE
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    pipe.send("ready")
    while True:
        number = pipe.recv()
        shutil.rmtree(place, ignore_errors=True)
        container = container_of(number)
        told = attack_files.damage(whole, container, place, random.Random(f"{seed} {number}"))
        pipe.send(SECONDS)
        word, detail = load(pipe, place, container)
        pipe.send((word, f"{told}: {detail}"))


def load(pipe: Connection, place: Path, container: str) -> tuple[str, str]:
    """How loading the container ends, in a word and a sentence."""
    source = attack_files.source_of(place, container)
    before = status("VmRSS")
    # Linux counts the highest use anew from here.
    Path("/proc/self/clear_refs").write_text("5")
    heads: dict[str, torch.Tensor] = {}
    try:
        resolved = resolve(source)
        checkpoint = load_checkpoint(resolved)
        try:
            heads = load_heads(resolved, checkpoint.config.hidden_size).state_dict()
        except WeightsError as error:
            said = f"the heads: {error}"
        else:
            said = "whole"
    except VPTGymError as error:
        return (LARGE if used(before) else REFUSED), str(error)
    except Exception as error:  # noqa: BLE001 - whatever else comes is what is looked for
        return RAISED, f"{type(error).__name__}: {str(error)[:300]}"
    if used(before):
        return LARGE, said
    pipe.send(READER_SECONDS)
    found = {spec.vpt_name: checkpoint.tensors[spec.parameter] for spec in table(checkpoint.config)} | heads
    wanted = attack_files.tensors()
    other = read_independently(place, container)
    # Where torch is misled (by a directory that its records' own heads contradict), what was written is what counts.
    differs = [
        name for name, tensor in found.items() if not (same(tensor, other.get(name)) or same(tensor, wanted.get(name)))
    ]
    if differs:
        return WRONG, f"{len(differs)} tensors, such as {differs[0]}"
    return LOADED, said


def same(tensor: torch.Tensor, other: torch.Tensor | None) -> bool:
    return other is not None and torch.equal(tensor, other.to(torch.float32))


def used(before: int) -> bool:
    """Whether more than a gigabyte was in use at any time since."""
    return status("VmHWM") - before > GIGABYTE


def status(field: str) -> int:
    """A figure of this process in bytes, as Linux keeps it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def read_independently(place: Path, container: str) -> dict[str, torch.Tensor]:
    """What other software reads in the files; nothing where it refuses them."""
    try:
        if container == "sharded":
            index = json.loads((place / "model.safetensors.index.json").read_text())
            parts = {part: load_file(place / part) for part in set(index["weight_map"].values())}
            return {name: parts[part][name] for name, part in index["weight_map"].items()}
        if container in ("safetensors", "config"):
            name = "x.safetensors" if container == "safetensors" else "model.safetensors"
            return load_file(place / name)
        content = read_by_torch(attack_files.source_of(place, container))
        state = content["state_dict"] if container == "ckpt" else content
        return {
            str(name).removeprefix("mine_policy."): value for name, value in state.items() if torch.is_tensor(value)
        }
    except Exception:  # noqa: BLE001 - it refuses in as many ways as there are
        return {}


class KnownUnpickler(pickle._Unpickler):
    """Python's own machine, which knows every opcode, kept to torch's names; the one in Python, whose memo is no array.

    Bombs that blow up the one in C do it no harm, so that what stands behind them is compared too.
    """

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch._utils", "torch.storage") or (module, name) == ("collections", "OrderedDict"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name}")


def read_by_torch(source: str) -> Any:
    """By torch.load; with Python's unpickler where torch's own, which knows few opcodes, refuses the file."""
    known = types.SimpleNamespace(
        __name__="known", Unpickler=KnownUnpickler, load=lambda file, **options: KnownUnpickler(file, **options).load()
    )
    try:
        return torch.load(source, map_location="cpu", weights_only=True, mmap=False)
    except Exception:  # noqa: BLE001 - it refuses in as many ways as there are
        return torch.load(source, map_location="cpu", weights_only=False, mmap=False, pickle_module=known)


if __name__ == "__main__":
    main()
