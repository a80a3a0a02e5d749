"""What a fleet of environments survives, and what it costs: `python benchmarks/fleet.py PART`, each part a table of its own.

faults       injected faults in a PPO run: how many are recovered, what healthy environments lose
hangs        how late a hang is found
children     what is left after close, Ctrl-C, SIGTERM and SIGKILL of the learner
restarts     descriptors, threads and memory of the learner over many restarts
throughput   steps/s beside SubprocVecEnv, with cheap environments and with slow ones
overlap      a step's time with environments of unequal speed, encoded together and as they arrive
kills        a training that is killed at random moments, saves among them, and taken up each time
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

import vpt_gym
from vpt_gym.errors import EnvironmentCrashed
from vpt_gym.rollout import RayVecEnv, WorkerVecEnv
from vpt_gym.training.checkpoints import SaveRun, newest, resume

FAULTS = ("kill", "raise", "hang", "pipe", "shape", "nan", "error", "crash")
FLEETS: dict[str, Callable[..., Any]] = {"processes": WorkerVecEnv, "ray": RayVecEnv}
PUBLISHED = (
    "For scale, published by others: ROCKET-3, 72 Minecraft instances at about 1,000 frames/s in all; a user of CraftGround,",
    "environments idle for 58.5% of the wall time while PPO updated.",
)


class Game(gym.Env[Any, Any]):
    """A grey picture that counts steps; a fault now and then, where `rate` says so; a child process, as a game would have.

    Pixels are the step's number, at most 200; noise of a wrong encoder's would not be. Faults are written down before they
    happen, in `diary`.
    """

    metadata = {"render_modes": []}  # noqa: RUF012
    render_mode = None

    def __init__(
        self,
        number: int = 0,
        seconds: float = 0.0,
        rate: float = 0.0,
        engine: bool = False,
        side: int = 128,
        diary: Path | None = None,
    ) -> None:
        self.observation_space = gym.spaces.Box(0, 255, (side, side, 3), np.uint8)
        self.action_space = gym.spaces.Discrete(2)
        self.number, self.seconds, self.rate = number, seconds, rate
        self.chance = random.Random(f"{number} {os.getpid()} {time.time()}")
        self.diary = diary
        self.engine = subprocess.Popen(["sleep", "100000"]) if engine else None
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        del options
        super().reset(seed=seed)
        self.steps = 0
        return self._frame(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        time.sleep(self.seconds)
        self.steps += 1
        fault = self.chance.choice(FAULTS) if self.chance.random() < self.rate else ""
        if fault and self.diary is not None:
            with self.diary.open("a", encoding="utf-8") as file:
                file.write(f"{fault}\n")
        self.fail(fault)
        frame = self._frame()[:3] if fault == "shape" else self._frame()
        info = {"error": "the server said no"} if fault == "error" else {}
        reward = float("nan") if fault == "nan" else float(action)
        return frame, reward, self.steps >= 200, False, info

    def play(self, seconds: float) -> float:
        """Steps/s with nobody to wait for and nobody to answer to."""
        began, steps = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            if self.step(0)[2]:
                self.reset()
            steps += 1
        return steps / (time.perf_counter() - began)

    def fail(self, fault: str) -> None:
        """Fails in that way."""
        if fault == "raise":
            raise ZeroDivisionError("injected")
        if fault == "crash":
            raise EnvironmentCrashed("injected")
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "pipe":
            os.closerange(3, 1024)
        while fault == "hang":
            time.sleep(1)

    def processes(self) -> list[int]:
        """Of this environment."""
        return [os.getpid(), *([self.engine.pid] if self.engine else [])]

    def _frame(self) -> Any:
        return np.full(self.observation_space.shape, self.steps, np.uint8)


def fleet(kind: str, games: list[dict[str, Any]], **options: Any) -> Any:
    """A VecEnv of one kind."""
    return FLEETS[kind]([partial(Game, number, **game) for number, game in enumerate(games)], **options)


class Watching(BaseCallback):
    """Counts faults, and checks that healthy environments make every step."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: dict[str, int] = {}
        self.lost = self.noise = 0
        self.expected: list[int] = []

    def _on_training_start(self) -> None:
        self.expected = [0] * self.training_env.num_envs

    def _on_step(self) -> bool:
        frames = self.locals["new_obs"][:, 0]
        for row, (info, done) in enumerate(zip(self.locals["infos"], self.locals["dones"], strict=True)):
            self.expected[row] = 0 if done else self.expected[row] + 1
            self.lost += int(frames[row] != self.expected[row])
            if "fault" in info:
                word = info["fault"].partition(":")[0][:40]
                self.faults[word] = self.faults.get(word, 0) + 1
        return True


class Counts(gym.ObservationWrapper[Any, Any, Any]):
    """The step's number instead of its picture, or -1 where the picture is none of the game's."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.observation_space = gym.spaces.Box(-1.0, 1000.0, (1,), np.float32)

    def observation(self, observation: Any) -> Any:
        """One number."""
        if observation.shape != self.env.observation_space.shape:
            return observation
        return np.array([observation[0, 0, 0] if np.ptp(observation) == 0 else -1.0], np.float32)


def faults(options: argparse.Namespace) -> None:
    """Injected faults in a PPO run."""
    count, steps = 8, options.steps
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        diary = Path(folder) / "injected"
        makers = [partial(_counted, number, rate=options.faults / steps, diary=diary) for number in range(count)]
        with closing(FLEETS[options.fleet](makers, deadline=options.deadline, max_failures=10, backoff=0.05)) as venv:
            watching = Watching()
            PPO("MlpPolicy", venv, n_steps=64, batch_size=128, n_epochs=1, device="cpu").learn(steps, callback=watching)
        injected = diary.read_text(encoding="utf-8").split()
    print(
        f"training of {steps:,} steps finished; faults injected {len(injected)}, recovered {sum(watching.faults.values())}"
    )
    print(f"steps lost by healthy environments, and frames that were no environment's: {watching.lost}")
    print("injected: ", ", ".join(f"{injected.count(fault)} {fault}" for fault in FAULTS))
    print("recovered:", ", ".join(f"{number} {word}" for word, number in sorted(watching.faults.items())))
    print(f"{time.monotonic() - began:.0f} s")


def _counted(number: int, rate: float, diary: Path) -> gym.Env[Any, Any]:
    return Counts(Game(number, rate=rate, side=16, diary=diary))


def hangs(options: argparse.Namespace) -> None:
    """How late a hang is found."""
    with closing(fleet(options.fleet, [{"rate": 0.0, "side": 16}, {"side": 16}], deadline=2.0, backoff=0.01)) as venv:
        venv.reset()
        found: list[float] = []
        noted = venv._fail

        def fail(row: int, cause: str) -> None:
            found.append(time.monotonic())
            noted(row, cause)

        venv._fail = fail
        for _ in range(options.repeats):
            venv._rows[0].failures = 0
            venv.set_attr("seconds", 1e6, indices=[0])
            began = time.monotonic()
            venv.step(np.zeros(2, int))
            print(f"deadline 2.0 s: found after {found[-1] - began:.2f} s")


LEARNER = """
import sys, time
import numpy as np
from benchmarks.fleet import fleet
if __name__ == "__main__":
    venv = fleet(sys.argv[1], [{{"engine": True}}] * 3, deadline=1e6)
    venv.reset()
    print(*sum(venv.env_method("processes"), []), flush=True)
    venv.set_attr("seconds", 1e6, indices=[0])  # one hangs
    if sys.argv[2] == "close":
        venv.step_async(np.zeros(3, int))
        venv.close()
    else:
        venv.step(np.zeros(3, int))
"""


def children(options: argparse.Namespace) -> None:
    """What is left after the learner's end."""
    bystander = subprocess.Popen(["sleep", "100000"])
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "learner.py"
        script.write_text(LEARNER.replace("{{", "{").replace("}}", "}"), encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        for way in ("close", "SIGINT", "SIGTERM", "SIGKILL"):
            command = [sys.executable, str(script), options.fleet, way]
            learner = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=environment,
                start_new_session=True,
            )
            assert learner.stdout is not None
            processes = [int(word) for word in learner.stdout.readline().split()]
            time.sleep(1)
            if way != "close":
                learner.send_signal(getattr(signal, way))
            began = time.monotonic()
            while (left := [p for p in processes if _runs(p)]) and time.monotonic() - began < 60:
                time.sleep(0.1)
            print(f"{way:8} {len(processes)} processes, {len(left)} left after {time.monotonic() - began:.1f} s")
            learner.kill()
            learner.wait()
    print(f"somebody else's process lives: {bystander.poll() is None}")
    bystander.kill()
    bystander.wait()


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def restarts(options: argparse.Namespace) -> None:
    """What many restarts cost the learner."""
    with closing(fleet(options.fleet, [{"side": 16}] * 4, backoff=0.001)) as venv:
        venv.reset()
        table = []
        for round_ in range(1 + options.restarts // 4):
            if round_ in (5, options.restarts // 4):
                table.append((venv.faults, _descriptors(), threading.active_count(), _resident() / 1e6))
            for row, processes in enumerate(venv.env_method("processes")):
                venv._rows[row].failures = 0
                if options.fleet == "processes" or row == round_ % 4:
                    os.kill(processes[0], signal.SIGKILL)
            venv.step(np.zeros(4, int))
        print("restarts  descriptors  threads  resident MB")
        for row in table:
            print("{:8d}  {:11d}  {:7d}  {:11.1f}".format(*row))


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def throughput(options: argparse.Namespace) -> None:
    """Steps/s of the kinds of VecEnvs, in turn; and of the same games in as many processes that wait for nobody."""
    kinds: dict[str, Callable[..., VecEnv]] = {"SubprocVecEnv": SubprocVecEnv, "processes": WorkerVecEnv}
    if options.fleet == "ray":
        kinds["ray"] = RayVecEnv
    print(f"{'medians':16} {'games':>5} {'ms a step':>9} {'env steps/s':>11} {'of alone':>8} {'of nominal':>10}")
    for count, seconds in ((8, 0.0), (32, 0.0), (8, 0.025), (4, 0.025)):
        rates: dict[str, list[float]] = {"alone": [], **{name: [] for name in kinds}}
        for _ in range(options.repeats):
            for name, kind in {"alone": WorkerVecEnv, **kinds}.items():
                with closing(kind([partial(Game, n, seconds=seconds) for n in range(count)])) as venv:
                    venv.reset()
                    if name == "alone":
                        rates[name].append(sum(venv.env_method("play", options.seconds)))
                    else:
                        _pace(venv, options.seconds / 5)  # the first steps find nothing in the caches
                        rates[name].append(_pace(venv, options.seconds))
        ideal = float(np.median(rates["alone"]))
        for name, found in rates.items():
            rate = float(np.median(found))
            nominal = f"{rate * seconds / count:10.1%}" if seconds else ""
            print(f"{name:16} {count:5} {seconds * 1000:9.0f} {rate:11,.0f} {rate / ideal:8.1%} {nominal}", flush=True)
    print(*PUBLISHED, sep="\n")


def _pace(venv: VecEnv, seconds: float) -> float:
    """Steps/s of all environments together."""
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        venv.step(np.zeros(venv.num_envs, int))
        steps += venv.num_envs
    return steps / (time.perf_counter() - began)


def overlap(options: argparse.Namespace) -> None:
    """Environments of unequal speed, encoded together and as they arrive."""
    encoder = vpt_gym.load_encoder(options.encoder)
    makers = [partial(Game, n, seconds=0.01 + 0.02 * n) for n in range(8)]
    for early in (False, True):
        venv = vpt_gym.sb3.VecVPTLatent(FLEETS[options.fleet](makers), encoder, overlap=early)
        with closing(venv):
            venv.reset()
            for _ in range(5):
                venv.step(np.zeros(8, int))
            began, encoding, steps = time.perf_counter(), venv.encoding_seconds, 0
            while time.perf_counter() - began < 5 * options.seconds:
                venv.step(np.zeros(8, int))
                steps += 1
            step = (time.perf_counter() - began) / steps
            share = (venv.encoding_seconds - encoding) / steps
            how = "as they arrive" if early else "together"
            print(f"{how:15} {step * 1000:6.1f} ms a step: slowest environment 150.0 ms, encoder {share * 1000:.1f} ms")


TRAINING = """
import sys
from benchmarks.fleet import build, go_on
if __name__ == "__main__":
    go_on(sys.argv[1])
"""


def build() -> PPO:
    """A small training."""
    venv = vpt_gym.sb3.VecVPTLatent(WorkerVecEnv([partial(Game, 0)]), "random:tiny", encoder_options={"layer": "cnn"})
    return PPO("MlpPolicy", venv, n_steps=16, batch_size=16, n_epochs=1, device="cpu", seed=0)


def go_on(folder: str) -> None:
    """Trains for ever, from the newest checkpoint on where there is one."""
    model = build()
    if any(Path(folder).glob("step-*")):
        resume(model, folder)
    print(model.num_timesteps, flush=True)
    model.learn(10**9, callback=SaveRun(folder, every=0.0), reset_num_timesteps=False)


def kills(options: argparse.Namespace) -> None:
    """A training that is killed at random moments."""
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "training.py"
        script.write_text(TRAINING, encoding="utf-8")
        saved = Path(folder) / "saved"
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        whole = partial_ones = last = 0
        for _ in range(options.kills):
            command = [sys.executable, str(script), str(saved)]
            training = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
            assert training.stdout is not None
            began_at = int(training.stdout.readline() or -1)
            whole += began_at >= last
            before = len(list(saved.glob("*")))
            while len(list(saved.glob("*"))) == before and before < 3:
                time.sleep(0.01)
            time.sleep(chance.random())
            training.kill()
            training.wait()
            partial_ones += any(saved.glob(".partial-*"))
            last = newest(saved)[1]["steps"]
        print(
            f"{options.kills} kills, {partial_ones} in the middle of a save; went on from a whole checkpoint {whole} times"
        )
        print(f"{last:,} steps are done")


PARTS = (faults, hangs, children, restarts, throughput, overlap, kills)


def main() -> None:
    """Runs one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[part.__name__ for part in PARTS])
    parser.add_argument(
        "--fleet", choices=list(FLEETS), default="processes", help="throughput with ray measures all three"
    )
    parser.add_argument("--steps", type=int, default=20_000, help="faults: of the training")
    parser.add_argument("--faults", type=int, default=100, help="faults: about how many")
    parser.add_argument("--deadline", type=float, default=3.0, help="faults: seconds after which a step hangs")
    parser.add_argument("--repeats", type=int, default=3, help="hangs, throughput: how often")
    parser.add_argument("--restarts", type=int, default=300, help="restarts: how many")
    parser.add_argument("--seconds", type=float, default=3.0, help="throughput, overlap: of one measurement")
    parser.add_argument("--encoder", default="random:1x", help="overlap: the encoder")
    parser.add_argument("--kills", type=int, default=50, help="kills: how many")
    parser.add_argument("--seed", type=int, default=0, help="kills: of the moments")
    options = parser.parse_args()
    next(part for part in PARTS if part.__name__ == options.part)(options)


if __name__ == "__main__":
    main()
