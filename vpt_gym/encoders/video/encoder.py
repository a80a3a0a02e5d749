"""The encoder: a frame, repeated beside noise, goes once through the UNet, and what an up block gives is the latent."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from vpt_gym.encoders.base import EncoderBase, digest_of, fingerprint_of
from vpt_gym.encoders.loading import choose_device
from vpt_gym.encoders.text import CLIP, TextTower, check_text, text_tower
from vpt_gym.encoders.video.pipelines import Parts, load_parts
from vpt_gym.encoders.video.source import Asked, read_source
from vpt_gym.encoders.video.stream import VideoStream
from vpt_gym.errors import OptionError
from vpt_gym.frames import preprocessing
from vpt_gym.precision import DTYPES, arithmetic, choose_precision, computing_dtype

__all__ = ["VideoEncoder", "load_video"]

LARGEST_FRAME: Final = 256
"""Pixels a side that frames are resized to where the UNet was made for more: what Video Prediction Policy feeds SVD."""

FPS, MOTION_BUCKET, NOISE_AUGMENTATION = 4, 127, 0.0
"""What the paper's code tells SVD of the video to imagine."""

TOKENS: Final = 20
"""Of a text, where it stands in place of SVD's embedding of the image."""


def load_video(
    source: str,
    *,
    device: str | torch.device = "auto",
    precision: str = "auto",
    text: str | None = None,
    text_key: str | None = None,
    clip: str | None = None,
) -> VideoEncoder:
    """What a video diffusion model computes while it imagines the frames that follow: `video:<folder or hub id>`.

    Args:
        source: `video:<folder or hub id>` of a saved StableVideoDiffusionPipeline or TextToVideoSDPipeline, perhaps with
            `?layer=1` (which up block of the UNet is looked at), `all_layers=false` (true puts those before it beside it),
            `timestep=20` (steps of the schedule, at the first of which the UNet runs once), `frames=16` (how many it
            imagines), `imagined=` (of how many of them the latent is made, from the first), `pool=mean` (over space, or
            `grid:N` for N x N cells), `size=` (pixels a side that frames are resized to; 256, or what the UNet was made for
            where that is less) and `seed=0` (of the noise), joined by `&`.
        device: `auto`, `cpu`, `cuda` or `cuda:<index>`.
        precision: of the UNet: `float32`, `bfloat16`, on CUDA GPUs `tf32` or `float16`, or `auto`. The rest is float32.
        text: what shall happen in the video, in words, until `set_condition` of a stream says otherwise.
        text_key: the entry of a Dict observation that holds the text, instead.
        clip: a folder or hub repository with CLIP, whose text tower reads the text where the pipeline brings none.

    Source: Video Prediction Policy, arXiv 2412.14803.

    Raises:
        VPTGymError: diffusers or transformers is not installed.
        OptionError: an option has no such value, or a text comes without a text encoder.
        WeightsError: the pipeline cannot be had, is not whole, or has a UNet of no known kind.
    """
    asked = read_source(source)
    parts = load_parts(asked.place, source)
    tower = None
    if clip is not None:
        tower = text_tower(clip)
    elif parts.has_text:
        tower = TextTower(parts.folder / "text_encoder", parts.folder / "tokenizer", source)
    options: dict[str, Any] = {"device": str(device), "precision": precision}
    options |= {k: v for k, v in (("text", text), ("text_key", text_key), ("clip", clip)) if v is not None}
    return VideoEncoder(parts, asked, tower, source=source, options=options)


class VideoEncoder(EncoderBase):
    """A video diffusion model, frozen, about to imagine what follows a frame; every frame is looked at by itself.

    Each row goes through the network alone, which is a batch of `frames` images already: so memory is bounded, and equal frames
    under equal texts have equal latents, to the bit, in every batch. A latent is a grid [K, N, N, C], flattened in that
    order: K imagined frames, N x N cells (1 x 1 for `pool=mean`), C channels.

    Attributes:
        unet: the network, cut off behind the block that is looked at.
        grid: K, N, N, C.
        text: what rows are told unless told otherwise; None for nothing.
        text_key: the entry of the observation with the text, or None.
        passes: how often the UNet has run.
        seconds: how long that took, with what belongs to it.
    """

    kind = "video"

    def __init__(
        self, parts: Parts, asked: Asked, tower: TextTower | None, *, source: str, options: dict[str, Any]
    ) -> None:
        self.source, self.options, self.asked, self.tower = source, options, asked, tower
        self.device = choose_device(options["device"])
        self.precision = choose_precision(options["precision"], self.device)
        self.text: str | None = options.get("text")
        self.text_key: str | None = options.get("text_key")
        self._kind, self._image_mean, self._image_std = parts.kind, parts.image_mean, parts.image_std
        unet, vae = parts.unet, parts.vae
        widths = [int(width) for width in reversed(unet.config.block_out_channels)]
        if asked.layer >= len(widths):
            raise OptionError(
                f"{source!r}: layer={asked.layer}, but the UNet has {len(widths)} up blocks, 0 to {len(widths) - 1}, of "
                f"{', '.join(map(str, widths))} channels."
            )
        self._cut(unet)
        scale = 2 ** (len(vae.config.block_out_channels) - 1)
        usual = _usual_size(unet.config.sample_size, scale, 2 ** (len(widths) - 1))
        self.frame_size = self._frame_size(usual, scale * 2 ** (len(widths) - 1))
        latent_side = self.frame_size // scale
        # Every up block but the last doubles the side, which the down blocks have halved as often.
        sides = [min(latent_side, latent_side * 2 ** (i + 2) // 2 ** len(widths)) for i in range(len(widths))]
        self._side = sides[asked.layer]
        if asked.cells > self._side:
            raise OptionError(
                f"{source!r}: pool=grid:{asked.cells}, but the features are {self._side} x {self._side}; ask for fewer cells, "
                "for a later layer, or for larger frames (size=)."
            )
        channels = sum(widths[: asked.layer + 1]) if asked.all_layers else widths[asked.layer]
        self.grid = (asked.kept, asked.cells, asked.cells, channels)
        self.latent_size = asked.kept * asked.cells**2 * channels
        self._check_text(parts, int(unet.config.cross_attention_dim))

        digests = {name: digest_of(part.state_dict()) for name, part in (("unet", unet), ("vae", vae))}
        if parts.image_encoder is not None:
            digests["image_encoder"] = digest_of(parts.image_encoder.state_dict())
        if tower is not None:
            digests["text_encoder"] = tower.digest
        schedule = {key: str(value) for key, value in parts.scheduler.config.items() if not key.startswith("_")}
        # What is asked for by its number, and is what comes without asking, is the same.
        facts = asdict(asked)
        facts["imagined"] = None if asked.kept == asked.frames else asked.kept
        facts["size"] = None if self.frame_size == usual else self.frame_size
        self.fingerprint = fingerprint_of(
            {
                "kind": parts.kind,
                "tensors": digests,
                "schedule": {"class": type(parts.scheduler).__name__, **schedule},
                "asked": {key: value for key, value in facts.items() if key != "place"},
                "text": self.text,
                "preprocessing": f"{preprocessing(self.frame_size)}, from -1 to 1",
                **({} if parts.image_encoder is None else {"image_encoder sees": "what diffusers resizes for it"}),
            }
        )
        self.parameters = sum(p.numel() for p in unet.parameters())
        # Rounded to the precision also where the device computes it in float32.
        self.unet = unet
        for dtype in (DTYPES[self.precision], computing_dtype(self.precision, self.device)):
            torch.nn.Module.to(unet, self.device, dtype)  # diffusers' own warns of an empty list
        self._vae = vae.to(self.device)
        self._image_encoder = parts.image_encoder.to(self.device) if parts.image_encoder is not None else None
        self._resize = parts.resize
        self._prepare(parts.scheduler, latent_side)
        self._earlier: dict[int, Tensor] = {}
        if asked.all_layers:
            for number in range(asked.layer):
                self.unet.up_blocks[number].register_forward_hook(self._keeper(number))
        self._lock = threading.Lock()
        self._texts: dict[str, Tensor] = {}
        self.passes, self.seconds = 0, 0.0

    def _cut(self, unet: Any) -> None:
        """Takes off what runs behind the block that is looked at, so that the UNet's own forward gives that block's output."""
        unet.up_blocks = unet.up_blocks[: self.asked.layer + 1]
        unet.conv_norm_out = unet.conv_act = unet.conv_out = torch.nn.Identity()

    def _frame_size(self, usual: int, step: int) -> int:
        asked = self.asked.size
        if asked is not None and asked % step:
            raise OptionError(
                f"{self.source!r}: size must be a multiple of {step}, which VAE and UNet halve without a remainder, not "
                f"{asked}."
            )
        return usual if asked is None else asked

    def _check_text(self, parts: Parts, attended: int) -> None:
        told = self.text is not None or self.text_key is not None
        if self.text is not None:
            check_text(self.text, f"{self.source!r}: text")
        if self.text_key is not None:
            self.also_reads = (self.text_key,)
        if self.text is not None and self.text_key is not None:
            raise OptionError(f"{self.source!r}: text and text_key were both given; a row can be told one thing.")
        if told and self.tower is None:
            raise OptionError(
                f"{self.source!r}: a text was given, but the pipeline has no text encoder; name a CLIP with clip=, a folder or "
                f"hub repository, such as clip={CLIP!r}."
            )
        if self.tower is not None and attended % self.tower.width:
            raise OptionError(
                f"{self.source!r}: the UNet attends to {attended} numbers a token, which is no multiple of the text encoder's "
                f"{self.tower.width}; give the CLIP that it was trained with."
            )
        if not told and self.tower is None and parts.image_encoder is None:
            raise OptionError(
                f"{self.source!r}: the pipeline has neither a text encoder nor an image encoder, and the UNet attends to one; "
                "give a text= and a clip=."
            )

    def _prepare(self, scheduler: Any, side: int) -> None:
        """Everything that is the same for every frame: the noise, the step, what is told of the video."""
        asked, config = self.asked, self.unet.config
        channels = int(self._vae.config.latent_channels)
        if config.in_channels not in {channels, 2 * channels}:
            raise OptionError(
                f"{self.source!r}: the UNet takes {config.in_channels} channels, and is known with the VAE's {channels} (noise "
                f"on the frame) or {2 * channels} (the frame beside noise)."
            )
        self._beside = config.in_channels == 2 * channels
        generator = torch.Generator("cpu").manual_seed(asked.seed)
        noise = torch.randn(1, asked.frames, channels, side, side, generator=generator)
        scheduler.set_timesteps(asked.timestep)
        self._step = scheduler.timesteps[0].to(self.device)
        self._scheduler = scheduler
        self._noise_bfchw = noise.to(self.device)
        if self._beside:
            noisy = noise * scheduler.init_noise_sigma
            self._noise_bfchw = scheduler.scale_model_input(noisy, scheduler.timesteps[0]).to(self.device)
        time_ids = torch.tensor([[FPS, MOTION_BUCKET, NOISE_AUGMENTATION]])
        self._time_ids = time_ids.to(self.device, self.unet.dtype)

    def stream(self, num_envs: int) -> VideoStream:
        """Rows for `num_envs` episodes.

        Raises:
            OptionError: `num_envs` is not a positive whole number.
        """
        return VideoStream(self, num_envs)

    def prepare_condition(self, condition: Any) -> str | None:
        """Hands back a text, or None for none, checked.

        Raises:
            OptionError: it is no text, there is no text encoder, or texts come from the observation.
        """
        if self.text_key is not None:
            raise OptionError(f"{self.source!r}: texts come from observation[{self.text_key!r}]; leave text_key out.")
        if condition is None:
            return None
        text = check_text(condition, "a condition of a video encoder")
        if self.tower is None:
            raise OptionError(f"{self.source!r}: a text was given, but there is no text encoder; load it with clip=.")
        return text

    def latent_of(self, frame_hwc: Tensor, text: str | None) -> Tensor:
        """The latent of one frame: uint8 [frame_size, frame_size, 3] on any device -> float32 [latent_size], fresh."""
        begin = time.perf_counter()
        # The UNet's hooks keep what the blocks before the last give.
        with self._lock, arithmetic(self.device, self.precision):
            # A tensor of its own, so that no batch that it lies in decides how it is aligned.
            frame_bchw = frame_hwc.to(self.device).permute(2, 0, 1)[None].float().contiguous().div_(127.5).sub_(1)
            latents = self._pooled(self._features(frame_bchw, self._attended(frame_bchw, text)))
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.passes += 1
            self.seconds += time.perf_counter() - begin
        return latents

    def _features(self, frame_bchw: Tensor, attended_bld: Tensor) -> list[Tensor]:
        """The outputs of the blocks that are looked at, each [F, C, side, side], the last one last."""
        frame = self._vae.encode(frame_bchw).latent_dist.mode()
        frames = frame[:, None].repeat(1, self.asked.frames, 1, 1, 1)
        text_to_video = self._kind == "text-to-video"
        if text_to_video:
            frames = frames * self._vae.config.scaling_factor  # which SVD leaves out
        if self._beside:
            seen = torch.cat([self._noise_bfchw, frames], dim=2)
        else:
            noisy = self._scheduler.add_noise(frames, self._noise_bfchw, self._step[None])
            seen = self._scheduler.scale_model_input(noisy, self._step)
        seen, attended_bld = seen.to(self.unet.dtype), attended_bld.to(self.unet.dtype)
        self._earlier.clear()
        if text_to_video:
            last = self.unet(seen.transpose(1, 2), self._step, attended_bld, return_dict=False)[0].transpose(1, 2)
        else:
            last = self.unet(seen, self._step, attended_bld, self._time_ids, return_dict=False)[0]
        return [self._earlier[number] for number in sorted(self._earlier)] + [last[0]]

    def _pooled(self, features: list[Tensor]) -> Tensor:
        kept, cells, _, _ = self.grid
        # Earlier blocks are smaller: each value becomes a square of it.
        even = [functional.interpolate(each[:kept].float(), size=(self._side, self._side)) for each in features]
        pooled_kcnn = functional.adaptive_avg_pool2d(torch.cat(even, dim=1), cells)
        return pooled_kcnn.permute(0, 2, 3, 1).reshape(-1)

    def _attended(self, frame_bchw: Tensor, text: str | None) -> Tensor:
        """What the UNet attends to: float32 [1, L, attended]."""
        if text is None and self._image_encoder is not None:
            return self._image_embedding(frame_bchw)
        text = text or ""  # as the pipelines have it where nobody says anything
        if text not in self._texts:
            if len(self._texts) > 1000:
                self._texts.clear()
            self._texts[text] = self._embedded(text).to(self.device)
        return self._texts[text]

    def _embedded(self, text: str) -> Tensor:
        assert self.tower is not None
        image_to_video = self._kind == "image-to-video"
        length = TOKENS if image_to_video else self.tower.longest
        tokens_bld = self.tower.tokens(text, length, masked=image_to_video)
        if image_to_video:
            tokens_bld = tokens_bld + _positions(*tokens_bld.shape[1:])
        # Twice side by side where the UNet attends to twice as much, as the paper's code fills SVD's 1024 with CLIP's 512.
        return tokens_bld.repeat(1, 1, int(self.unet.config.cross_attention_dim) // self.tower.width)

    def _image_embedding(self, frame_bchw: Tensor) -> Tensor:
        """As SVD has it where no text stands there: CLIP's embedding of the frame, as its pipeline makes it, [1, 1, D]."""
        assert self._image_encoder is not None
        side = int(self._image_encoder.config.image_size)
        image = self._resize(frame_bchw, (side, side))
        mean, std = (
            torch.tensor(values, device=self.device)[None, :, None, None]
            for values in (self._image_mean, self._image_std)
        )
        embedding: Tensor = self._image_encoder(((image + 1) / 2 - mean) / std).image_embeds[:, None]
        return embedding

    def _keeper(self, number: int) -> Any:
        def keep(_module: Any, _given: Any, output: Tensor) -> None:
            self._earlier[number] = output

        return keep

    def describe(self) -> dict[str, Any]:
        """JSON values that say what it is; beside every encoder's, the grid, the frames, and the UNet's size."""
        return {
            **super().describe(),
            "grid": list(self.grid),
            "frames": self.asked.frames,
            "noise_level": float(self._step),
            "parameters": self.parameters,
        }

    def cost(self) -> dict[str, float]:
        """What one frame costs: `flops` of one pass, two for a product and a sum, and the `seconds` of a second one."""
        from torch.utils.flop_counter import FlopCounterMode

        blank = torch.zeros(self.frame_size, self.frame_size, 3, dtype=torch.uint8)
        with FlopCounterMode(display=False) as counter:
            self.latent_of(blank, self.text)
        before = self.seconds
        self.latent_of(blank, self.text)
        return {"flops": float(counter.get_total_flops()), "seconds": self.seconds - before}


def _usual_size(sample_size: Any, scale: int, halvings: int) -> int:
    """Pixels a side of frames, unless asked otherwise."""
    # Sides that the UNet halves without a remainder: with one, its last block would be told a size that a cut one is not.
    step = scale * halvings
    made_for = sample_size if isinstance(sample_size, int) else LARGEST_FRAME
    return max(step, min(LARGEST_FRAME, made_for * scale) // step * step)


def _positions(count: int, width: int) -> Tensor:
    """Sines and cosines of places 0 to `count`, float32 [count, width]: the positions that the paper's code adds to a text."""
    frequencies = 10000.0 ** -(torch.arange(width // 2, dtype=torch.float64) / (width / 2))
    angles = torch.arange(count, dtype=torch.float64)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()
