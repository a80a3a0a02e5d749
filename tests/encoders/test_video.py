"""Video diffusion models as encoders: equal to a plain pass with hooks, and the same for equal frames in every batch."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor
from torch.nn import functional

import vpt_gym
from tests.support.diffusion import installed, save_clip, save_image_to_video, save_text_to_video
from tests.support.scripted import ScriptedEnv
from vpt_gym.encoders.pretrained import reading
from vpt_gym.encoders.text import embed_goal
from vpt_gym.encoders.video import VideoEncoder
from vpt_gym.errors import ObservationError, OptionError, VPTGymError, WeightsError

SIDE, FRAMES, STEPS = 16, 3, 20


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Saved pipelines and a CLIP by name."""
    folder = tmp_path_factory.mktemp("pipelines")
    return {
        "svd": save_image_to_video(folder / "svd"),
        "wide": save_image_to_video(folder / "wide", width=64),
        "text": save_text_to_video(folder / "text"),
        "clip": save_clip(folder / "clip"),
    }


def load(place: Path, query: str = "", **options: Any) -> VideoEncoder:
    encoder = vpt_gym.load_encoder(f"video:{place}?frames={FRAMES}{query}", device="cpu", **options)
    assert isinstance(encoder, VideoEncoder)
    return encoder


def pictures(*shape: int, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, side, side, 3), dtype=np.uint8)


def parts(place: Path) -> dict[str, Any]:
    """Read by the libraries' own loaders, not ours."""
    diffusers, transformers = installed()
    index = json.loads((place / "model_index.json").read_text())
    names = ("unet", "vae", "scheduler", "text_encoder", "image_encoder")
    libraries = {"diffusers": diffusers, "transformers": transformers}
    with reading(place, "the test"):
        found = {
            name: getattr(libraries[index[name][0]], index[name][1]).from_pretrained(place / name)
            for name in names
            if name in index
        }
    found["scheduler"].set_timesteps(STEPS)
    return found


@torch.no_grad()
def plain(found: dict[str, Any], frame_hwc: np.ndarray, attended: Tensor, layers: list[int]) -> Tensor:
    """What the paper's code does with a frame: [frames, side, side, channels], from a whole UNet with hooks."""
    kept: dict[int, Tensor] = {}
    unet, vae, scheduler = found["unet"], found["vae"], found["scheduler"]
    hooks = [
        unet.up_blocks[n].register_forward_hook(lambda _m, _i, out, n=n: kept.__setitem__(n, out.clone()))
        for n in layers
    ]
    image = torch.from_numpy(frame_hwc).permute(2, 0, 1)[None] / 127.5 - 1
    latent = vae.encode(image).latent_dist.mode()
    noise = torch.randn(1, FRAMES, *latent.shape[1:], generator=torch.Generator().manual_seed(0))
    step = scheduler.timesteps[0]
    frames = latent[:, None].expand(-1, FRAMES, -1, -1, -1)
    if "image_encoder" in found:
        noisy = scheduler.scale_model_input(noise * scheduler.init_noise_sigma, step)
        unet(torch.cat([noisy, frames], dim=2), step, attended, torch.tensor([[4.0, 127.0, 0.0]]))
    else:
        noisy = scheduler.add_noise(frames * vae.config.scaling_factor, noise, step[None])
        unet(noisy.transpose(1, 2), step, attended)
    for hook in hooks:
        hook.remove()
    side = kept[layers[-1]].shape[-1]
    assert kept[layers[-1]].shape[0] == FRAMES
    even = [functional.interpolate(kept[n], size=(side, side)) for n in layers]
    return torch.cat(even, dim=1).permute(0, 2, 3, 1)


def seen_by_clip(place: Path, frame_hwc: np.ndarray) -> Tensor:
    """CLIP's embedding of a frame, by the pipeline itself."""
    diffusers, _ = installed()
    with reading(place, "the test"):
        pipeline = diffusers.StableVideoDiffusionPipeline.from_pretrained(place)
    with torch.no_grad():
        embedding: Tensor = pipeline._encode_image(PIL.Image.fromarray(frame_hwc), "cpu", 1, False)
    return embedding


@pytest.mark.parametrize("side", [SIDE, 256, 512])
def test_svd_s_image_embedding_is_the_pipelines(places: dict[str, Path], side: int) -> None:
    frame = pictures(side=side)
    encoder = load(places["svd"], f"&size={side}")
    frame_bchw = torch.from_numpy(frame).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        embedding = encoder._image_embedding(frame_bchw)
    assert embedding.shape == (1, 1, 32)
    assert (embedding - seen_by_clip(places["svd"], frame)).abs().max() < 1e-5


@pytest.mark.parametrize(("query", "layers"), [("&layer=0", [0]), ("&layer=1", [1]), ("&all_layers=true", [0, 1])])
def test_image_to_video_equals_a_plain_pass_with_hooks(places: dict[str, Path], query: str, layers: list[int]) -> None:
    found, frame = parts(places["svd"]), pictures()
    wanted = plain(found, frame, seen_by_clip(places["svd"], frame), layers)
    side = wanted.shape[1]
    encoder = load(places["svd"], f"{query}&pool=grid:{side}")
    assert encoder.grid == tuple(wanted.shape)
    latent = encoder.encode(frame[None, None])[0, 0]
    assert (latent.view(wanted.shape) - wanted).abs().max() < 1e-5
    # One cell is the mean over space; the first frames alone are the beginning.
    mean = load(places["svd"], f"{query}&imagined=2").encode(frame[None, None])[0, 0]
    assert (mean.view(2, -1) - wanted[:2].mean(dim=(1, 2))).abs().max() < 1e-5


@pytest.mark.parametrize("layers", [[1], [0, 1]])
def test_text_to_video_equals_a_plain_pass_with_hooks(places: dict[str, Path], layers: list[int]) -> None:
    _, transformers = installed()
    found, frame = parts(places["text"]), pictures()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(places["text"] / "tokenizer")
    ids = tokenizer(["go left"], padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        attended = found["text_encoder"](ids).last_hidden_state
    wanted = plain(found, frame, attended, layers)
    query = f"&pool=grid:{wanted.shape[1]}&all_layers={'true' if len(layers) > 1 else 'false'}"
    latent = load(places["text"], query, text="go left").encode(frame[None, None])[0, 0]
    assert (latent.view(wanted.shape) - wanted).abs().max() < 1e-5
    assert (load(places["text"], query).encode(frame[None, None])[0, 0] - latent).abs().max() > 1e-4


def test_a_text_stands_where_svd_has_its_image_embedding(places: dict[str, Path]) -> None:
    _, transformers = installed()
    found, frame = parts(places["wide"]), pictures()
    with reading(places["clip"], "the test"):
        tower = transformers.CLIPTextModelWithProjection.from_pretrained(places["clip"])
    tokenizer = transformers.CLIPTokenizer.from_pretrained(places["clip"])
    given = tokenizer(["open the door"], padding="max_length", max_length=20, return_tensors="pt")
    with torch.no_grad():
        tokens = tower(**given).last_hidden_state
    angles = torch.arange(20)[:, None] * 10000.0 ** (-torch.arange(16) / 16)
    tokens = tokens + torch.cat([angles.sin(), angles.cos()], dim=1)
    wanted = plain(found, frame, torch.cat([tokens, tokens], dim=2), [1]).mean(dim=(1, 2))
    encoder = load(places["wide"], text="open the door", clip=str(places["clip"]))
    assert (encoder.encode(frame[None, None])[0, 0].view(wanted.shape) - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["svd", "text"])
def test_equal_frames_have_equal_latents_in_every_batch_and_order(places: dict[str, Path], name: str) -> None:
    encoder = load(places[name])
    frames = pictures(3, 2, side=21)
    frames[2, 1] = frames[0, 0]
    whole = encoder.encode(frames)
    assert whole[2, 1].equal(whole[0, 0])
    order = [2, 0, 1]
    assert encoder.encode(frames[order]).equal(whole[order])
    stream = encoder.stream(3)
    assert stream.step(frames[:, 0], [True] * 3).equal(whole[:, 0])
    assert stream.step(frames[[2], 1], [False], rows=[1]).equal(whole[[2], 1])
    assert encoder.encode(torch.from_numpy(frames[1:2])).equal(whole[1:2])
    # Whatever memory the frames lie in, and once more from nothing.
    assert load(places[name]).encode(frames[:, ::-1].copy()[:, ::-1]).equal(whole)


def test_texts_differ_by_row_and_change_at_a_boundary(places: dict[str, Path]) -> None:
    encoder = load(places["text"], text="go left")
    frame = pictures(1)
    left = encoder.stream(1).step(frame, [True])[0]
    right = load(places["text"], text="go right").stream(1).step(frame, [True])[0]
    assert (left - right).abs().max() > 1e-4
    stream = encoder.stream(2)
    both, no = np.concatenate([frame, frame]), [False, False]
    stream.set_condition("go right", rows=[1])
    assert stream.step(both, [True, True]).equal(torch.stack([left, right]))
    stream.set_condition("go right")
    state = pickle.loads(pickle.dumps(stream.state_dict()))
    assert stream.step(both, no).equal(torch.stack([left, right]))
    assert stream.encode(both[:, None], np.array([[True], [False]]))[:, 0].equal(torch.stack([right, right]))
    again = encoder.stream(2)
    again.load_state_dict(state)
    assert again.step(both, no).equal(torch.stack([left, right]))
    # A step that fails has moved nothing.
    with pytest.raises(ObservationError):
        again.step(both[:1], [True])
    assert again.step(both, no).equal(torch.stack([left, right]))


class Told(ScriptedEnv):
    """Says in every observation what shall happen."""

    def __init__(self) -> None:
        super().__init__(lengths=(3, 3))
        space = {"screen": self.observation_space, "goal": gym.spaces.Text(20)}
        self.observation_space = gym.spaces.Dict(space)

    def reset(self, **kwargs: Any) -> Any:
        observation, info = super().reset(**kwargs)
        return {"screen": observation, "goal": "go left"}, info

    def step(self, action: Any) -> Any:
        observation, *rest = super().step(action)
        return {"screen": observation, "goal": "go right"}, *rest


def test_a_text_comes_from_the_observation(places: dict[str, Path]) -> None:
    encoder = load(places["text"], text_key="goal")
    env = vpt_gym.VPTLatentObservation(Told(), encoder)
    latents = [env.reset()[0], env.step(0)[0]]
    env = vpt_gym.VPTLatentObservation(ScriptedEnv(lengths=(3, 3)), load(places["text"], text="go left"))
    told = [env.reset()[0], env.step(0)[0]]
    assert (latents[0] == told[0]).all()
    assert np.abs(latents[1] - told[1]).max() > 1e-4
    with pytest.raises(ObservationError, match="'goal'"):
        encoder.stream(1).step(pictures(1), [True])


def test_it_says_what_it_is_and_what_it_costs(places: dict[str, Path]) -> None:
    encoder = load(places["svd"])
    facts = encoder.describe()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["grid"] == [FRAMES, 1, 1, 32]
    assert encoder.latent_space.shape == (FRAMES * 32,)
    assert encoder.passes == 0
    assert encoder.cost()["flops"] > 1e8
    assert encoder.passes == 2
    prints = [
        load(places[name], query).fingerprint for name in ("svd", "wide") for query in ("", "&layer=0", "&seed=1")
    ]
    assert len(set(prints)) == 6
    assert load(places["svd"]).fingerprint == encoder.fingerprint
    assert pickle.loads(pickle.dumps(encoder)).fingerprint == encoder.fingerprint
    # What comes without asking may be asked for: the latents are the same.
    assert load(places["svd"], f"&size={SIDE}&imagined={FRAMES}").fingerprint == encoder.fingerprint
    assert load(places["svd"], f"&size={2 * SIDE}").fingerprint != encoder.fingerprint
    assert load(places["svd"], "&imagined=2").fingerprint != encoder.fingerprint


def test_bfloat16_is_near(places: dict[str, Path]) -> None:
    frames = pictures(1, 1)
    one, two = (load(places["svd"], precision=name).encode(frames) for name in ("float32", "bfloat16"))
    assert 0 < (one - two).abs().max() < 0.1 * one.abs().max()


def test_a_goal_is_what_clip_says(places: dict[str, Path]) -> None:
    goal = embed_goal("open the door", str(places["clip"]))
    assert goal.shape == (16,)
    assert (goal == embed_goal("open the door", str(places["clip"]))).all()
    assert np.abs(goal - embed_goal("shut the door", str(places["clip"]))).max() > 1e-3
    with pytest.raises(OptionError, match="must be words"):
        embed_goal(" ", str(places["clip"]))
    with pytest.raises(WeightsError, match=r"neither a folder nor a hub repository"):
        embed_goal("open the door", "/no/such/folder")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("&layer=2", "layer=2, but the UNet has 2 up blocks, 0 to 1, of 64, 32 channels"),
        ("&layer=x", "layer must be a whole number"),
        ("&pool=max", "pool must be mean, or grid:N"),
        ("&pool=grid:9", "the features are 8 x 8"),
        ("&imagined=4", "only 3 frames are imagined"),
        ("&size=17", "size must be a multiple of 4"),
        ("&all_layers=1", "all_layers must be true or false"),
        ("&depth=1", "the options are layer"),
    ],
)
def test_an_option_is_refused(places: dict[str, Path], query: str, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        load(places["svd"], query)


def test_a_text_is_refused(places: dict[str, Path]) -> None:
    with pytest.raises(OptionError, match="the pipeline has no text encoder"):
        load(places["svd"], text="go")
    with pytest.raises(OptionError, match="no text encoder"):
        load(places["svd"]).stream(1).set_condition("go")
    with pytest.raises(OptionError, match="both given"):
        load(places["text"], text="go", text_key="goal")
    with pytest.raises(OptionError, match="must be words"):
        load(places["text"], text="")


def test_what_is_no_such_pipeline_is_refused(places: dict[str, Path], tmp_path: Path) -> None:
    def changed(name: str, **entries: Any) -> Path:
        folder = tmp_path / name
        shutil.copytree(places["svd"], folder)
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps({**index, **entries}))
        return folder

    with pytest.raises(WeightsError, match=r"its UNet is a UNet2DConditionModel"):
        load(changed("flat", unet=["diffusers", "UNet2DConditionModel"]))
    with pytest.raises(WeightsError, match="the pipeline has no UNet"):
        load(changed("none", unet=None))
    with pytest.raises(WeightsError, match="its vae is missing"):
        load(changed("blind", vae=None))
    with pytest.raises(WeightsError, match=r"neither a folder nor a hub repository"):
        load(tmp_path / "nowhere")
    with pytest.raises(WeightsError, match=r"holds no model_index\.json"):
        load(tmp_path)


def test_pickles_are_not_read_and_no_tensor_is_drawn(places: dict[str, Path], tmp_path: Path) -> None:
    import safetensors.torch

    folder = tmp_path / "pickled"
    shutil.copytree(places["svd"], folder)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.torch.load_file(file)
    name = next(iter(tensors))
    safetensors.torch.save_file({key: value for key, value in tensors.items() if key != name}, file)
    with pytest.raises(WeightsError, match=r"lacks .*1 tensors|following keys are missing"):
        load(folder)
    file.unlink()
    torch.save(tensors, folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(VPTGymError, match="safe_serialization=True"):
        load(folder)
