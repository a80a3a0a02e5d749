"""What the three wrappers share: which encoder, which part of the observation it reads, and what the agent gets to see."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Final

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from vpt_gym.encoder import VPTEncoder, load_encoder
from vpt_gym.errors import ObservationError, VPTGymError
from vpt_gym.frames import Frames, find_frames

__all__ = [
    "LATENT",
    "LatentObservations",
    "Latents",
    "as_encoder",
    "check_keep",
    "check_kind",
    "owner_of",
    "refuse_latents",
]

LATENT: Final = "latent"
"""Key of the latent in a Dict observation."""

Latents = npt.NDArray[np.float32]


def as_encoder(encoder: VPTEncoder | str, options: Mapping[str, str] | None) -> VPTEncoder:
    """The encoder itself, or the one that a source string and `load_encoder`'s keyword arguments name.

    Raises:
        VPTGymError: options came with an encoder that is loaded already, or `encoder` is neither.
    """
    if isinstance(encoder, str):
        return load_encoder(encoder, **(options or {}))
    if not isinstance(encoder, VPTEncoder):
        raise VPTGymError(f"encoder must be a VPTEncoder or a source string, not a {type(encoder).__name__}.")
    if options is not None:
        raise VPTGymError(
            "encoder_options go with a source string; this encoder is loaded already, with its own options."
        )
    return encoder


def check_kind(env: object, kind: type, wraps: str) -> None:
    """Raises VPTGymError, which names the right wrapper, unless `env` is of the kind that a wrapper `wraps`."""
    if not isinstance(env, kind):
        raise VPTGymError(
            f"{wraps}, but a {type(env).__name__} came first; use VPTLatentObservation for one environment, "
            "vpt_gym.vector.VPTLatentObservation for Gymnasium's vector environments and vpt_gym.sb3.VecVPTLatent for SB3's."
        )


def refuse_latents(space: gym.Space[Any], owner: str) -> None:
    """Raises ObservationError when observations hold latents already, put there by a wrapper further inside."""
    if isinstance(space, gym.spaces.Dict) and LATENT in space.spaces:
        raise ObservationError(f"{owner}: observations hold VPT latents already, under {LATENT!r}; wrap once only.")


def owner_of(env: Any) -> str:
    """What messages call an environment: its id if it has one, else its class."""
    spec = getattr(env, "spec", None)
    return spec.id if spec is not None else type(env.unwrapped).__name__


class LatentObservations:
    """Reads frames out of observations of one kind and puts latents in their place.

    Attributes:
        space: observation space of one wrapped environment: the latent's, or with `keep` a Dict of it and the kept entries.
    """

    def __init__(
        self,
        space: gym.Space[Any],
        latent_space: gym.spaces.Box,
        image_key: str | None,
        keep: Sequence[str],
        owner: str,
    ) -> None:
        self.owner = owner
        self._source = find_frames(space, image_key, owner=owner)
        self._keep = check_keep(space, keep, owner)
        self.space: gym.Space[Any] = latent_space
        if self._keep:
            assert isinstance(space, gym.spaces.Dict)
            self.space = gym.spaces.Dict({LATENT: latent_space, **{key: space[key] for key in self._keep}})

    def frames(self, observations: Any, rows: int) -> Frames:
        """A batch of observations -> uint8 [rows, 128, 128, 3]."""
        self._check_kept(observations)
        return self._source.of(observations, rows)

    def frame(self, observation: Any) -> Frames:
        """One environment's observation -> uint8 [1, 128, 128, 3]."""
        self._check_kept(observation)
        return self._source.of_one(observation)

    def _check_kept(self, observation: Any) -> None:
        # Before anything is encoded: a refused observation must not have moved the memory.
        missing = [key for key in self._keep if not isinstance(observation, Mapping) or key not in observation]
        if missing:
            raise ObservationError(
                f"{self.owner}: the observation lacks {', '.join(map(repr, missing))}, which its space promises and keep= asks "
                "for; make the environment keep to its space."
            )

    def join(self, latents: Latents, observations: Any) -> Any:
        """Latents and what is kept of the observations, both batched or both of one environment; copies what is kept."""
        if not self._keep:
            return latents
        return {LATENT: latents, **{key: copy.deepcopy(observations[key]) for key in self._keep}}


def check_keep(space: gym.Space[Any], keep: Sequence[str], owner: str) -> tuple[str, ...]:
    """The keys to keep; raises ObservationError if they are not entries of a Dict observation that can be kept."""
    if isinstance(keep, str):
        raise ObservationError(
            f"{owner}: keep must be a list of keys, not the string {keep!r}; write keep=({keep!r},)."
        )
    if not keep:
        return ()
    if not isinstance(space, gym.spaces.Dict):
        raise ObservationError(
            f"{owner}: keep={tuple(keep)} needs a Dict observation, but this one is a {type(space).__name__}; leave keep out."
        )
    for key in keep:
        if key not in space.spaces:
            names = ", ".join(repr(name) for name in space.spaces)
            raise ObservationError(f"{owner}: keep={key!r} is not in the observation; its keys are {names}.")
        if isinstance(space[key], (gym.spaces.Dict, gym.spaces.Tuple)):
            raise ObservationError(
                f"{owner}: keep={key!r} is itself a {type(space[key]).__name__}, and the wrapped observation is a flat Dict; "
                "flatten that entry in the environment first."
            )
    if LATENT in keep:
        raise ObservationError(f"{owner}: keep={LATENT!r} would take the latent's own key; rename that entry first.")
    return tuple(keep)
