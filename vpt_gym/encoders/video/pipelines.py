"""From a saved pipeline of diffusers to the parts that one look into its UNet needs, every tensor from safetensors files."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from vpt_gym.encoders.pretrained import folder_of, load_model, package, read_json, reading
from vpt_gym.errors import WeightsError

__all__ = ["Parts", "load_parts"]

UNETS: Final = {"UNetSpatioTemporalConditionModel": "image-to-video", "UNet3DConditionModel": "text-to-video"}
"""The kinds of UNet that are known, and what they imagine from."""

VAES: Final = ("AutoencoderKLTemporalDecoder", "AutoencoderKL")
TEXT_ENCODERS: Final = ("CLIPTextModel", "CLIPTextModelWithProjection")
CLIP_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Final = (0.26862954, 0.26130258, 0.27577711)
"""What CLIP's images are normalised by, where a pipeline does not say."""


@dataclass(frozen=True)
class Parts:
    """A pipeline's parts, float32, on the CPU.

    Attributes:
        kind: `image-to-video` or `text-to-video`.
        unet: of diffusers.
        vae: of diffusers, without its decoder.
        scheduler: of diffusers.
        image_encoder: CLIP's image tower, of an image-to-video pipeline that has one.
        image_mean: what its images are normalised by, and so is `image_std`.
        resize: makes its images [B, C, H, W] as large as (height, width): diffusers' own, which blurs first; None without it.
        folder: where all of it lies.
        has_text: whether the pipeline brings a text encoder and a tokenizer.
    """

    kind: str
    unet: Any
    vae: Any
    scheduler: Any
    image_encoder: Any
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    resize: Any
    folder: Path
    has_text: bool


def load_parts(place: str, source: str) -> Parts:
    """Loads a pipeline.

    Args:
        place: a folder that a pipeline was saved in, or a hub repository.
        source: what messages call it.

    Raises:
        WeightsError: there is none, its UNet or VAE is of no known kind, or a tensor is missing.
        VPTGymError: diffusers or transformers is not installed.
    """
    diffusers = package("diffusers", source)
    folder = folder_of(
        place,
        ("unet", "vae", "scheduler", "image_encoder", "feature_extractor", "text_encoder", "tokenizer"),
        source,
    )
    index = read_json(folder / "model_index.json", source)
    unet_class = _class_of(index, "unet")
    if unet_class not in UNETS:
        raise WeightsError(
            f"{source!r}: {'its UNet is a ' + unet_class if unet_class else 'the pipeline has no UNet'}, and features are "
            f"known of {' and '.join(UNETS)}: name a pipeline of the family of StableVideoDiffusionPipeline or "
            "TextToVideoSDPipeline."
        )
    vae_class = _class_of(index, "vae")
    if vae_class not in VAES:
        raise WeightsError(f"{source!r}: its vae is {vae_class or 'missing'}, and must be one of {', '.join(VAES)}.")
    unet = load_model(diffusers, unet_class, folder / "unet", source)
    vae: Any = load_model(diffusers, vae_class, folder / "vae", source)
    vae.decoder = None  # frames go in, and none come out
    scheduler_class = getattr(diffusers, _class_of(index, "scheduler") or "", None)
    if scheduler_class is None or not hasattr(scheduler_class, "set_timesteps"):
        raise WeightsError(f"{source!r}: its scheduler is {_class_of(index, 'scheduler')!r}, which diffusers has not.")
    with reading(folder / "scheduler", source):
        scheduler = scheduler_class.from_pretrained(folder / "scheduler", local_files_only=True)
    image_encoder, mean, std, resize = None, CLIP_MEAN, CLIP_STD, None
    kind = UNETS[unet_class]
    if kind == "image-to-video" and _class_of(index, "image_encoder") == "CLIPVisionModelWithProjection":
        transformers = package("transformers", source)
        image_encoder = load_model(transformers, "CLIPVisionModelWithProjection", folder / "image_encoder", source)
        # The pipeline's own, and none of torch's: these are other pixels, and CLIP sees the difference.
        resize = import_module(diffusers.StableVideoDiffusionPipeline.__module__)._resize_with_antialiasing
        facts = folder / "feature_extractor" / "preprocessor_config.json"
        if facts.is_file():
            values = read_json(facts, source)
            mean, std = tuple(values.get("image_mean", mean)), tuple(values.get("image_std", std))
    has_text = _class_of(index, "text_encoder") in TEXT_ENCODERS and (folder / "text_encoder").is_dir()
    return Parts(kind, unet, vae, scheduler, image_encoder, mean, std, resize, folder, has_text)


def _class_of(index: dict[str, Any], part: str) -> str | None:
    """What model_index.json says of a part: `["diffusers", "UNet3DConditionModel"]`."""
    entry = index.get(part)
    return entry[1] if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str) else None
