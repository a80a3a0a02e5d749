"""Pictures that are none, pictures in strange places and shapes, and pictures written over before they were read."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import FrameStackObservation, TransformObservation
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecTransposeImage

import vpt_gym
import vpt_gym.sb3
from tests.support.scripted import ScriptedEnv, quick_encoder, scripted
from vpt_gym.encoders.vpt import VPTEncoder
from vpt_gym.errors import ObservationError
from vpt_gym.sb3 import VecVPTLatent, make_latent_vec_env
from vpt_gym.wrappers.resize import ResizeFrame

BOX, DICT = gym.spaces.Box, gym.spaces.Dict


@pytest.fixture(scope="module")
def encoder() -> VPTEncoder:
    return quick_encoder()


def picture(*shape: int, high: Any = 255) -> gym.spaces.Box:
    return BOX(np.zeros(shape, np.uint8), np.broadcast_to(np.asarray(high, np.uint8), shape).copy(), shape, np.uint8)


class Shown(gym.Env[Any, Any]):
    """Hands out what a function makes of its space and of the step's number."""

    action_space = gym.spaces.Discrete(2)

    def __init__(self, space: gym.Space[Any], show: Any = None) -> None:
        self.observation_space = space
        self.show = show or (lambda _: space.sample())
        self.age = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.age = 0
        return self.show(0), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.age += 1
        return self.show(self.age), 0.0, False, False, {}


class TestWhatTheSpaceTells:
    @pytest.mark.parametrize(
        ("space", "ends"),
        [
            (picture(7, 7, 3, high=(10, 5, 3)), r"\[10, 5, 3\]"),
            (picture(64, 64, 3, high=1), r"\[1, 1, 1\]"),
            (picture(64, 64, 3, high=(255, 255, 16)), r"\[255, 255, 16\]"),
            (picture(3, 64, 64, high=11), r"\[11, 11, 11\]"),
            (picture(64, 64, high=17), r"\[17\]"),
        ],
    )
    def test_ids_and_scaled_pixels_are_refused(self, space: gym.spaces.Box, ends: str, encoder: VPTEncoder) -> None:
        for make in (lambda: vpt_gym.VPTLatentObservation(Shown(space), encoder), lambda: ResizeFrame(Shown(space))):
            with pytest.raises(
                ObservationError, match=rf"^Shown: .* end at {ends}, a picture's at 255; scale .* draw ids"
            ):
                make()

    def test_a_grid_of_a_few_pixels_is_warned_of(self, encoder: VPTEncoder) -> None:
        with pytest.warns(UserWarning, match=r"only 7 x 7 pixels\. If these are ids .*RGBImgObsWrapper") as caught:
            vpt_gym.VPTLatentObservation(Shown(DICT(image=picture(7, 7, 3))), encoder)
        assert len(caught) == 1

    def test_minigrid_itself(self, encoder: VPTEncoder) -> None:
        wrappers = pytest.importorskip("minigrid.wrappers")
        with pytest.warns(UserWarning, match="RGBImgObsWrapper"):
            vpt_gym.VPTLatentObservation(gym.make("MiniGrid-Empty-5x5-v0"), encoder)
        drawn = wrappers.RGBImgObsWrapper(gym.make("MiniGrid-Empty-5x5-v0"), tile_size=16)
        vpt_gym.VPTLatentObservation(drawn, encoder).reset(seed=0)


class TestWhatTheChainTells:
    """Three grey frames, one after the other, are no colours."""

    @pytest.mark.parametrize("shape", [(24, 32), (24, 32, 1)])
    def test_stacks_in_front_of_the_wrappers(self, shape: tuple[int, ...], encoder: VPTEncoder) -> None:
        if len(shape) == 2:
            stacked = FrameStackObservation(ScriptedEnv(shape=shape), 3)
            for make in (
                lambda: vpt_gym.VPTLatentObservation(stacked, encoder),
                lambda: ResizeFrame(TransformObservation(stacked, np.copy, stacked.observation_space)),
                lambda: vpt_gym.vector.VPTLatentObservation(SyncVectorEnv([lambda: stacked]), encoder),
                lambda: VecVPTLatent(DummyVecEnv([lambda: stacked]), encoder),
            ):
                with pytest.raises(
                    ObservationError, match=r"FrameStackObservation makes .* grey .* take a stack of one"
                ):
                    make()
        else:
            vec = VecFrameStack(DummyVecEnv([scripted(0, shape=shape)]), n_stack=3)
            for venv in (vec, VecTransposeImage(vec)):
                with pytest.raises(ObservationError, match="VecFrameStack makes its pictures grey and stacks three"):
                    VecVPTLatent(venv, encoder)

    def test_an_environment_that_stacks_by_itself(self, encoder: VPTEncoder) -> None:
        """By an attribute as ALE's, a setting of EnvPool's spec, an argument in Gymnasium's."""
        for told in (
            {"grayscale": True},
            {"spec": SimpleNamespace(config=SimpleNamespace(gray_scale=True))},
            {"spec": SimpleNamespace(id="X-v0", kwargs={"grayscale": True})},
        ):
            env = Shown(picture(3, 84, 84))
            vars(env).update(told)
            with pytest.raises(ObservationError, match="Shown makes its pictures grey and stacks three of them"):
                vpt_gym.VPTLatentObservation(env, encoder)

    def test_a_grey_picture_said_three_times_is_one(self, encoder: VPTEncoder) -> None:
        grey = TransformObservation(
            ScriptedEnv(shape=(24, 32, 1)), lambda frame: np.repeat(frame, 3, axis=2), picture(24, 32, 3)
        )
        env = vpt_gym.VPTLatentObservation(grey, encoder)
        env.reset()
        for _ in range(40):
            env.step(0)


class TestWhatOnlyFramesTell:
    def run(self, show: Any, encoder: VPTEncoder, steps: int = 10) -> list[str]:
        env = vpt_gym.VPTLatentObservation(Shown(picture(24, 32, 3), show), encoder)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            env.reset()
            for _ in range(steps):
                env.step(0)
        return [str(warning.message) for warning in caught]

    @pytest.mark.parametrize("newest_first", [False, True])
    def test_a_stack_that_nobody_tells_of(self, newest_first: bool, encoder: VPTEncoder) -> None:
        def moment(age: int) -> np.ndarray:
            return np.random.default_rng(max(age, 0)).integers(0, 256, (24, 32), dtype=np.uint8)

        def stack(age: int) -> np.ndarray:
            moments = [moment(age - back) for back in (2, 1, 0)]
            return np.stack(moments[::-1] if newest_first else moments, axis=2)

        said = self.run(stack, encoder)
        assert len(said) == 1
        assert "three grey frames in a stack, and no colours. Take a stack of one" in said[0]

    def test_ids_in_a_large_grid(self, encoder: VPTEncoder) -> None:
        said = self.run(lambda age: np.random.default_rng(age).integers(0, 11, (24, 32, 3), dtype=np.uint8), encoder)
        assert len(said) == 1
        assert "no value above" in said[0]

    def test_pictures(self, encoder: VPTEncoder) -> None:
        """Colours, greys, a still, and black until the game begins: nothing to say."""
        grey = lambda age: np.repeat(ScriptedEnv(shape=(24, 32, 1)).picture(age), 3, axis=2)  # noqa: E731
        still = ScriptedEnv().picture(0)
        for show in (ScriptedEnv().picture, grey, lambda _: still, lambda age: still * (age > 3)):
            assert self.run(show, encoder, steps=40) == []


class OneBuffer(ScriptedEnv):
    """Draws every picture into the same array."""

    buffer: np.ndarray | None = None

    def picture(self, frame: int) -> np.ndarray:
        drawn = super().picture(frame)
        if self.buffer is None:
            self.buffer = drawn
        self.buffer[...] = drawn
        return self.buffer


class TestOverwritten:
    @pytest.mark.parametrize("kind", ["sync", "dummy"])
    def test_is_said_once(self, kind: str, encoder: VPTEncoder) -> None:
        def step(env: type[ScriptedEnv]) -> list[str]:
            makers = [lambda: env(0, lengths=(3,)), lambda: env(1, lengths=(2,))]
            envs: Any = (
                VecVPTLatent(DummyVecEnv(makers), encoder)
                if kind == "dummy"
                else vpt_gym.vector.VPTLatentObservation(
                    SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP), encoder
                )
            )
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                envs.reset()
                for _ in range(12):
                    envs.step(np.zeros(2, np.int64))
            return [str(warning.message) for warning in caught]

        said = step(OneBuffer)
        assert len(said) == 1
        assert "reset drew over the last frame before it was read" in said[0]
        assert "return a copy" in said[0]
        assert step(ScriptedEnv) == []

    def test_resizing_early_takes_the_copy(self, encoder: VPTEncoder) -> None:
        """Also of a frame that has the right size already."""
        last = []
        for env in (ScriptedEnv, OneBuffer):
            venv = make_latent_vec_env(env, 1, encoder=encoder, env_kwargs={"shape": (128, 128, 3), "lengths": (2,)})
            venv.reset()
            infos = [venv.step(np.zeros(1, int))[3][0] for _ in range(2)]
            last.append(infos[-1]["terminal_observation"])
        assert np.array_equal(*last)


class TestPlaces:
    def test_the_one_of_many_that_people_look_at(self, encoder: VPTEncoder) -> None:
        """ViZDoom's four buffers, two cameras of a robot; nothing that a name or its colours tell apart."""
        buffers = {"screen": picture(24, 32, 3), "automap": picture(24, 32, 3), "labels": picture(24, 32, 1)}
        cameras = {"front": picture(24, 32, 3), "depth": picture(24, 32, 1)}
        for entries, taken in ((buffers, "screen"), (cameras, "front")):
            env = Shown(DICT(entries))
            with pytest.warns(UserWarning, match=f"are all images; '{taken}' is encoded.*--image-key") as caught:
                found = vpt_gym.VPTLatentObservation(env, encoder).reset(seed=0)[0]
            assert len(caught) == 1
            frame = env.observation_space  # type: ignore[attr-defined]
            assert found.shape == (encoder.latent_size,)
            assert frame[taken].shape == (24, 32, 3)
            named = vpt_gym.VPTLatentObservation(Shown(DICT(entries)), encoder, image_key=taken)
            assert named._latent_observations._source.key == taken
        with pytest.raises(
            ObservationError, match=r"'left', 'right' all are; .* image_key= \(on the command line --image-key\)"
        ):
            vpt_gym.VPTLatentObservation(Shown(DICT(left=picture(24, 32, 3), right=picture(24, 32, 3))), encoder)

    @pytest.mark.parametrize("image_key", [None, "obs", "obs/eyes/rgb"])
    def test_nested(self, image_key: str | None, encoder: VPTEncoder) -> None:
        frames = [ScriptedEnv().picture(age) for age in range(4)]
        inner = DICT(eyes=DICT(rgb=picture(24, 32, 3)), health=BOX(0, 1, (1,), np.float32))
        space = DICT(obs=inner, yaw=BOX(0, 1, (2,), np.float32))

        def show(age: int) -> Any:
            health = np.ones(1, np.float32)
            return {"obs": {"eyes": {"rgb": frames[age]}, "health": health}, "yaw": np.zeros(2, np.float32)}

        wanted = encoder.encode(np.stack(frames)[None])[0].numpy()
        envs = [
            vpt_gym.VPTLatentObservation(Shown(space, show), encoder, image_key=image_key),
            vpt_gym.VPTLatentObservation(
                ResizeFrame(Shown(space, show), image_key=image_key, keep=("yaw",)), encoder, image_key="obs/eyes/rgb"
            ),
        ]
        for env in envs:
            found = [env.reset()[0], *(env.step(0)[0] for _ in range(3))]
            assert np.abs(np.stack(found) - wanted).max() < 1e-4

    def test_wrong_paths(self, encoder: VPTEncoder) -> None:
        space = DICT(obs=DICT(rgb=picture(24, 32, 3), depth=picture(24, 32, 3)))
        with pytest.raises(
            ObservationError, match=r"'obs/pov' is not in .* keys are 'obs', and nested images 'obs/rgb', "
        ):
            vpt_gym.VPTLatentObservation(Shown(space), encoder, image_key="obs/pov")

    def test_two_dimensions_for_three(self, encoder: VPTEncoder) -> None:
        """Axes of length one, in the space or in what comes, make no difference."""
        frame = ScriptedEnv(shape=(24, 32)).picture(0)
        colour = ScriptedEnv().picture(0)
        for shape, comes in [
            ((24, 32, 1), frame),
            ((1, 24, 32), frame),
            ((24, 32), frame[..., None]),
            ((1, 24, 32, 1), frame[None, ..., None]),
            ((1, 24, 32, 3), colour[None]),
            ((1, 24, 32, 3), colour),
            ((1, 3, 24, 32), colour.transpose(2, 0, 1)[None]),
        ]:
            latent = vpt_gym.VPTLatentObservation(
                Shown(picture(*shape), lambda _, comes=comes: comes), encoder
            ).reset()[0]
            three = colour if 3 in shape else np.repeat(frame[..., None], 3, axis=2)
            assert np.array_equal(latent, encoder.encode(three[None, None])[0, 0].numpy()), shape
        stack = Shown(picture(24, 32, 1), lambda _: frame[:-1])
        with pytest.raises(ObservationError, match=r"\(1, 23, 32\) came"):
            vpt_gym.VPTLatentObservation(stack, encoder).reset()

    def test_keeping_the_picture_keeps_it_whole(self, encoder: VPTEncoder) -> None:
        """In every wrapper the same, whichever process resizes."""
        whole = []
        for env in (
            vpt_gym.VPTLatentObservation(ScriptedEnv(extra=True), encoder, keep=("screen", "ammo")),
            VecVPTLatent(DummyVecEnv([scripted(0, extra=True)]), encoder, keep=("screen", "ammo")),
            make_latent_vec_env(ScriptedEnv, 1, encoder=encoder, env_kwargs={"extra": True}, keep=("screen", "ammo")),
        ):
            seen: Any = env.reset()
            seen = seen[0] if isinstance(seen, tuple) else {key: value[0] for key, value in seen.items()}
            assert env.observation_space["screen"].shape == (24, 32, 3)  # type: ignore[index]
            assert env.observation_space.contains(seen)
            whole.append(seen)
        assert all(np.array_equal(whole[0][key], other[key]) for other in whole[1:] for key in whole[0])


def test_a_native_vector_environment(encoder: VPTEncoder) -> None:
    """ALE's: pictures in a stack of one, last observations as one array, and metadata that is its base class's."""
    module = pytest.importorskip("ale_py.vector_env")

    def made(mode: AutoresetMode) -> VectorEnv[Any, Any, Any]:
        envs: VectorEnv[Any, Any, Any] = module.AtariVectorEnv(
            "pong", num_envs=2, stack_num=1, grayscale=False, autoreset_mode=mode, max_num_frames_per_episode=40
        )
        return envs

    same, later = made(AutoresetMode.SAME_STEP), made(AutoresetMode.NEXT_STEP)
    assert same.metadata is later.metadata, "this test is of environments that share it"
    last: list[Any] = []
    for envs in (same, later):
        ours = vpt_gym.vector.VPTLatentObservation(envs, encoder)
        latents = ours.reset(seed=0)[0]
        for _ in range(11):
            latents, _, ended, cut, infos = ours.step(np.zeros(2, np.int64))
            if (ended | cut).all():
                last.append(np.stack(list(infos["final_obs"])) if envs is same else latents)
                break
    assert len(last) == 2
    assert np.abs(last[0] - last[1]).max() < 1e-4
    with pytest.raises(ObservationError, match="AtariVectorEnv makes its pictures grey and stacks three"):
        vpt_gym.vector.VPTLatentObservation(module.AtariVectorEnv("pong", num_envs=1, stack_num=3), encoder)
