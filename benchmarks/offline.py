"""What recordings cost on this machine: encoding beside the network alone, an epoch of cloning, a search.

    python benchmarks/offline.py --encoder random:2x
    python benchmarks/offline.py --encoder random:tiny --frames 200000

Encoding is timed on MineStudio's Minecraft videos beside the same stream fed from memory, in turns. Cloning and searching use
latents at random, of the encoder's length, written as `encode` writes them without compression; memory is the peak of a process
of its own, beside what it had before the work.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import gymnasium as gym
import numpy as np
import shared

from vpt_gym.bench.pictures import read_video
from vpt_gym.encoders.protocol import Encoder
from vpt_gym.offline import LatentDataset, clone, encode, nearest
from vpt_gym.offline.plan import CloningConfig, EncodingConfig
from vpt_gym.offline.recordings import ACTED, Recording
from vpt_gym.offline.writing import PieceWriter, assemble

NAME = "offline"
EPISODE = 2000


class Made(Recording):
    """The original of latents that were drawn at random."""

    name, path = "random", Path("random")

    def digest(self) -> str:
        return "0" * 64

    def chunks(self, length: int) -> Any:
        raise NotImplementedError


def excerpt(film: Path, target: Path, frames: int) -> Path:
    """The first frames of a film, as they are compressed there."""
    import av

    with av.open(str(film)) as source, av.open(str(target), "w") as container:
        stream = source.streams.video[0]
        add: Any = getattr(container, "add_stream_from_template", container.add_stream)  # a name of PyAV 14 on
        copy = add(template=stream)
        for packet in islice((each for each in source.demux(stream) if each.size), frames):
            packet.stream = copy
            container.mux(packet)
    return target


def main() -> None:
    parser = shared.parser(NAME, __doc__, encoder=True)
    parser.add_argument("--videos", type=Path, help="folder of films (default: MineStudio's)")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--window", type=int, default=32)
    parser.add_argument("--windows", type=int, default=4, help="windows of a round of encoding")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=1_000_000, help="latents for cloning and searching")
    parser.add_argument("--part", choices=("clone", "nearest"), help=argparse.SUPPRESS)
    parser.add_argument("--dataset", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        print(json.dumps(part(arguments.part, arguments.dataset)))
        return
    encoder, _ = shared.load(arguments)
    folder = shared.folder(NAME, arguments.out)
    record: dict[str, Any] = shared.facts(encoder.device, arguments)
    scratch = Path(tempfile.mkdtemp(prefix=".offline-", dir=folder))
    try:
        record["encode"] = encoding(encoder, arguments, scratch)
        dataset = random_latents(scratch / "latents", encoder.latent_size, arguments.frames)
        for each in ("clone", "nearest"):
            command = [sys.executable, __file__, "--part", each, "--dataset", str(dataset)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            record[each] = json.loads(done.stdout.splitlines()[-1])
    finally:
        shutil.rmtree(scratch)
    rows = [["", "figure"]]
    rows += [[name, f"{value:,.2f}"] for kind in ("encode", "clone", "nearest") for name, value in record[kind].items()]
    print(shared.markdown(rows, left=(0,)))
    print(f"\n{shared.encoder_words(encoder)}. {shared.machine_words(record)}")
    shared.save(folder, NAME, record)


def encoding(encoder: Encoder, arguments: argparse.Namespace, scratch: Path) -> dict[str, float]:
    """Frames a second of `encode` on films, and of the stream alone on frames that lie in memory."""
    films = sorted(arguments.videos.rglob("*.mp4")) if arguments.videos else minecraft_videos()
    count = arguments.window * arguments.windows
    films = [excerpt(film, scratch / film.name, count) for film in films[: arguments.rows]]
    config = EncodingConfig(rows=len(films), window=arguments.window)
    frames = np.stack([read_video(film, encoder.frame_size, count) for film in films])
    first = np.zeros(frames.shape[:2], bool)
    alone, whole = [], []
    for number in range(arguments.rounds + 1):  # the first warms up
        stream = encoder.stream(len(films))
        begin = time.perf_counter()
        for start in range(0, frames.shape[1], arguments.window):
            part = slice(start, start + arguments.window)
            stream.encode(frames[:, part], first[:, part])
        alone.append(first.size / (time.perf_counter() - begin))
        result = encode(films, scratch / f"encoded-{number}", encoder, config)
        whole.append(result.frames / result.seconds)
    pace, own = median(whole[1:]), median(alone[1:])
    return {"encode, frames/s": pace, "the network alone, frames/s": own, "share of the network's own": pace / own}


def minecraft_videos() -> list[Path]:
    """The recordings in MineStudio's package, which need not be imported."""
    spec = importlib.util.find_spec("minestudio")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("MineStudio is not installed, and its videos come in its wheel: name a folder with --videos.")
    return sorted(Path(spec.submodule_search_locations[0]).glob("benchmark/auto_eval/eval_video/*/*.mp4"))


def random_latents(path: Path, size: int, frames: int) -> Path:
    """A dataset of float16 latents with one of ten actions each."""
    rng = np.random.default_rng(0)
    pieces = []
    for number in range(-(-frames // EPISODE)):
        piece = path.with_name(f"{number}.hdf5")
        writer = PieceWriter(piece, Made(), f"{number:064x}", number, dtype="float16", compression="none")
        falses = np.zeros(EPISODE, bool)
        columns = {"actions": rng.integers(0, 10, EPISODE), "rewards": np.zeros(EPISODE), ACTED: ~falses}
        columns |= {"terminations": falses, "truncations": falses}
        writer.append(rng.standard_normal((EPISODE, size), np.float32), np.arange(EPISODE) == 0, columns)
        writer.finish()
        pieces.append(piece)
    encoder = {"source": "random", "fingerprint": "0" * 64, "kind": "vpt", "options": {}}
    facts = {"format": 1, "encoder": encoder, "layers": ["final"], "latent_size": size, "dtype": "float16"}
    assemble(path, pieces, facts=facts, action_space=gym.spaces.Discrete(10), latent_size=size)
    for piece in pieces:
        piece.unlink()
    return path


def peak() -> int:
    """The most memory that this process has held, in KB; `resource` would begin with what the parent held."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0])


def part(name: str, path: Path) -> dict[str, float]:
    """One measurement, in this process."""
    from stable_baselines3 import PPO

    from vpt_gym.latents import latent_box

    with LatentDataset(path) as dataset:
        size, frames = dataset.latent_size, dataset.frames
        if name == "clone":
            model: Any = PPO("MlpPolicy", None, _init_setup_model=False, device="cpu", policy_kwargs={"net_arch": []})
            model.observation_space, model.action_space, model.n_envs = latent_box(size), gym.spaces.Discrete(10), 1
            model._setup_model()
            before = peak()
            result = clone(model, dataset, CloningConfig(epochs=3, batch_size=4096, validation=0.0))
            # The first epoch pays for what torch imports at the first step of an optimizer.
            spent = result.epochs[-1].seconds - result.epochs[0].seconds
            found = {"clone, frames/s of an epoch": result.frames * (len(result.epochs) - 1) / spent}
        else:
            before = peak()
            begin = time.perf_counter()
            nearest(dataset, np.zeros((1, size), np.float32), 8)
            found = {"nearest, frames/s": frames / (time.perf_counter() - begin)}
    after = peak()
    return {
        **found,
        f"{name}, MB of memory": after / 1024,
        f"{name}, MB of these for the work": (after - before) / 1024,
    }


if __name__ == "__main__":
    main()
