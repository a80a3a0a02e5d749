"""benchmarks/: what maintainers run for the figures of the docs."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import gymnasium as gym
import numpy as np
import pytest
import torch

from tests.support.network import encoder_of, random_net
from vpt_gym.bench.pictures import Pictures
from vpt_gym.sb3 import VecVPTLatent

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if "def main()" in path.read_text("utf-8"))
NOISE = Pictures(tuple(np.random.default_rng(0).integers(0, 256, (2, 9, 128, 128, 3), dtype=np.uint8)), "x")

pytestmark = pytest.mark.skipif(not SCRIPTS, reason="benchmarks/ is in the repository alone")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module(request.param)


def test_every_script_starts() -> None:
    """In one process, because each of them waits for torch."""
    code = (
        "import contextlib, io, runpy, sys\n"
        "for name in sys.argv[1:]:\n"
        "    sys.argv, told = [name, '--help'], io.StringIO()\n"
        "    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):\n"
        "        runpy.run_path(f'benchmarks/{name}.py', run_name='__main__')\n"
        "    print(name, 'usage:' in told.getvalue())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, 'benchmarks')\n{code}", *SCRIPTS],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.splitlines() == [f"{name} True" for name in SCRIPTS]


@pytest.mark.parametrize("script", ["ppo_iteration"], indirect=True)
def test_the_extractor_gives_the_latent_of_each_frame_alone(script: ModuleType) -> None:
    encoder = encoder_of(random_net())
    extractor = script.ExtractorOfFrames(gym.spaces.Box(0, 255, (3, 128, 128), np.uint8), encoder)
    frames = NOISE.frames(2, 3)
    wanted = encoder.encode(frames[:, None])[:, 0]
    as_sb3_hands_over = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    for _ in range(2):
        assert torch.allclose(extractor(as_sb3_hands_over), wanted, atol=1e-5)


@pytest.mark.parametrize("script", ["ppo_iteration"], indirect=True)
def test_a_ppo_iteration_of_each_way_and_the_real_buffers(script: ModuleType) -> None:
    found = script.compare_iterations(encoder_of(random_net()), NOISE, 2)
    assert [one["way"] for one in found["iterations"]] == ["latents", "extractor", "latents"]
    for one in found["iterations"]:
        assert one["seconds"] == pytest.approx(one["rollout_seconds"] + one["optimisation_seconds"])
    assert found["minibatch"] == 16
    assert found["buffer_bytes"]["latents"]["observations"] == 2 * 8 * 64 * 4
    # SB3 keeps the observation's dtype from 2.7.1 on, and makes float32 of it before.
    assert found["buffer_bytes"]["extractor"]["observations"] in {2 * 8 * 49152, 2 * 8 * 49152 * 4}
    assert found["observations_smaller"] in {192.0, 768.0}


@pytest.mark.parametrize("script", ["scaling"], indirect=True)
def test_batches_and_an_episode_are_measured(script: ModuleType) -> None:
    encoder = encoder_of(random_net())
    found = script.against_batch(encoder, NOISE, (1, 2), 0.001, 2)
    assert [(one["batch"], len(one["sweep_medians"])) for one in found] == [(1, 2), (2, 2)]
    seconds = script.along_episode(encoder, NOISE, 11)
    assert {name: len(times) for name, times in seconds.items()} == {"old": 11, "young": 3}


@pytest.mark.parametrize("script", ["wrapper_overhead"], indirect=True)
def test_the_wrapper_is_measured_inside_and_outside(script: ModuleType) -> None:
    seconds, shares = script.measure(encoder_of(random_net()), NOISE, 2, 3, 2)
    assert {name: len(times) for name, times in seconds.items()} == dict.fromkeys(seconds, 3)
    assert len(shares) == 3


@pytest.mark.parametrize("script", ["prepared"], indirect=True)
def test_prepared_environments_end_one_after_the_other(script: ModuleType) -> None:
    venv = VecVPTLatent(script.PreparedVecEnv(4, NOISE, episode=8), encoder_of(random_net()))
    venv.reset()
    ends = []
    for _ in range(16):
        latents, rewards, dones, infos = venv.step(np.zeros(4, np.int64))
        assert latents.shape == (4, 64)
        assert rewards.shape == (4,)
        ends.append(np.flatnonzero(dones).tolist())
        assert all(infos[row]["terminal_observation"].shape == (64,) for row in ends[-1])
    assert ends[:8] == [[], [3], [], [2], [], [1], [], [0]]
    assert ends[8:] == ends[:8]


@pytest.mark.parametrize("script", ["shared"], indirect=True)
def test_a_markdown_table(script: ModuleType) -> None:
    table = script.markdown([["what", "ms"], ["a step ", " 12"]], left=(0,))
    assert table == "| what | ms |\n| :--- | ---: |\n| a step | 12 |"
