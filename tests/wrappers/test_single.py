"""The single wrapper: Gymnasium's rules, episode boundaries, kinds of observations, and what it refuses."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import Autoreset, TimeLimit
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.vec_env import DummyVecEnv

import vpt_gym
from tests.support.scripted import ScriptedEnv, quick_encoder
from vpt_gym.encoders.vpt import VPTEncoder
from vpt_gym.errors import ObservationError, ResetNeeded, VPTGymError
from vpt_gym.sb3 import VecVPTLatent
from vpt_gym.wrappers.resize import ResizeFrame

TOLERANCE = 1e-4
SCRIPTED = "vpt_gym_tests/Scripted-v0"

if SCRIPTED not in gym.registry:
    gym.register(SCRIPTED, entry_point="tests.support.scripted:ScriptedEnv")


@pytest.fixture(scope="module")
def encoder() -> VPTEncoder:
    return quick_encoder()


def expected(encoder: VPTEncoder, frames: list[int], first: list[bool], **kwargs: Any) -> np.ndarray:
    pictures = np.stack([ScriptedEnv(**kwargs).picture(frame) for frame in frames])
    latents: np.ndarray = encoder.encode(pictures[None], np.array([first]))[0].numpy()
    return latents


def test_is_an_observation_wrapper(encoder: VPTEncoder) -> None:
    env = vpt_gym.VPTLatentObservation(ScriptedEnv(), encoder)
    assert isinstance(env, gym.ObservationWrapper)
    assert env.observation_space == encoder.latent_space
    observation, _ = env.reset()
    assert env.observation_space.contains(observation)


def test_first_follows_episodes(encoder: VPTEncoder) -> None:
    env = vpt_gym.VPTLatentObservation(ScriptedEnv(lengths=(2, 3)), encoder)
    latents = [env.reset()[0]]
    for length in (2, 3, 2):
        latents += [env.step(0)[0] for _ in range(length)]
        latents.append(env.reset()[0])
    opens = [n in (0, 3, 7, 10) for n in range(len(latents))]
    assert np.abs(np.stack(latents) - expected(encoder, list(range(11)), opens)).max() <= TOLERANCE


def test_first_follows_done_under_an_autoresetting_wrapper(encoder: VPTEncoder) -> None:
    """The opening frame comes out of `step` then, one step after the end."""
    env = vpt_gym.VPTLatentObservation(Autoreset(ScriptedEnv(lengths=(2, 3))), encoder)
    latents = [env.reset()[0]] + [env.step(0)[0] for _ in range(10)]
    opens = [n in (0, 3, 7, 10) for n in range(11)]
    assert np.abs(np.stack(latents) - expected(encoder, list(range(11)), opens)).max() <= TOLERANCE


def test_an_early_reset_opens_an_episode(encoder: VPTEncoder) -> None:
    env = vpt_gym.VPTLatentObservation(ScriptedEnv(lengths=(50,)), encoder)
    latents = [env.reset()[0], env.step(0)[0], env.reset()[0], env.step(0)[0]]
    opens = [True, False, True, False]
    assert np.abs(np.stack(latents) - expected(encoder, [0, 1, 2, 3], opens)).max() <= TOLERANCE


def test_two_environments_share_an_encoder_not_a_memory(encoder: VPTEncoder) -> None:
    one, other = (vpt_gym.VPTLatentObservation(ScriptedEnv(lengths=(50,)), encoder) for _ in range(2))
    one.reset()
    latents = [one.step(0)[0]]
    other.reset()
    other.step(0)
    latents.append(one.step(0)[0])
    assert np.abs(np.stack(latents) - expected(encoder, [0, 1, 2], [True, False, False])[1:]).max() <= TOLERANCE


@pytest.mark.parametrize("checker", [check_env, sb3_check_env])
@pytest.mark.parametrize("env_id", [SCRIPTED, "CarRacing-v3"])
@pytest.mark.parametrize("keep", [(), ("ammo",)])
def test_checkers_have_nothing_to_say(checker: Any, env_id: str, keep: tuple[str, ...]) -> None:
    if keep and env_id != SCRIPTED:
        return
    kwargs = {"extra": bool(keep), "continuous": True} if env_id == SCRIPTED else {}
    inner = gym.make(env_id, disable_env_checker=True, render_mode="rgb_array", **kwargs)
    env = vpt_gym.VPTLatentObservation(inner, "random:tiny", keep=keep)
    found = complaints(checker, env)
    # What is said of the environment itself, wrapped or not, is not ours: CarRacing's actions are not symmetric. Gymnasium's
    # checker also warns that it was handed a wrapper whenever it is handed one, whichever.
    theirs = complaints(checker, inner.unwrapped)
    env.close()
    assert [text for text in found if text not in theirs and "different from the unwrapped version" not in text] == []


def complaints(checker: Any, env: gym.Env[Any, Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        checker(env)
    return [str(warning.message) for warning in caught]


def test_spec_round_trip() -> None:
    """`gym.make(env.spec)`, and the same by way of JSON, rebuild the same environment and share the loaded weights."""
    options = {"layer": "block1", "device": "cpu"}
    inner = gym.make(SCRIPTED, lengths=[3, 4], extra=True)
    env = vpt_gym.VPTLatentObservation(inner, "random:tiny?seed=3", keep=("ammo",), encoder_options=options)
    assert env.spec is not None
    again = [gym.make(env.spec), gym.make(EnvSpec.from_json(env.spec.to_json()))]
    observation, _ = env.reset(seed=1)
    for rebuilt in again:
        wrapper: Any = rebuilt
        assert isinstance(wrapper, vpt_gym.VPTLatentObservation)
        assert wrapper.encoder.fingerprint == env.encoder.fingerprint
        assert wrapper.encoder.network.net is env.encoder.network.net
        other, _ = rebuilt.reset(seed=1)
        assert np.array_equal(other["latent"], observation["latent"])
        assert np.array_equal(other["ammo"], observation["ammo"])


def test_a_loaded_encoder_is_recorded_by_its_source() -> None:
    encoder = vpt_gym.load_encoder("random:tiny", layer="cnn")
    env = vpt_gym.VPTLatentObservation(gym.make(SCRIPTED), encoder)
    assert env.spec is not None
    rebuilt: Any = gym.make(env.spec)
    assert rebuilt.encoder.fingerprint == encoder.fingerprint


def test_encoders_pickle_as_their_source() -> None:
    encoder = vpt_gym.load_encoder("random:tiny", layer="block0")
    data = pickle.dumps(encoder)
    assert len(data) < 1000
    assert pickle.loads(data).fingerprint == encoder.fingerprint


class TestKindsOfObservations:
    def encode(self, env: gym.Env[Any, Any], encoder: VPTEncoder, **kwargs: Any) -> Any:
        return vpt_gym.VPTLatentObservation(env, encoder, **kwargs).reset()[0]

    def test_channels_first(self, encoder: VPTEncoder) -> None:
        image = ScriptedEnv(shape=(3, 24, 32)).picture(0).transpose(1, 2, 0)
        assert np.array_equal(
            self.encode(ScriptedEnv(shape=(3, 24, 32)), encoder), encoder.encode(image[None, None])[0, 0].numpy()
        )

    @pytest.mark.parametrize("shape", [(24, 32, 1), (1, 24, 32), (24, 32)])
    def test_one_channel_is_repeated(self, shape: tuple[int, ...], encoder: VPTEncoder) -> None:
        image = np.repeat(ScriptedEnv(shape=shape).picture(0).reshape(24, 32, 1), 3, axis=2)
        assert np.array_equal(
            self.encode(ScriptedEnv(shape=shape), encoder), encoder.encode(image[None, None])[0, 0].numpy()
        )

    @pytest.mark.parametrize("shape", [(128, 128, 3), (360, 640, 3), (5, 700, 3), (210, 160, 3)])
    def test_any_size(self, shape: tuple[int, ...], encoder: VPTEncoder) -> None:
        assert self.encode(ScriptedEnv(shape=shape), encoder).shape == (encoder.latent_size,)

    def test_the_image_of_a_dict_is_found(self, encoder: VPTEncoder) -> None:
        alone = self.encode(ScriptedEnv(), encoder)
        assert np.array_equal(self.encode(ScriptedEnv(extra=True), encoder), alone)
        assert np.array_equal(self.encode(ScriptedEnv(extra=True), encoder, image_key="screen"), alone)

    def test_keep(self, encoder: VPTEncoder) -> None:
        env = vpt_gym.VPTLatentObservation(ScriptedEnv(4, extra=True), encoder, keep=["room", "ammo"])
        observation, _ = env.reset()
        assert set(observation) == {"latent", "room", "ammo"}
        assert observation["ammo"].tolist() == [4, 0]
        assert env.observation_space.contains(observation)

    def test_resizing_early_changes_nothing(self, encoder: VPTEncoder) -> None:
        """What workers do before frames cross the pipe."""
        for kwargs in ({"shape": (90, 160, 3)}, {"shape": (1, 50, 60)}, {"shape": (90, 160, 3), "extra": True}):
            keep = ("ammo",) if kwargs.get("extra") else ()
            direct = self.encode(ScriptedEnv(**kwargs), encoder, keep=keep)
            small = ResizeFrame(ScriptedEnv(**kwargs), keep=keep)
            assert small.observation_space.contains(small.reset()[0])
            early = self.encode(ResizeFrame(ScriptedEnv(**kwargs), keep=keep), encoder, keep=keep)
            pairs = [(direct[key], early[key]) for key in direct] if keep else [(direct, early)]
            assert all(np.array_equal(left, right) for left, right in pairs)


class Shaped(ScriptedEnv):
    """An environment with whatever space a test wants."""

    def __init__(self, space: gym.Space[Any]) -> None:
        super().__init__()
        self.observation_space = space


def box(*shape: int, dtype: Any = np.uint8) -> gym.spaces.Box:
    return gym.spaces.Box(0, 255 if dtype == np.uint8 else 1, shape, dtype)


class TestBadInput:
    """Each is refused in a sentence that names the environment, what was expected, what came and what to do."""

    @pytest.mark.parametrize(
        ("space", "kwargs", "match"),
        [
            (box(64, 64, 3, dtype=np.float32), {}, "raw uint8 pixels, but its space is float32.*put vpt_gym before"),
            (box(64, 64, 4), {}, r"one or three channels, first or last, but its shape is \(64, 64, 4\); stacks"),
            (box(4, 84, 84), {}, "one or three channels"),
            (box(3, 64, 3), {}, "both the first and the last axis"),
            (box(3, 84, 84, 3), {}, r"must be one image, but its shape is \(3, 84, 84, 3\), a stack of several; undo"),
            (box(0, 64, 3), {}, r"its shape is \(0, 64, 3\), which has no pixels"),
            (gym.spaces.MultiDiscrete(np.full((9, 9, 3), 256)), {}, "its space is MultiDiscrete.{,100}; use a pixel"),
            (box(7), {}, "shape is \\(7,\\); use a pixel environment"),
            (gym.spaces.Discrete(3), {}, "must be an image, a uint8 Box, but its space is Discrete.*pixel environment"),
            (
                gym.spaces.Dict(a=box(16, 16, 3), b=box(16, 16, 3)),
                {},
                "'a', 'b' all are; name the one to encode with image_key=",
            ),
            (gym.spaces.Dict(a=box(5)), {}, "none of 'a' is"),
            (gym.spaces.Dict(a=box(16, 16, 3)), {"image_key": "b"}, "image_key='b' is not in .* its keys are 'a'"),
            (gym.spaces.Dict(a=box(16, 16, 3), b=box(5)), {"image_key": "b"}, "use a pixel environment"),
            (box(16, 16, 3), {"image_key": "a"}, "not a Dict; leave image_key out"),
            (box(16, 16, 3), {"keep": ("a",)}, "needs a Dict observation, but this one is a Box; leave keep out"),
            (gym.spaces.Dict(a=box(16, 16, 3)), {"keep": ("b",)}, "keep='b' is not in .* its keys are 'a'"),
            (gym.spaces.Dict(a=box(16, 16, 3)), {"keep": "a"}, r"not the string 'a'; write keep=\('a',\)"),
            (gym.spaces.Dict(a=box(16, 16, 3), latent=box(2)), {"keep": ("latent",)}, "take the latent's own key"),
            (gym.spaces.Dict(a=box(16, 16, 3), b=gym.spaces.Dict(c=box(2))), {"keep": ("b",)}, "flatten that entry"),
        ],
    )
    def test_spaces(self, space: gym.Space[Any], kwargs: dict[str, Any], match: str, encoder: VPTEncoder) -> None:
        for make in (
            lambda: vpt_gym.VPTLatentObservation(Shaped(space), encoder, **kwargs),
            lambda: ResizeFrame(Shaped(space), **kwargs),
        ):
            with pytest.raises(ObservationError, match=f"^Shaped: .*{match}"):
                make()

    @pytest.mark.parametrize(
        ("frame", "match"),
        [
            (
                np.zeros((24, 32, 3), np.float32),
                "uint8 array or tensor of raw pixels, but dtype float32 came; do not scale",
            ),
            (np.full((24, 32, 3), np.nan), "dtype float64 came"),
            (np.zeros((24, 32, 4), np.uint8), r"shape \(1, 24, 32, 3\).*\(1, 24, 32, 4\) came"),
            (np.zeros((32, 24, 3), np.uint8), r"\(1, 32, 24, 3\) came"),
            ([[0]], "a list came"),
            (None, "a NoneType came"),
        ],
    )
    def test_frames(self, frame: Any, match: str, encoder: VPTEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
        inner = ScriptedEnv()
        env = vpt_gym.VPTLatentObservation(inner, encoder)
        monkeypatch.setattr(inner, "picture", lambda _: frame)
        with pytest.raises(ObservationError, match=f"^ScriptedEnv: observation must .*{match}"):
            env.reset()

    def test_step_before_reset(self, encoder: VPTEncoder) -> None:
        env = vpt_gym.VPTLatentObservation(ScriptedEnv(), encoder)
        with pytest.raises(ResetNeeded, match="ScriptedEnv: step was called before reset; call reset first"):
            env.step(0)

    def test_double_wrapping(self, encoder: VPTEncoder) -> None:
        once = TimeLimit(vpt_gym.VPTLatentObservation(ScriptedEnv(), encoder), 10)
        with pytest.raises(ObservationError, match="ScriptedEnv: the environment gives VPT latents already"):
            vpt_gym.VPTLatentObservation(once, encoder)

    @pytest.mark.parametrize("lost", ["screen", "ammo"])
    def test_entries_that_a_space_promised(
        self, lost: str, encoder: VPTEncoder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Refused before anything is encoded: the memory has not moved."""
        inner = ScriptedEnv(extra=True, lengths=(50,))
        env = vpt_gym.VPTLatentObservation(inner, encoder, keep=("ammo",))
        env.reset()
        before = env.latent_stream.state_dict()
        observe = inner._observe
        monkeypatch.setattr(inner, "_observe", lambda: {k: v for k, v in observe().items() if k != lost})
        with pytest.raises(ObservationError, match=f"^ScriptedEnv: the observation .*'{lost}'.*keep to its space"):
            env.step(0)
        monkeypatch.setattr(inner, "_observe", lambda: 3)
        with pytest.raises(ObservationError, match=r"^ScriptedEnv: the observation"):
            env.step(0)
        assert all(np.array_equal(before[name], value) for name, value in env.latent_stream.state_dict().items())

    def test_mixed_up_wrappers(self, encoder: VPTEncoder) -> None:
        """The message names the wrapper that fits."""
        vector, vec = SyncVectorEnv([ScriptedEnv]), DummyVecEnv([ScriptedEnv])
        wrong: list[tuple[Any, list[Any]]] = [
            (vpt_gym.VPTLatentObservation, [vector, vec, encoder]),
            (vpt_gym.vector.VPTLatentObservation, [ScriptedEnv(), vec, encoder]),
            (VecVPTLatent, [ScriptedEnv(), vector, encoder]),
        ]
        for wrapper, envs in wrong:
            for env in envs:
                came = type(env).__name__
                with pytest.raises(
                    VPTGymError, match=rf"wraps a .*, but a {came} came first; use .*VecVPTLatent for SB3's"
                ):
                    wrapper(env, encoder)

    def test_encoders(self, encoder: VPTEncoder) -> None:
        with pytest.raises(VPTGymError, match="must be one of vpt_gym's encoders or a source string, not a int"):
            vpt_gym.VPTLatentObservation(ScriptedEnv(), 3)  # type: ignore[arg-type]
        with pytest.raises(VPTGymError, match="encoder_options go with a source string"):
            vpt_gym.VPTLatentObservation(ScriptedEnv(), encoder, encoder_options={"layer": "cnn"})
