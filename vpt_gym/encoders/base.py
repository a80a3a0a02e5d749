"""What encoders share: all of the protocol that follows from a few facts, and the stream of a network without memory."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Final, NoReturn

import gymnasium as gym
import torch
from torch import Tensor

from vpt_gym.checks import check_count
from vpt_gym.encoders.forked import refuse_lost_cuda
from vpt_gym.encoders.inputs import as_tensor, check_flags, check_frames, check_rows, count_of, sequences_of
from vpt_gym.encoders.network import check_finite
from vpt_gym.encoders.protocol import Flags, Frames, GoalTower, Rows, Stream
from vpt_gym.errors import VPTGymError
from vpt_gym.latents import latent_box

__all__ = ["EncoderBase", "MemorylessEncoder", "MemorylessStream", "StreamBase", "digest_of", "fingerprint_of"]

FRAMES_PER_PASS: Final = 64
"""Frames that a network without memory is given at once: enough to fill a device, few enough to bound its activations."""


def fingerprint_of(facts: Mapping[str, Any]) -> str:
    """sha256, in hex, over JSON values that say which latents these are."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def digest_of(tensors: Mapping[str, Any]) -> str:
    """sha256, in hex, over names, types, shapes and bytes of a state's tensors; what is none of these is passed over."""
    sha256 = hashlib.sha256()
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor):
            sha256.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            sha256.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha256.hexdigest()


class EncoderBase(ABC):
    """The protocol `vpt_gym.encoders.Encoder`, but for the network: a kind of encoder gives the attributes and `stream`.

    Attributes:
        kind: one word for the kind, such as `vpt`.
        source: the string that `load_encoder` was given, or other words for where the weights come from.
        options: the keyword arguments that it was given beside it, JSON values.
        latent_size: length of one latent.
        frame_size: side in pixels of the square frames that the network looks at.
        fingerprint: which latents these are; `fingerprint_of` makes one.
        untrained: whether the weights are random.
        device: where it runs.
        precision: what it computes in.
        backend: how it is computed, in words.
        also_reads: keys of the Dict observation, besides the image, that a step needs.
        goal_tower: what embeds goals in words, where the network brings such a thing; CLIP does elsewhere.
    """

    kind: str
    source: str
    options: dict[str, Any]
    latent_size: int
    frame_size: int
    fingerprint: str
    untrained: bool = False
    device: torch.device = torch.device("cpu")
    precision: str = "float32"
    backend: str = "torch's own operators"
    also_reads: tuple[str, ...] = ()
    goal_tower: GoalTower | None = None

    @abstractmethod
    def stream(self, num_envs: int) -> Stream:
        """Memory for `num_envs` episodes.

        Raises:
            OptionError: `num_envs` is not a positive whole number.
        """

    def encode(self, frames: Any, first: Flags | None = None) -> Tensor:
        """Encodes whole sequences, each with its own memory, which starts empty.

        Args:
            frames: uint8 [B, T, H, W, 3], RGB, of any height and width, array or tensor; for an encoder that `also_reads`
                something, a dict of `image`, which is these frames, and an array [B, T, ...] for each of the others.
            first: bool [B, T], True where a frame opens an episode; None for one episode a row.

        Returns:
            float32 [B, T, latent_size] on the encoder's device.

        Raises:
            ObservationError: frames, `first` or what else is read have the wrong dtype, shape or range.
        """
        batch, count = sequences_of(frames)
        flags = torch.zeros(batch, count, dtype=torch.bool, device="cpu") if first is None else first
        return self.stream(batch).encode(frames, flags)

    @property
    def latent_space(self) -> gym.spaces.Box:
        """Space of one latent: every finite float32 [latent_size]; a fresh object."""
        return latent_box(self.latent_size)

    @property
    def recorded(self) -> dict[str, Any]:
        """The source and the options, with which a wrapper's spec builds this encoder again."""
        return {"encoder": self.source, "encoder_options": self.options}

    @property
    def words(self) -> str:
        """The encoder in one line, for people."""
        return f"{self.source}: {self.latent_size} numbers a frame, {self.device}, {self.precision}"

    def describe(self) -> dict[str, Any]:
        """JSON values that say what it is: what a run's `config.json` records, and what the screen prints."""
        return {
            "kind": self.kind,
            "source": self.source,
            "options": self.options,
            "fingerprint": self.fingerprint,
            "untrained": self.untrained,
            "words": self.words,
            "latent_size": self.latent_size,
            "frame_size": self.frame_size,
            "device": str(self.device),
            "precision": self.precision,
            "backend": self.backend,
        }

    def contents(self) -> dict[str, Any]:
        """JSON values for `vpt-gym inspect`, too long for a run's record: what was loaded, part by part."""
        return {}

    def close(self) -> None:  # noqa: B027 - a kind that holds nothing has nothing to say
        """Gives back what it holds beside memory, which is nothing here."""

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f"load_encoder({self.source!r}{options})"

    def __copy__(self) -> EncoderBase:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> EncoderBase:
        # Frozen, so one serves as well as two; Gymnasium copies environments with their arguments.
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.source, self.options, self.fingerprint)


def _rebuild(source: str, options: dict[str, Any], fingerprint: str) -> Any:
    from vpt_gym.encoders.registry import load_encoder  # which knows all kinds, and so lies above them

    encoder = load_encoder(source, **options)
    if encoder.fingerprint != fingerprint:
        raise VPTGymError(
            f"The pickled encoder was made from {source!r}, whose weights have changed since (fingerprint "
            f"{encoder.fingerprint[:12]} instead of {fingerprint[:12]}); restore the old weights or load an encoder anew."
        )
    return encoder


class StreamBase:
    """What the streams of every kind of encoder share: a copy goes its own way, or is none."""

    def __copy__(self) -> NoReturn:
        raise VPTGymError(
            f"A shallow copy of a {type(self).__name__} would share its memory, and the two would move each other on; use "
            "copy.deepcopy."
        )


class MemorylessEncoder(EncoderBase):
    """A network that looks at every frame by itself: `first` means nothing to it, and its streams remember nothing."""

    @abstractmethod
    def latents_of(self, frames_nhwc: Tensor) -> Tensor:
        """uint8 [N, frame_size, frame_size, 3] on the encoder's device -> float32 [N, latent_size] there, fresh."""

    def stream(self, num_envs: int) -> MemorylessStream:
        """Rows for `num_envs` episodes.

        Raises:
            OptionError: `num_envs` is not a positive whole number.
        """
        return MemorylessStream(self, num_envs)


class MemorylessStream(StreamBase):
    """N rows of a network without memory: every check and every promise of a stream, and a state that is empty.

    Attributes:
        encoder: what it was made by.
        num_envs: N.
        fingerprint: of the encoder.
    """

    def __init__(self, encoder: MemorylessEncoder, num_envs: int) -> None:
        refuse_lost_cuda(encoder.device)
        self.encoder = encoder
        self.num_envs = check_count("num_envs", num_envs)
        self.fingerprint = encoder.fingerprint

    def step(self, frames: Frames, first: Flags, rows: Rows = None) -> Tensor:
        """Encodes one frame of each row; see `vpt_gym.encoders.Stream`."""
        return self._checked(frames, first, rows, "step", ("n",))[:, 0]

    def encode(self, frames: Frames, first: Flags, rows: Rows = None) -> Tensor:
        """Encodes T frames of each row; see `vpt_gym.encoders.Stream`."""
        return self._checked(frames, first, rows, "encode", ("n", "T"))

    def state_dict(self) -> dict[str, Any]:
        """The encoder's fingerprint: there is nothing else to remember."""
        return {"fingerprint": self.fingerprint}

    def load_state_dict(self, state: object) -> None:
        """Takes over what `state_dict` gave.

        Raises:
            VPTGymError: it was saved by another encoder.
        """
        if not isinstance(state, Mapping) or state.get("fingerprint") != self.fingerprint:
            raise VPTGymError("The state was saved by another encoder; load it with the weights that it came from.")

    def _checked(self, frames: Frames, first: Flags, rows: Rows, call: str, leading: tuple[str, ...]) -> Tensor:
        rows_b = None if rows is None else check_rows(rows, self.num_envs, call)
        frames = check_frames(frames, call, leading)
        batch = count_of(frames, rows_b, self.num_envs, call)
        check_flags(first, call, tuple(frames.shape[: len(leading)]))
        if call == "step":
            frames = frames[:, None]
        count = frames.shape[1]
        flat = frames.reshape(batch * count, *frames.shape[2:])
        encoder = self.encoder
        latents_btd = torch.cat(
            [
                encoder.latents_of(
                    as_tensor(flat[None, i : i + FRAMES_PER_PASS], encoder.frame_size)[0].to(encoder.device)
                )
                for i in range(0, batch * count, FRAMES_PER_PASS)
            ]
        ).view(batch, count, -1)
        check_finite(latents_btd, rows_b, encoder.precision)
        return latents_btd
