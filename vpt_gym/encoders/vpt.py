"""Frozen VPT weights on a device: frames in, latents out."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor

from vpt_gym.config import VPTConfig
from vpt_gym.encoders.base import EncoderBase, fingerprint_of
from vpt_gym.encoders.inputs import check_flags, check_frames
from vpt_gym.encoders.loading import LoadedWeights, shared_weights
from vpt_gym.encoders.network import ROWS_PER_CHUNK, LatentNetwork
from vpt_gym.encoders.protocol import Flags, Frames
from vpt_gym.encoders.stream import LatentStream
from vpt_gym.errors import OptionError
from vpt_gym.frames import preprocessing
from vpt_gym.latents import LatentChoice, check_pooling
from vpt_gym.weights import VPTHeads, table

__all__ = ["VPTEncoder", "load_vpt"]

PARTS: Final = (
    ("cnn.stacks.", "convolutions"),
    ("cnn.", "dense layers"),
    ("blocks.", "transformer blocks"),
    ("", "last layers"),
)
"""Parts of the network by how parameters' names begin; the first that fits counts."""


def load_vpt(
    source: str,
    *,
    device: str | torch.device = "auto",
    precision: str = "auto",
    layer: str = "final",
    backend: str = "auto",
) -> VPTEncoder:
    """Loads VPT weights as a frozen encoder. Asking again for the same weights shares them.

    Args:
        source: a hub repository (`owner/name`, `owner/name@revision`), a folder with `model.safetensors`, a `.safetensors`,
            OpenAI `.weights` or Lightning `.ckpt` file, `doom:mini` (in the package, trained on play in Doom), or
            `random:<preset>` (untrained), perhaps with `?seed=N`.
        device: a torch device such as `cuda:0`, or `auto`: a CUDA GPU if there is one, else the CPU.
        precision: `float32` (IEEE, no TF32), `bfloat16`, `tf32` or `float16` (on CUDA GPUs), or `auto`: bfloat16 on a GPU
            that has it, else float32. Latents are float32 whatever the network computes in.
        layer: `cnn`, `block0` ... `block3`, `final` (what VPT's own heads read) or `all` of these side by side.
        backend: how it is computed: `auto` is what proves right and fastest on this machine, tried when such a network is
            loaded for the first time; `plain` is the network as it is defined; on a CPU there are `packed` and `winograd`,
            on a CUDA GPU `triton`.

    What was taken from which files and what was left aside is in the encoder's `report`, and in the log `vpt_gym` at INFO.

    Raises:
        WeightsError: the weights cannot be found, trusted, or are not a whole VPT network.
        OptionError: an option has no such value, or the device is not there.
    """
    weights = shared_weights(source, device, precision, backend)
    options = {"device": str(device), "precision": precision, "layer": layer, "backend": backend}
    return VPTEncoder(weights, source, options)


class VPTEncoder(EncoderBase):
    """Frozen VPT weights: frames in, latents out. Holds no memory, so any number of users and threads may share it.

    Made by `load_encoder`. Pickling it stores the source and the options, not the weights.

    Attributes:
        source: the string that `load_encoder` was given.
        options: the keyword arguments that it was given (device, precision, layer, backend), as given.
        network: the network and the choice of its layer.
        config: sizes of the network.
        latent_size: length of one latent: 2048 for the 2x network's final layer.
        frame_size: side in pixels of the frames that the network looks at: VPT's 128.
        device: where the network runs.
        precision: what it computes in: `float32`, `tf32`, `bfloat16` or `float16`.
        backend: how it is computed, in words.
        fingerprint: which latents these are: sha256, in hex, over tensors, preprocessing and layer; the same for every
            precision, device and kind of file that the same weights came in.
        report: what loading took from which files.
        untrained: whether the weights are random.
    """

    kind = "vpt"

    def __init__(self, weights: LoadedWeights, source: str, options: dict[str, Any]) -> None:
        self._weights = weights
        self.config: VPTConfig = weights.net.config
        self.network = LatentNetwork(weights.net, LatentChoice(self.config, options["layer"]), weights.precision)
        self.source = source
        self.options = dict(options)
        self.latent_size = self.network.choice.size
        self.frame_size = self.network.frame_size
        self.device = self.network.device
        self.precision = weights.precision
        self.backend = weights.backend
        self.report = weights.report
        self.untrained = weights.report.untrained
        self.fingerprint = fingerprint_of(
            {
                "tensors": weights.digest,
                "preprocessing": preprocessing(self.frame_size),
                "layer": self.network.choice.layer,
            }
        )

    @property
    def words(self) -> str:
        """The encoder in one line, for people."""
        blocks = f"{self.config.blocks} blocks, {self.latent_size} numbers a frame"
        return f"{self.source}: {blocks}, {self.device}, {self.precision}"

    def describe(self) -> dict[str, Any]:
        """JSON values that say what it is, the sizes of the network and what was loaded among them.

        `training` is what the weights' file says of how `vpt-gym pretrain` made it: from what, on which recordings, for what;
        None where it says nothing.
        """
        return {
            **super().describe(),
            "architecture": self.config.to_dict(),
            "report": self.report.summary(),
            "training": self.report.training,
        }

    def contents(self) -> dict[str, Any]:
        """JSON values: the files, the tensors by part and by name, and what was left aside."""
        parts = {name: {"tensors": 0, "parameters": 0} for _, name in PARTS}
        for spec in table(self.config):
            part = parts[next(name for start, name in PARTS if spec.parameter.startswith(start))]
            part["tensors"] += 1
            part["parameters"] += math.prod(spec.shape)
        report = self.report
        return {
            "files": [str(path) for path in report.files],
            "parameters": report.parameters,
            "parts": parts,
            "taken": list(report.taken),
            "aside": list(report.aside),
            "heads": dict(report.heads),
        }

    @cached_property
    def heads(self) -> VPTHeads:
        """VPT's own heads, float32, from the same source as the network: loaded when first asked for, and kept.

        Raises:
            WeightsError: the source has no whole heads that fit the network, or has changed since.
            OptionError: the latent is not that of the final layer, which the heads read.
        """
        layer = self.network.choice.layer
        if layer != "final":
            raise OptionError(
                f"VPT's heads read the final layer, but this encoder's latents are layer={layer!r}: load it with layer='final'."
            )
        return self._weights.heads.with_latents(self.fingerprint)

    def stream(self, num_envs: int) -> LatentStream:
        """Memory for `num_envs` episodes.

        Raises:
            OptionError: `num_envs` is not a positive whole number.
        """
        return LatentStream(self.network, num_envs, self.fingerprint)

    def encode(
        self, frames: Frames, first: Flags | None = None, *, layer: str | None = None, pooling: str = "none"
    ) -> Tensor:
        """Encodes whole sequences, each with its own memory, which starts empty.

        Args:
            frames: uint8 [B, T, H, W, 3], RGB, of any height and width (resized to what the network reads); array or tensor;
                any B and T >= 1: the network is given pieces of bounded size.
            first: bool [B, T], True where a frame opens an episode; None for one episode a row.
            layer: another layer than the encoder's own. `fingerprint` speaks of the encoder's own: to store such latents under
                theirs, load an encoder with that layer.
            pooling: `none`, or `last` or `mean` over T.

        Returns:
            float32 [B, T, size] on the encoder's device; [B, size] when pooled.

        Raises:
            ObservationError: frames or `first` have the wrong dtype or shape.
            OptionError: unknown layer or pooling.
            NonFiniteLatent: a latent is NaN or infinite.
        """
        network = self.network
        if layer is not None:
            network = LatentNetwork(network.net, LatentChoice(self.config, layer), network.precision)
        check_pooling(pooling)
        frames_bthwc = check_frames(frames, "encode", ("B", "T"))
        batch, count = frames_bthwc.shape[:2]
        first_bt = torch.zeros(batch, count, dtype=torch.bool, device="cpu")
        if first is not None:
            first_bt = check_flags(first, "encode", (batch, count))
        shape = (batch, count, network.choice.size) if pooling == "none" else (batch, network.choice.size)
        latents = torch.zeros(shape, device=self.device, dtype=torch.float32)
        for start in range(0, batch, ROWS_PER_CHUNK):
            rows = slice(start, start + ROWS_PER_CHUNK)
            memory = network.memory(len(frames_bthwc[rows]))
            at = 0
            for piece_btd in network.pieces(frames_bthwc[rows], first_bt[rows], memory):
                if pooling == "none":
                    latents[rows, at : at + piece_btd.shape[1]] = piece_btd
                elif pooling == "mean":
                    latents[rows] += piece_btd.sum(dim=1) / count
                else:
                    latents[rows] = piece_btd[:, -1]
                at += piece_btd.shape[1]
        return latents
