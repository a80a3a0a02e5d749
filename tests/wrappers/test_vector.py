"""The vector wrapper against single environments: every latent of every row, in all three autoreset modes."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

import vpt_gym
from tests.support.network import encoder_of, random_net
from tests.support.scripted import LENGTHS, ScriptedEnv, quick_encoder, scripted
from vpt_gym.encoders.vpt import VPTEncoder
from vpt_gym.errors import ObservationError, ResetNeeded

STEPS = 340
"""Every environment goes once through all lengths of its script, which are 322 steps together."""
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def encoder() -> VPTEncoder:
    return quick_encoder(blocks=2)


@cache
def alone(identity: int, kind: str, steps: int) -> np.ndarray:
    """Latents of the frames that so many steps can show of one environment, by frame number, from the single wrapper."""
    encoder = quick_encoder(blocks=2) if kind == "quick" else encoder_of(random_net())
    env = vpt_gym.VPTLatentObservation(ScriptedEnv(identity), encoder)
    latents = [env.reset()[0]]
    # A step shows two frames where it ends an episode.
    while len(latents) < min(2 * steps + 2, STEPS + 2 * len(LENGTHS)):
        latent, _, terminated, truncated, info = env.step(0)
        latents.append(latent)
        if terminated or truncated:
            latents.append(env.reset()[0])
            info = {"frame": env.unwrapped.frame}  # type: ignore[attr-defined]
        assert info["frame"] == len(latents) - 1
    return np.stack(latents)


def play(count: int, mode: AutoresetMode, encoder: VPTEncoder, kind: str, steps: int = STEPS) -> dict[str, int]:
    """Steps `count` environments and compares every latent with what its frame gives alone; hands back what it counted."""
    inner = SyncVectorEnv([scripted(i) for i in range(count)], autoreset_mode=mode)
    envs = vpt_gym.vector.VPTLatentObservation(inner, encoder)
    counted = {"compared": 0, "final": 0, "one-step episodes": 0}
    latents, infos = envs.reset()
    frames = infos["frame"].copy()
    assert (frames == 0).all()
    for _ in range(steps):
        expected = np.stack([alone(row, kind, steps)[frames[row]] for row in range(count)])
        difference = np.abs(latents - expected).max(axis=1)
        assert (difference <= TOLERANCE).all(), (frames, difference)
        counted["compared"] += count
        assert latents.dtype == np.float32
        assert latents.shape == (count, encoder.latent_size)
        assert envs.observation_space.contains(latents)
        latents, _, terminations, truncations, infos = envs.step(np.zeros(count, np.int64))
        done = terminations | truncations
        if mode is AutoresetMode.SAME_STEP:
            final = infos.get("_final_obs", np.zeros(count, np.bool_))
            assert (final == done).all(), "missing, or present where none belongs"
            for row in range(count):
                if not done[row]:
                    assert "final_obs" not in infos or infos["final_obs"][row] is None
                    continue
                # The opening frame took the next number, so the episode's last one is the number before it.
                expected = alone(row, kind, steps)[infos["frame"][row] - 1]
                assert np.abs(infos["final_obs"][row] - expected).max() <= TOLERANCE
                counted["final"] += 1
                counted["one-step episodes"] += int(infos["final_info"]["age"][row] == 1)
        elif mode is AutoresetMode.DISABLED and done.any():
            assert all(
                np.abs(latents[row] - alone(row, kind, steps)[infos["frame"][row]]).max() <= TOLERANCE
                for row in np.flatnonzero(done)
            )
            counted["final"] += int(done.sum())
            mask = done.copy()
            latents, reset_infos = envs.reset(options={"reset_mask": mask})
            infos["frame"][mask] = reset_infos["frame"][mask]
        frames = infos["frame"].copy()
    return counted


@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_batched_equals_single(mode: AutoresetMode, count: int, encoder: VPTEncoder) -> None:
    """The whole script, staggered episodes of 1, 128, 129 and other lengths: 0 latents wrong, 0 missing, 0 misplaced."""
    counted = play(count, mode, encoder, "quick")
    assert counted["compared"] == STEPS * count
    if mode is AutoresetMode.SAME_STEP:
        assert counted["final"] >= len(LENGTHS) * count
        assert counted["one-step episodes"] >= LENGTHS.count(1) * count


def test_batched_equals_single_with_convolutions() -> None:
    """The same with the whole network: 8 environments, 50 steps."""
    counted = play(8, AutoresetMode.SAME_STEP, encoder_of(random_net()), "real", steps=50)
    assert counted["final"] > 6


def test_masked_resets_leave_other_rows_alone(encoder: VPTEncoder) -> None:
    """Rows outside the mask keep their latents to the last bit, at the reset and for ever after."""
    generator = np.random.default_rng(0)
    count, steps = 8, 300
    lengths = (10**6,)
    disturbed, calm = (
        vpt_gym.vector.VPTLatentObservation(
            SyncVectorEnv([scripted(i, lengths=lengths) for i in range(count)], autoreset_mode=AutoresetMode.DISABLED),
            encoder,
        )
        for _ in range(2)
    )
    latents, _ = disturbed.reset()
    expected, _ = calm.reset()
    resets = 0
    for _ in range(steps):
        if generator.random() < 0.2:
            mask = np.zeros(count, np.bool_)
            mask[: generator.integers(1, 4)] = True  # rows 3 to 7 are never reset
            options = {"reset_mask": mask}
            before = latents.copy()
            latents, infos = disturbed.reset(options=options)
            assert np.array_equal(latents[~mask], before[~mask])
            assert not np.array_equal(latents[mask], before[mask])
            assert options.keys() == {"reset_mask"}, "the caller's options were changed"
            for row in np.flatnonzero(mask):
                frame = ScriptedEnv(int(row)).picture(int(infos["frame"][row]))
                fresh = encoder.encode(frame[None, None])[0, 0].numpy()
                assert np.abs(latents[row] - fresh).max() <= TOLERANCE
            resets += 1
        latents = disturbed.step(np.zeros(count, np.int64))[0]
        expected = calm.step(np.zeros(count, np.int64))[0]
        assert np.array_equal(latents[3:], expected[3:])
    assert resets > 30


def test_masked_reset_under_next_step_clears_the_pending_first(encoder: VPTEncoder) -> None:
    """A row that ended and was then reset by mask does not open an episode twice."""
    envs = vpt_gym.vector.VPTLatentObservation(SyncVectorEnv([scripted(0, lengths=(3, 9)), scripted(1)]), encoder)
    envs.reset()
    for _ in range(3):
        done = np.logical_or(*envs.step(np.zeros(2, np.int64))[2:4])
    assert done[0]
    opening, _ = envs.reset(options={"reset_mask": np.array([True, False])})
    after = envs.step(np.zeros(2, np.int64))[0]
    pictures = np.stack([ScriptedEnv(0).picture(frame) for frame in (4, 5)])
    expected = encoder.encode(pictures[None])[0].numpy()
    assert np.abs(opening[0] - expected[0]).max() <= TOLERANCE
    assert np.abs(after[0] - expected[1]).max() <= TOLERANCE


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_async_equals_sync(mode: AutoresetMode, encoder: VPTEncoder) -> None:
    makers = [scripted(i, extra=True) for i in range(3)]
    pair = [
        vpt_gym.vector.VPTLatentObservation(cls(makers, autoreset_mode=mode), encoder, keep=("ammo", "room"))
        for cls in (SyncVectorEnv, AsyncVectorEnv)
    ]
    try:
        (left, _), (right, _) = (envs.reset() for envs in pair)
        assert all(np.array_equal(left[key], right[key]) for key in ("latent", "ammo", "room"))
        for _ in range(40):
            results = [envs.step(np.zeros(3, np.int64)) for envs in pair]
            (left, *_, left_infos), (right, *_, right_infos) = results
            assert all(np.array_equal(left[key], right[key]) for key in ("latent", "ammo", "room"))
            done = results[0][2] | results[0][3]
            if mode is AutoresetMode.SAME_STEP and done.any():
                for row in np.flatnonzero(done):
                    ours, theirs = left_infos["final_obs"][row], right_infos["final_obs"][row]
                    assert ours.keys() == {"latent", "ammo", "room"}
                    assert np.array_equal(ours["latent"], theirs["latent"])
                    assert envs_space(pair[0]).contains(ours)
            if mode is AutoresetMode.DISABLED and done.any():
                for envs in pair:
                    envs.reset(options={"reset_mask": done.copy()})
    finally:
        for envs in pair:
            envs.close()


def envs_space(envs: Any) -> gym.Space[Any]:
    space: gym.Space[Any] = envs.single_observation_space
    return space


def test_keep_hands_on_what_the_environment_says(encoder: VPTEncoder) -> None:
    inner = SyncVectorEnv([scripted(i, extra=True) for i in range(2)])
    envs = vpt_gym.vector.VPTLatentObservation(inner, encoder, keep=("ammo", "room"))
    observations, _ = envs.reset()
    assert envs.observation_space.contains(observations)
    assert observations["ammo"].tolist() == [[0, 0], [1, 0]]
    assert observations["latent"].shape == (2, encoder.latent_size)


def test_what_is_returned_is_the_callers(encoder: VPTEncoder) -> None:
    """Scribbling over observations and infos changes nothing that comes later."""
    makers = [scripted(i, extra=True) for i in range(3)]
    scribbled, clean = (
        vpt_gym.vector.VPTLatentObservation(
            SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP), encoder, keep=("ammo",)
        )
        for _ in range(2)
    )
    for envs in (scribbled, clean):
        envs.reset()
    for _ in range(20):
        observations, _, _, _, infos = scribbled.step(np.zeros(3, np.int64))
        expected = clean.step(np.zeros(3, np.int64))[0]
        assert np.array_equal(observations["latent"], expected["latent"])
        assert np.array_equal(observations["ammo"], expected["ammo"])
        observations["latent"][:] = np.nan
        observations["ammo"][:] = -1
        infos.clear()


def test_memory_matters() -> None:
    """Guards the comparisons above: forgetting the memory, or `first`, would move latents by far more than 1e-4."""
    encoder = quick_encoder()
    pictures = np.stack([ScriptedEnv(0).picture(frame) for frame in range(6)])
    together = encoder.encode(pictures[None])[0]
    apart = encoder.encode(pictures[None], torch.ones(1, 6, dtype=torch.bool))[0]
    assert float((together - apart)[1:].abs().amax(dim=1).min()) > 1000 * TOLERANCE


def alone_last(identity: int, encoder: VPTEncoder) -> np.ndarray:
    """Latent of the last frame of an episode of two steps."""
    pictures = np.stack([ScriptedEnv(identity).picture(frame) for frame in range(3)])
    latents: np.ndarray = encoder.encode(pictures[None], pooling="last")[0].numpy()
    return latents


class TestBadInput:
    """Each is refused in a sentence that names the environment, what was expected, what came and what to do."""

    def make(self, **kwargs: Any) -> Any:
        return SyncVectorEnv([scripted(i, **kwargs) for i in range(2)])

    @pytest.mark.parametrize(
        ("mask", "match"),
        [
            (np.array([1, 0]), "of shape \\(2,\\).*, but int64 of shape \\(2,\\) came"),
            (np.array([True]), "bool of shape \\(1,\\) came"),
            ([True, False], "a list came"),
            (np.array([False, False]), "all False; leave the call out"),
        ],
    )
    def test_masks(self, mask: Any, match: str, encoder: VPTEncoder) -> None:
        envs = vpt_gym.vector.VPTLatentObservation(self.make(), encoder)
        envs.reset()
        with pytest.raises(ObservationError, match=f"SyncVectorEnv: reset_mask must be .*{match}"):
            envs.reset(options={"reset_mask": mask})
        again = vpt_gym.vector.VPTLatentObservation(self.make(), encoder)
        again.reset()
        action = np.zeros(2, np.int64)
        assert np.array_equal(envs.step(action)[0], again.step(action)[0]), "the refused reset moved something"

    def test_masked_reset_before_the_first(self, encoder: VPTEncoder) -> None:
        envs = vpt_gym.vector.VPTLatentObservation(self.make(), encoder)
        with pytest.raises(ResetNeeded, match="call reset without a mask first"):
            envs.reset(options={"reset_mask": np.array([True, False])})

    def test_step_before_reset(self, encoder: VPTEncoder) -> None:
        envs = vpt_gym.vector.VPTLatentObservation(self.make(), encoder)
        with pytest.raises(ResetNeeded, match="SyncVectorEnv: step was called before reset"):
            envs.step(np.zeros(2, np.int64))

    def test_double_wrapping(self, encoder: VPTEncoder) -> None:
        for inner in (
            vpt_gym.vector.VPTLatentObservation(self.make(extra=True), encoder, keep=("ammo",)),
            SyncVectorEnv([lambda: vpt_gym.VPTLatentObservation(ScriptedEnv(), encoder)]),
        ):
            with pytest.raises(ObservationError, match=r"wrap.* once only"):
                vpt_gym.vector.VPTLatentObservation(inner, encoder)

    def test_unknown_autoreset_mode(self, encoder: VPTEncoder) -> None:
        inner = self.make()
        inner.metadata = {}
        del inner.autoreset_mode
        with pytest.raises(ObservationError, match=r"metadata\['autoreset_mode'\] must be .* it is None"):
            vpt_gym.vector.VPTLatentObservation(inner, encoder)

    @pytest.mark.parametrize("form", ["array", "dict", "short", "none"])
    def test_final_observations_of_custom_environments(
        self, form: str, encoder: VPTEncoder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Batched arrays and Dicts of arrays are taken too; what does not hold a row for each environment is refused."""
        extra = form == "dict"
        inner = SyncVectorEnv(
            [scripted(i, lengths=(2, 9), extra=extra) for i in range(2)], autoreset_mode=AutoresetMode.SAME_STEP
        )
        expected = np.stack([alone_last(i, encoder) for i in range(2)])
        step = inner.step

        def batched(actions: Any) -> Any:
            *rest, infos = step(actions)
            if "final_obs" in infos:
                final = list(infos["final_obs"])
                if form == "dict":
                    infos["final_obs"] = {key: np.stack([row[key] for row in final]) for key in final[0]}
                else:
                    infos["final_obs"] = {"array": np.stack(final), "short": np.stack(final[:1]), "none": None}[form]
            return (*rest, infos)

        monkeypatch.setattr(inner, "step", batched)
        envs = vpt_gym.vector.VPTLatentObservation(inner, encoder)
        envs.reset()
        envs.step(np.zeros(2, np.int64))
        if form in ("short", "none"):
            with pytest.raises(ObservationError, match=r"\[0, 1\] are not all there"):
                envs.step(np.zeros(2, np.int64))
            return
        found = np.stack(list(envs.step(np.zeros(2, np.int64))[4]["final_obs"]))
        assert np.abs(found - expected).max() <= TOLERANCE

    def test_missing_final_observation(self, encoder: VPTEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
        inner = SyncVectorEnv([scripted(0, lengths=(2,))], autoreset_mode=AutoresetMode.SAME_STEP)
        step = inner.step

        def forgetful(actions: Any) -> Any:
            *rest, _ = step(actions)
            return (*rest, {})

        monkeypatch.setattr(inner, "step", forgetful)
        envs = vpt_gym.vector.VPTLatentObservation(inner, encoder)
        envs.reset()
        envs.step(np.zeros(1, np.int64))
        with pytest.raises(ObservationError, match="of environments \\[0\\] are not all there"):
            envs.step(np.zeros(1, np.int64))

    def test_wrong_row_count(self, encoder: VPTEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
        inner = self.make()
        reset = inner.reset
        monkeypatch.setattr(inner, "reset", lambda **kwargs: (reset(**kwargs)[0][:1], {}))
        with pytest.raises(ObservationError, match=r"must have shape \(2, 24, 32, 3\).*\(1, 24, 32, 3\) came"):
            vpt_gym.vector.VPTLatentObservation(inner, encoder).reset()


def test_kept_entries_of_environments_that_differ(encoder: VPTEncoder) -> None:
    """Each row has the bounds of its own environment, as in the space of what is wrapped."""

    class Differs(ScriptedEnv):
        def __init__(self, most: float) -> None:
            super().__init__(extra=True)
            assert isinstance(self.observation_space, gym.spaces.Dict)
            ammo = gym.spaces.Box(-most, most, (2,), np.float32)
            self.observation_space = gym.spaces.Dict({**self.observation_space.spaces, "ammo": ammo})

    makers = [partial(Differs, most) for most in (1e6, 2e6)]
    inner = SyncVectorEnv(makers, observation_mode="different")
    assert isinstance(inner.observation_space, gym.spaces.Dict)
    envs = vpt_gym.vector.VPTLatentObservation(inner, encoder, image_key="screen", keep=("ammo",))
    assert isinstance(envs.observation_space, gym.spaces.Dict)
    assert envs.observation_space["ammo"] == inner.observation_space["ammo"]
    assert envs.observation_space["ammo"].high[:, 0].tolist() == [1e6, 2e6]  # type: ignore[attr-defined]
    assert envs.observation_space["ammo"] is not inner.observation_space["ammo"]
    assert envs.reset()[0] in envs.observation_space
