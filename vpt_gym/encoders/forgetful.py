"""Another encoder whose memory is wiped before every frame: what is left of it when nobody carries its state along."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from vpt_gym.encoders.base import EncoderBase, fingerprint_of
from vpt_gym.encoders.protocol import Encoder, Flags, Rows, Stream

__all__ = ["ForgetfulEncoder", "load_reset"]


def load_reset(source: str, **options: Any) -> ForgetfulEncoder:
    """Any other source with its memory wiped at every frame: `reset:random:tiny`, to see what the memory is worth.

    Raises:
        VPTGymError: as `load_encoder` does for the source behind `reset:`.
    """
    from vpt_gym.encoders.registry import load_encoder  # which knows all kinds, and so lies above them

    return ForgetfulEncoder(load_encoder(source.partition(":")[2], **options))


class ForgetfulEncoder(EncoderBase):
    """An encoder to which every frame opens an episode.

    Attributes:
        inner: the encoder that could remember.
    """

    kind = "reset"

    def __init__(self, inner: Encoder) -> None:
        self.inner = inner
        facts = inner.describe()
        self.source, self.options = f"reset:{facts['source']}", facts["options"]
        self.latent_size, self.frame_size, self.also_reads = inner.latent_size, inner.frame_size, inner.also_reads
        self.device, self.precision, self.backend = inner.device, inner.precision, inner.backend
        self.untrained = facts["untrained"]
        self.fingerprint = fingerprint_of({"reset": inner.fingerprint})

    @property
    def words(self) -> str:
        """The encoder in one line, for people."""
        return f"{self.inner.describe()['words']}, its memory wiped at every frame"

    def stream(self, num_envs: int) -> _ForgetfulStream:
        """Rows for `num_envs` episodes.

        Raises:
            OptionError: `num_envs` is not a positive whole number.
        """
        return _ForgetfulStream(self.inner.stream(num_envs), self.fingerprint)

    def close(self) -> None:
        """Closes the encoder inside."""
        self.inner.close()


class _ForgetfulStream:
    """Says `first` at every frame."""

    def __init__(self, inner: Stream, fingerprint: str) -> None:
        self.inner = inner
        self.num_envs = inner.num_envs
        self.fingerprint = fingerprint

    def step(self, frames: Any, first: Flags, rows: Rows = None) -> Tensor:
        """See `vpt_gym.encoders.Stream`."""
        return self.inner.step(frames, np.ones(np.shape(first), np.bool_), rows)

    def encode(self, frames: Any, first: Flags, rows: Rows = None) -> Tensor:
        """See `vpt_gym.encoders.Stream`."""
        return self.inner.encode(frames, np.ones(np.shape(first), np.bool_), rows)

    def state_dict(self) -> dict[str, Any]:
        """The inner stream's state."""
        return self.inner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` gave."""
        self.inner.load_state_dict(state)
