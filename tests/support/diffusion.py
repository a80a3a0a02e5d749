"""Saved pipelines of diffusers, and CLIPs, of the real classes at a small size, with random weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from vpt_gym.encoders.pretrained import package
from vpt_gym.errors import VPTGymError

__all__ = ["installed", "save_clip", "save_image_to_video", "save_text_to_video"]

WIDTHS = (32, 64)
"""Of the UNets' blocks; their up blocks give 64 and 32 channels."""

BYTES = [chr(n) for n in range(ord("!"), ord("~") + 1)]


def installed() -> tuple[Any, Any]:
    """diffusers and transformers; skips the test where they are missing."""
    if "torchvision" in sys.modules:
        pytest.importorskip("torchvision")
    try:
        return package("diffusers", "The test"), package("transformers", "The test")
    except VPTGymError as error:
        pytest.skip(str(error))


def save_image_to_video(folder: Path, *, width: int = 32) -> Path:
    """A StableVideoDiffusionPipeline whose UNet attends to `width` numbers."""
    diffusers, transformers = installed()
    torch.manual_seed(0)
    unet = diffusers.UNetSpatioTemporalConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        block_out_channels=WIDTHS,
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=96,
        layers_per_block=1,
        cross_attention_dim=width,
        num_attention_heads=(2, 4),
        num_frames=3,
    )
    vae = diffusers.AutoencoderKLTemporalDecoder(
        block_out_channels=WIDTHS,
        down_block_types=["DownEncoderBlock2D"] * 2,
        latent_channels=4,
        layers_per_block=1,
        sample_size=16,
    )
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_type="continuous",
        timestep_spacing="leading",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=700.0,
        steps_offset=1,
    )
    config = transformers.CLIPVisionConfig(
        hidden_size=32,
        projection_dim=width,
        num_hidden_layers=1,
        num_attention_heads=4,
        image_size=224,  # which the pipeline resizes to, whatever is said here
        intermediate_size=37,
        patch_size=56,
    )
    pipeline = diffusers.StableVideoDiffusionPipeline(
        vae=vae,
        image_encoder=transformers.CLIPVisionModelWithProjection(config),
        unet=unet,
        scheduler=scheduler,
        feature_extractor=transformers.CLIPImageProcessor(crop_size=224, size=224),
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def save_text_to_video(folder: Path) -> Path:
    """A TextToVideoSDPipeline."""
    diffusers, transformers = installed()
    torch.manual_seed(1)
    unet = diffusers.UNet3DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        block_out_channels=WIDTHS,
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=4,
    )
    # diffusers begins the layers over time at zero, where they would do nothing.
    for parameter in unet.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    vae = diffusers.AutoencoderKL(
        block_out_channels=WIDTHS,
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4,
        sample_size=16,
    )
    pipeline = diffusers.TextToVideoSDPipeline(
        vae=vae,
        text_encoder=transformers.CLIPTextModel(_text_config(transformers)),
        tokenizer=_tokenizer(transformers, folder / "tokenizer"),
        unet=unet,
        scheduler=diffusers.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def save_clip(folder: Path) -> Path:
    """CLIP's text tower with its projection, to 16 numbers, and its tokenizer."""
    _, transformers = installed()
    torch.manual_seed(2)
    model = transformers.CLIPTextModelWithProjection(_text_config(transformers))
    model.save_pretrained(folder, safe_serialization=True)
    _tokenizer(transformers, folder)
    return folder


def _text_config(transformers: Any) -> Any:
    return transformers.CLIPTextConfig(
        hidden_size=32,
        intermediate_size=37,
        projection_dim=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=2 * len(BYTES) + 2,
        bos_token_id=2 * len(BYTES),
        eos_token_id=2 * len(BYTES) + 1,
        pad_token_id=2 * len(BYTES) + 1,
    )


def _tokenizer(transformers: Any, folder: Path) -> Any:
    """CLIP's tokenizer, to which every letter is a token."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [*BYTES, *(letter + "</w>" for letter in BYTES), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {name: number for number, name in enumerate(names)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer
