"""The single wrapper in worker processes, forked from a process in which torch has computed with several threads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from vpt_gym.encoders import forked
from vpt_gym.errors import VPTGymError

FORKED = """
import sys
import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.vec_env import SubprocVecEnv
import vpt_gym
from tests.support.scripted import ScriptedEnv

torch.set_num_threads(2)
encoder = vpt_gym.load_encoder("random:tiny", backend="plain")
frames = np.zeros((4, 64, 64, 3), np.uint8)
encoder.stream(4).step(frames, [True] * 4)  # OpenMP has its threads now
wrapped = lambda: vpt_gym.VPTLatentObservation(ScriptedEnv(), encoder)
wanted = wrapped().reset()[0]
if sys.argv[1] == "async":
    envs = gym.vector.AsyncVectorEnv([wrapped] * 2, context="fork")
    found = envs.reset()[0]
    envs.step(np.zeros(2, np.int64))
else:
    envs = SubprocVecEnv([wrapped] * 2, start_method="fork")
    found = envs.reset()
    envs.step(np.zeros(2, np.int64))
envs.close()
assert np.abs(found - wanted).max() < 1e-4
assert torch.get_num_threads() == 2, "the parent keeps its threads"
print("went through")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("kind", ["async", "subproc"])
def test_forked_workers_do_not_hang(kind: str) -> None:
    # A process of its own: this one's threads are none of the test's business. It hangs for ever where the fault is back.
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-W", "ignore", "-c", FORKED, kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.stdout.strip() == "went through", done.stderr


def test_a_gpu_that_a_fork_lost_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    forked.refuse_lost_cuda(torch.device("cuda", 0))
    monkeypatch.setattr(forked._FORK, "lost_cuda", True)
    forked.refuse_lost_cuda(torch.device("cpu"))
    with pytest.raises(
        VPTGymError, match=r"on cuda:0 here: this process was forked .* around the vector environment.*spawn"
    ):
        forked.refuse_lost_cuda(torch.device("cuda", 0))
