"""Runs Gymnasium's own tests of wrappers and vector environments, and SB3's of VecEnvs, bare and with our wrappers around.

    python benchmarks/foreign_tests.py --gymnasium SOURCES --sb3 SOURCES

SOURCES are the packages' source trees, of the versions that are installed (tests/ is part of SB3's source distribution, and of
Gymnasium's repository). Around every environment that they make stand three wrappers: one that draws a picture of each
observation, the one that is tried, which encodes the picture and keeps the observation, and one that hands out the observation
alone. A test that passes bare and fails so is one that our wrapper changed something for, and is named with its error, or with
the reason why it cannot hold of observations that are others.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import VectorWrapper
from gymnasium.vector.utils import batch_space
from stable_baselines3.common.vec_env import VecEnvWrapper

import vpt_gym
import vpt_gym.sb3

ROOT = Path(__file__).parents[1]
SHAPE = (24, 32, 3)
PICTURE = gym.spaces.Box(0, 255, SHAPE, np.uint8)


EXPLAINED = {
    "test_partial_reset_failure": "a mask that is none is refused by our wrapper, before Gymnasium's words are reached",
    "test_async_vector_subenv_error": "a step before any reset that succeeded is refused by our wrapper: ResetNeeded",
    "test_framestack_vecenv": "it steps before any reset: ResetNeeded",
}
"""What a test's id holds, and why such a test cannot pass with a wrapper around."""


def drawn(observation: Any) -> np.ndarray:
    """A picture that depends on every byte of an observation, which may be a graph or a sequence too."""
    data = np.frombuffer(pickle.dumps(observation), np.uint8)
    return np.resize(data, SHAPE) ^ np.arange(np.prod(SHAPE), dtype=np.uint64).astype(np.uint8).reshape(SHAPE)


def both(observation: Any) -> dict[str, Any]:
    return {"picture": drawn(observation), "original": observation}


def all_of_both(observations: Any) -> dict[str, Any]:
    return {"picture": np.stack([drawn(row) for row in observations]), "original": observations}


def space_of_both(space: gym.Space[Any]) -> gym.spaces.Dict:
    return gym.spaces.Dict(picture=PICTURE, original=space)


class Draws(gym.ObservationWrapper):
    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.observation_space = space_of_both(env.observation_space)

    def observation(self, observation: Any) -> Any:
        return both(observation)


class Hands(gym.ObservationWrapper):
    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.observation_space = env.observation_space["original"]

    def observation(self, observation: Any) -> Any:
        return observation["original"]


class OnRows(VectorWrapper):
    """Maps observations, and last observations in infos, of a vector environment."""

    def __init__(self, env: Any, space: gym.Space[Any], batched: gym.Space[Any], batch: Any, one: Any) -> None:
        super().__init__(env)
        self.single_observation_space, self.observation_space = space, batched
        self._batch, self._one = batch, one

    def __getattr__(self, name: str) -> Any:
        """`call`, `set_attr`, `envs`: Gymnasium's VectorWrapper hands none of them on, and its tests ask what they made."""
        if name.startswith("__") or name == "env":
            raise AttributeError(name)
        return getattr(self.env.unwrapped, name)

    def reset(self, **options: Any) -> Any:
        observations, infos = self.env.reset(**options)
        return self._batch(observations), infos

    def step(self, actions: Any) -> Any:
        observations, *rest, infos = self.env.step(actions)
        if "final_obs" in infos:
            last = np.full(self.num_envs, None, dtype=object)
            for row, observation in enumerate(infos["final_obs"]):
                last[row] = None if observation is None else self._one(observation)
            infos = {**infos, "final_obs": last}
        return self._batch(observations), *rest, infos


class OnVecEnv(VecEnvWrapper):
    """The same for SB3."""

    def __init__(self, venv: Any, space: gym.Space[Any], batch: Any, one: Any) -> None:
        super().__init__(venv, observation_space=space)
        self._batch, self._one = batch, one

    def reset(self) -> Any:
        observations = self.venv.reset()
        self.reset_infos = self.venv.reset_infos
        return self._batch(observations)

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        self.reset_infos = self.venv.reset_infos
        infos = [
            {**info, "terminal_observation": self._one(info["terminal_observation"])}
            if "terminal_observation" in info
            else info
            for info in infos
        ]
        return self._batch(observations), rewards, dones, infos


def original(observation: Any) -> Any:
    return observation["original"]


def around(env: Any, encoder: Any) -> Any:
    """Our wrapper around an environment of any of the three kinds; nested observations cannot be kept and stay bare."""
    space = getattr(env, "single_observation_space", None) or env.observation_space
    if isinstance(space, (gym.spaces.Dict, gym.spaces.Tuple)):
        return env
    options: dict[str, Any] = {"image_key": "picture", "keep": ("original",)}
    if isinstance(env, gym.vector.VectorEnv):
        of_both = gym.spaces.Dict(picture=batch_space(PICTURE, env.num_envs), original=env.observation_space)
        inside = OnRows(env, space_of_both(space), of_both, all_of_both, both)
        latents = vpt_gym.vector.VPTLatentObservation(inside, encoder, **options)
        return OnRows(latents, space, latents.observation_space["original"], original, original)
    if isinstance(env, gym.Env):
        return Hands(vpt_gym.VPTLatentObservation(Draws(env), encoder, **options))
    inside = OnVecEnv(env, space_of_both(space), all_of_both, both)
    return OnVecEnv(vpt_gym.sb3.VecVPTLatent(inside, encoder, **options), space, original, original)


def put_around(module: Any, name: str, encoder: Any) -> None:
    """What a module calls `name`, a class or a function, gives wrapped environments from now on."""
    makes = getattr(module, name)
    if not isinstance(makes, type):
        setattr(module, name, lambda *args, **kwargs: around(makes(*args, **kwargs), encoder))
        return

    class Meta(type(makes)):  # type: ignore[misc]
        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            return around(makes(*args, **kwargs), encoder)

        def __instancecheck__(cls, instance: Any) -> bool:
            return isinstance(getattr(instance, "unwrapped", instance), makes)

    setattr(module, name, Meta(name, (makes,), {}))


class Outcomes:
    """What became of every test."""

    def __init__(self) -> None:
        self.of: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            words = report.longrepr.reprcrash.message if hasattr(report.longrepr, "reprcrash") else ""
            self.of[report.nodeid] = " ".join([report.outcome, words.partition("\n")[0][:160]]).strip()


def inside(wrapped: bool, tests: list[str], result: Path) -> None:
    """The run itself, in a process whose working directory is the source tree."""
    if wrapped:
        encoder = vpt_gym.load_encoder("random:tiny", backend="plain")
        for place in ("gymnasium.make", "gymnasium.vector.SyncVectorEnv", "gymnasium.vector.AsyncVectorEnv"):
            module, _, name = place.rpartition(".")
            put_around(importlib.import_module(module), name, encoder)
        for name in ("DummyVecEnv", "SubprocVecEnv"):
            put_around(importlib.import_module("stable_baselines3.common.vec_env"), name, encoder)
    outcomes = Outcomes()
    # Native tracebacks: what recurses too deep cannot be shown with its source.
    shown = ["-q", "-p", "no:cacheprovider", "-o", "addopts=", "--tb=native"]
    options = [*shown, "--timeout=60", "--continue-on-collection-errors"]
    pytest.main([*options, *tests], plugins=[outcomes])
    result.write_text(json.dumps(outcomes.of), "utf-8")


def run(sources: Path, tests: list[str], *, wrapped: bool, result: Path) -> dict[str, str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(sources), str(ROOT)]), "SDL_VIDEODRIVER": "dummy"}
    command = [sys.executable, __file__, "--result", str(result), *(["--wrapped"] if wrapped else []), *tests]
    subprocess.run(command, cwd=sources, env=environment, stdout=subprocess.DEVNULL, check=False)
    outcomes: dict[str, str] = json.loads(result.read_text("utf-8"))
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gymnasium", type=Path, help="source tree of Gymnasium")
    parser.add_argument("--sb3", type=Path, help="source tree of Stable-Baselines3")
    parser.add_argument("--result", type=Path, default=Path("foreign_tests.json"), help="a file for the outcomes")
    parser.add_argument("--wrapped", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("tests", nargs="*", help="files of the source tree, instead of all that are meant")
    options = parser.parse_args()
    suites = [(options.gymnasium, ["tests/wrappers", "tests/vector"]), (options.sb3, ["tests/test_vec_envs.py"])]
    if not any(sources for sources, _ in suites):
        inside(options.wrapped, options.tests, options.result)
        return
    for sources, meant in suites:
        if sources is None:
            continue
        tests = options.tests or meant
        result = options.result.resolve()
        bare, ours = (run(sources.resolve(), tests, wrapped=wrapped, result=result) for wrapped in (False, True))
        show(sources.name, bare, ours)


def show(suite: str, bare: dict[str, str], ours: dict[str, str]) -> None:
    """The table of one suite, and below it every test that only our wrapper changes."""
    passed = [test for test, outcome in bare.items() if outcome == "passed"]
    changed = {test: ours.get(test, "not run") for test in passed if ours.get(test) != "passed"}
    reasons = {test: next((why for part, why in EXPLAINED.items() if part in test), None) for test in changed}
    explained = sum(reason is not None for reason in reasons.values())
    heads = ("suite", "tests", "passed bare", "passed wrapped", "explained", "not explained")
    row = (suite, len(bare), len(passed), len(passed) - len(changed), explained, len(changed) - explained)
    print("  ".join(heads))
    print("  ".join(f"{value!s:<{len(head)}}" for head, value in zip(heads, row, strict=True)))
    for test, outcome in changed.items():
        print(f"  {test}: {reasons[test] or outcome}", flush=True)


if __name__ == "__main__":
    main()
