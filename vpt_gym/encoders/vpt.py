"""Frozen weights on a device (`VPTEncoder`) and the memory of N parallel episodes (`LatentStream`)."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import weakref
from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Final

import gymnasium as gym
import torch
from torch import Tensor

from vpt_gym.checks import check_count
from vpt_gym.config import FRAME_SIZE, VPTConfig
from vpt_gym.encoders.protocol import Flags, Frames, Rows, as_tensor, check_flags, check_frames, check_rows, count_of
from vpt_gym.errors import VPTGymError, WeightsError
from vpt_gym.frames import preprocessing
from vpt_gym.latents import LatentChoice, check_pooling
from vpt_gym.nn import Memory, VPTNet, accelerate
from vpt_gym.nn.cuda import StepGraphs
from vpt_gym.precision import DTYPES, arithmetic, choose_precision
from vpt_gym.weights import LoadReport, ResolvedSource, VPTHeads, load_checkpoint, load_heads, resolve

__all__ = ["LatentStream", "LoadedWeights", "VPTEncoder", "load_encoder"]

logger = logging.getLogger("vpt_gym")

_DEVICES: Final = ("cpu", "cuda")
_FRAMES_PER_CHUNK: Final = 256
"""Frames, over all rows, of one piece of a long sequence in `encode`."""


@dataclass(frozen=True, eq=False)
class LoadedWeights:
    """What encoders of one source share inside a process, whichever layer they take."""

    net: VPTNet
    digest: str
    report: LoadReport
    precision: str
    path: str
    load_heads: Callable[[], VPTHeads] | None = None

    @cached_property
    def heads(self) -> VPTHeads:
        """VPT's heads from where the network came from, loaded once."""
        if self.load_heads is None:
            raise WeightsError(
                "This encoder was made around a network without heads: take one that load_encoder gives."
            )
        return self.load_heads()


_loaded: weakref.WeakValueDictionary[Hashable, LoadedWeights] = weakref.WeakValueDictionary()
_loading = threading.Lock()


def load_encoder(
    source: str, *, device: str = "auto", precision: str = "auto", layer: str = "final", pooling: str = "none"
) -> VPTEncoder:
    """Loads VPT weights as a frozen encoder. Asking again for the same weights shares them.

    Args:
        source: a hub repository (`owner/name`, `owner/name@revision`), a folder with `model.safetensors`, a `.safetensors`,
            OpenAI `.weights` or Lightning `.ckpt` file, or `random:<preset>` (untrained), perhaps with `?seed=N`.
        device: a torch device such as `cuda:0`, or `auto`: a CUDA GPU if there is one, else the CPU.
        precision: `float32` (IEEE, no TF32), `bfloat16`, `tf32` or `float16` (on CUDA GPUs), or `auto`: bfloat16 on a GPU
            that has it, else float32. Latents are float32 whatever the network computes in.
        layer: `cnn`, `block0` ... `block3`, `final` (what VPT's own heads read) or `all` of these side by side.
        pooling: how `encode` hands back a sequence: `none`, `last` or `mean`.

    What was taken from which files and what was left aside is in the encoder's `report`, and in the log `vpt_gym` at INFO.

    Raises:
        WeightsError: the weights cannot be found, trusted, or are not a whole VPT network.
        VPTGymError: an option is unknown, or the device is not there.
    """
    check_pooling(pooling)
    place = _device(device)
    resolved_precision = choose_precision(precision, place)
    resolved = resolve(source)
    weights = _shared_weights(resolved, place, resolved_precision)
    options = {"device": device, "precision": precision, "layer": layer, "pooling": pooling}
    return VPTEncoder(weights, source, options)


def _shared_weights(resolved: ResolvedSource, device: torch.device, precision: str) -> LoadedWeights:
    key = (resolved.identity, str(device), precision)
    with _loading:
        weights = _loaded.get(key)
        if weights is None:
            checkpoint = load_checkpoint(resolved, dtype=DTYPES[precision], device=device)
            net = VPTNet.from_tensors(checkpoint.config, checkpoint.tensors)
            source, digest, report = checkpoint.source, checkpoint.digest, checkpoint.report
            # What replaces a tensor is made beside it: with the last name of the tensors gone, one at a time is there twice.
            del checkpoint
            with arithmetic(device, precision):
                path = accelerate(net)
            heads = partial(load_heads, resolved, net.config.hidden_size)
            weights = _loaded[key] = LoadedWeights(net, digest, report, precision, path, heads)
            logger.info("%s: %s; %s in %s", source, report.summary(), path, precision)
    return weights


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise VPTGymError(f"device must be auto, cpu, cuda or cuda:<index>, not {name!r}.") from error
    if device.type not in _DEVICES:
        raise VPTGymError(f"device must be auto, cpu, cuda or cuda:<index>, not {name!r}.")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise VPTGymError(f"device={name!r} was asked for, but torch sees {count} CUDA devices; use device='auto'.")
        if device.index is None:
            # With its number, because the current device is another one tomorrow.
            device = torch.device("cuda", torch.cuda.current_device())
    return device


def _rebuild(source: str, options: dict[str, str], fingerprint: str) -> VPTEncoder:
    encoder = load_encoder(source, **options)
    if encoder.fingerprint != fingerprint:
        raise VPTGymError(
            f"The pickled encoder was made from {source!r}, whose weights have changed since (fingerprint "
            f"{encoder.fingerprint[:12]} instead of {fingerprint[:12]}); restore the old weights or load an encoder anew."
        )
    return encoder


class VPTEncoder:
    """Frozen VPT weights: frames in, latents out. Holds no memory, so any number of users and threads may share it.

    Made by `load_encoder`. Pickling it stores the source and the options, not the weights.

    Attributes:
        source: the string that `load_encoder` was given.
        options: the keyword arguments that it was given (device, precision, layer, pooling), as given.
        config: sizes of the network.
        device: where the network runs.
        dtype: type of its matrices, its activations and its memory.
        precision: what it computes in: `float32`, `tf32`, `bfloat16` or `float16`.
        path: how it is computed, in words.
        report: what loading took from which files, and whether the weights are untrained.
    """

    def __init__(self, weights: LoadedWeights, source: str, options: Mapping[str, str]) -> None:
        self._weights = weights
        self._net = weights.net
        self._choice = LatentChoice(weights.net.config, options["layer"])
        self._pooling = check_pooling(options["pooling"])
        self.source = source
        self.options = dict(options)
        self.config: VPTConfig = weights.net.config
        self.device = weights.net.device
        self.dtype = weights.net.dtype
        self.precision = weights.precision
        self.path = weights.path
        self.report = weights.report

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"load_encoder({self.source!r}, {options})"

    def __deepcopy__(self, memo: dict[int, Any]) -> VPTEncoder:
        # Frozen, so one serves as well as two; Gymnasium copies environments with their arguments.
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.source, self.options, self.fingerprint)

    @property
    def latent_size(self) -> int:
        """Length of one latent: 2048 for the 2x network's final layer."""
        return self._choice.size

    @property
    def latent_space(self) -> gym.spaces.Box:
        """Space of one latent: every finite float32 [latent_size]; a fresh object."""
        return self._choice.space

    @cached_property
    def heads(self) -> VPTHeads:
        """VPT's own heads, float32, from the same source as the network: loaded when first asked for, and kept.

        Raises:
            WeightsError: the source has no whole heads that fit the network, or has changed since.
            VPTGymError: the latent is not that of the final layer, which the heads read.
        """
        if self._choice.layer != "final":
            raise VPTGymError(
                f"VPT's heads read the final layer, but this encoder's latents are layer={self._choice.layer!r}: load it with "
                "layer='final'."
            )
        return self._weights.heads.with_latents(self.latents_fingerprint)

    @property
    def frame_size(self) -> int:
        """Side in pixels of the frames that the network looks at: 128."""
        return FRAME_SIZE

    @property
    def also_reads(self) -> tuple[str, ...]:
        """What a step reads of an observation besides the image: nothing."""
        return ()

    @property
    def recorded(self) -> dict[str, Any]:
        """The source and the options, with which a wrapper's spec builds this encoder again."""
        return {"encoder": self.source, "encoder_options": self.options}

    @property
    def fingerprint(self) -> str:
        """Says which latents these are: sha256, in hex, over tensors, preprocessing and latent choice.

        The same for every precision, device and kind of file that the same weights came in.
        """
        return self._fingerprint(self._pooling)

    @property
    def latents_fingerprint(self) -> str:
        """Says which latents a stream of it gives, and its heads read: the fingerprint without pooling, which streams lack."""
        return self._fingerprint("none")

    def _fingerprint(self, pooling: str) -> str:
        subject = {
            "tensors": self._weights.digest,
            "preprocessing": preprocessing(FRAME_SIZE),
            "layer": self._choice.layer,
            "pooling": pooling,
        }
        return hashlib.sha256(json.dumps(subject, sort_keys=True).encode()).hexdigest()

    def stream(self, num_envs: int) -> LatentStream:
        """Memory for `num_envs` episodes that step one frame at a time.

        Raises:
            VPTGymError: `num_envs` is not a positive whole number.
        """
        return LatentStream(self, num_envs)

    def encode(
        self, frames: Frames, first: Flags | None = None, *, layer: str | None = None, pooling: str | None = None
    ) -> Tensor:
        """Encodes whole sequences, each with its own memory, which starts empty.

        Args:
            frames: uint8 [B, T, H, W, 3], RGB, of any height and width (resized to 128x128); array or tensor; any T >= 1.
            first: bool [B, T], True where a frame opens an episode; None for one episode a row.
            layer: another layer than the encoder's own. `fingerprint` speaks of the encoder's own: to store such latents under
                theirs, load an encoder with that layer.
            pooling: `none`, `last` or `mean` over T, other than the encoder's own.

        Returns:
            float32 [B, T, size] on the encoder's device; [B, size] when pooled.

        Raises:
            ObservationError: frames or `first` have the wrong dtype or shape.
            VPTGymError: unknown layer or pooling.
        """
        choice = self._choice if layer is None else LatentChoice(self.config, layer)
        pooling = self._pooling if pooling is None else check_pooling(pooling)
        frames_bthwc = check_frames(frames, "encode", ("B", "T"))
        batch, count = frames_bthwc.shape[:2]
        if first is None:
            first_bt = torch.zeros((batch, count), dtype=torch.bool, device=self.device)
        else:
            first_bt = check_flags(first, "encode", (batch, count)).to(self.device)
        memory = self._memory(batch, choice)
        chunk = max(1, min(self.config.memory, _FRAMES_PER_CHUNK // batch))
        total_bc = torch.zeros((batch, choice.size), device=self.device, dtype=torch.float32)
        pieces: list[Tensor] = []
        for start in range(0, count, chunk):
            piece = slice(start, start + chunk)
            latents_btc = self._run(frames_bthwc[:, piece], first_bt[:, piece], memory, choice)
            if pooling == "none":
                pieces.append(latents_btc)
            elif pooling == "mean":
                total_bc += latents_btc.sum(dim=1)
        if pooling == "none":
            return torch.cat(pieces, dim=1)
        return total_bc / count if pooling == "mean" else latents_btc[:, -1].clone()

    def _memory(self, rows: int, choice: LatentChoice) -> Memory:
        with self._arithmetic():
            return Memory.empty(self.config, rows, blocks=choice.blocks, device=self.device, dtype=self.dtype)

    def _run(
        self, frames: Frames, first_bt: Tensor, memory: Memory, choice: LatentChoice, rows_b: Tensor | None = None
    ) -> Tensor:
        """uint8 [B, T, H, W, 3], checked, of at most `memory` frames -> float32 [B, T, size]."""
        frames_bthwc = as_tensor(frames, FRAME_SIZE).to(self.device)
        with self._arithmetic():
            outputs = self._net(
                frames_bthwc,
                first_bt,
                memory,
                layers=choice.layers,
                rows_b=rows_b,
            )
            return choice.join(outputs)

    def _arithmetic(self) -> AbstractContextManager[None]:
        return arithmetic(self.device, self.precision)


class LatentStream:
    """The memory of N episodes, stepped one frame at a time, all or some of them in one call.

    Made by `VPTEncoder.stream`. Not to be stepped from two threads, or from two CUDA streams, at once; two streams of one
    encoder may be.

    Attributes:
        encoder: the weights, shared.
        num_envs: N.
    """

    def __init__(self, encoder: VPTEncoder, num_envs: int) -> None:
        check_count("num_envs", num_envs)
        self.encoder = encoder
        self.num_envs = int(num_envs)
        self._memory = encoder._memory(int(num_envs), encoder._choice)
        self._graphs = self._new_graphs()
        # Of the latents that a stream gives; pooling is for whole sequences and has no part in them.
        self._fingerprint = encoder._fingerprint("none")

    def _new_graphs(self) -> StepGraphs | None:
        encoder = self.encoder
        if encoder.device.type != "cuda":
            return None
        return StepGraphs(encoder._net, self._memory, encoder._choice.layers)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_graphs": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        # A graph reads and writes the memory that it was captured with, and a copy has its own.
        self._graphs = self._new_graphs()

    def step(self, frames: Frames, first: Flags, rows: Rows = None) -> Tensor:
        """Encodes the next frame of each row.

        Args:
            frames: uint8 [n, H, W, 3], RGB, of any height and width (resized to 128x128); array or tensor.
            first: bool [n], True where the frame opens an episode: it sees itself alone.
            rows: which n distinct rows of the N these are; None for all, in order. Other rows do not move.

        Returns:
            float32 [n, latent_size] on the encoder's device, a fresh tensor.

        Raises:
            ObservationError: frames, `first` or `rows` have the wrong dtype, shape or range. Nothing has moved then.
        """
        rows_b = None if rows is None else check_rows(rows, self.num_envs)
        frames_nhwc = check_frames(frames, "step", ("n",))
        count = count_of(frames_nhwc, rows_b, self.num_envs)
        first_b = check_flags(first, "step", (count,))
        encoder = self.encoder
        if self._graphs is None:
            latents_btc = encoder._run(frames_nhwc[:, None], first_b[:, None], self._memory, encoder._choice, rows_b)
            return latents_btc[:, 0]
        frames_nhwc = as_tensor(frames_nhwc[:, None], FRAME_SIZE)[:, 0]
        with encoder._arithmetic():
            return self._graphs.step(frames_nhwc, first_b, rows_b)

    def state_dict(self) -> dict[str, Any]:
        """A copy of the memory, with the encoder's fingerprint; for `load_state_dict` or `torch.save`."""
        with self.encoder._arithmetic():
            tensors = {name: tensor.clone() for name, tensor in self._memory.tensors().items()}
        return {"fingerprint": self._fingerprint, **tensors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over a copy of a memory that `state_dict` gave.

        Raises:
            VPTGymError: it comes from other weights or another layer, or from another number of environments.
        """
        mine = self._memory.tensors()
        if not all(isinstance(state.get(name), Tensor) for name in mine):
            raise VPTGymError(
                f"A stream's state is a dict with the tensors {', '.join(mine)}, as state_dict gives it, but "
                f"{sorted(state)} came."
            )
        if state.get("fingerprint") != self._fingerprint:
            raise VPTGymError(
                "The state was saved by another encoder; load it with the weights and layer that it came from."
            )
        for name, tensor in mine.items():
            if state[name].shape != tensor.shape:
                raise VPTGymError(
                    f"The state's {name} has shape {tuple(state[name].shape)}, but a stream of {self.num_envs} environments "
                    f"needs {tuple(tensor.shape)}; make the stream with the number of environments that was saved."
                )
        # A copy, so that the state stays the caller's; in place, because CUDA graphs keep the tensors that they began with.
        with self.encoder._arithmetic():
            for name, tensor in mine.items():
                tensor.copy_(state[name])
