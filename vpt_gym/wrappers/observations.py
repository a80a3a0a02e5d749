"""What the three wrappers share: which encoder, which part of the observation it reads, and what the agent gets to see."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Final

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector.utils import batch_space
from torch import Tensor

from vpt_gym.encoders.protocol import Encoder, Frames
from vpt_gym.errors import ObservationError, OptionError
from vpt_gym.frames import find_frames
from vpt_gym.wrappers.chain import refuse_stack
from vpt_gym.wrappers.goals import GOAL, Goals, Letters
from vpt_gym.wrappers.oddities import FirstLook, Overwritten

__all__ = [
    "IMAGE",
    "LATENT",
    "LatentObservations",
    "Latents",
    "Seen",
    "as_array",
    "check_also",
    "check_keep",
    "copied",
    "image_of",
    "kept",
    "owner_of",
    "refuse_latents",
    "some",
]

LATENT: Final = "latent"
"""Key of the latent in a Dict observation."""

IMAGE: Final = "image"
"""Key of the frames in what a step is given, for an encoder that reads other entries too."""

HANDED_OUT_AS: Final = ("numpy", "torch")
"""What latents can be handed out as: arrays, or tensors on the encoder's device."""

Latents = npt.NDArray[np.float32] | Tensor
"""float32 [n, latent_size]."""

Seen = Frames | dict[str, Any]
"""What an encoder reads of a batch of observations: frames uint8 [n, size, size, 3], array or tensor, or a dict of them and of
other entries."""


def refuse_latents(space: gym.Space[Any], owner: str) -> None:
    """Raises ObservationError when observations hold latents already, put there by a wrapper further inside."""
    if isinstance(space, gym.spaces.Dict) and LATENT in space.spaces:
        raise ObservationError(f"{owner}: observations hold VPT latents already, under {LATENT!r}; wrap once only.")


def owner_of(env: Any) -> str:
    """What messages call an environment: its id if it has one, else its class."""
    # A spec of another kind than Gymnasium's, such as EnvPool's, may have none.
    env_id = getattr(getattr(env, "spec", None), "id", None)
    return env_id if isinstance(env_id, str) else type(env.unwrapped).__name__


class LatentObservations:
    """Reads frames out of observations of one kind and puts latents in their place.

    Args:
        env: whose observations they are, for what it and its wrappers tell of themselves.
        space: observation space of one environment.
        encoder: reads the frames.
        image_key: as for the wrappers, and so are `keep` and `to`.
        keep: of the observation.
        owner: what messages call the environment.
        to: `numpy` or `torch`.
        goals: what is wanted, to stand beside the latent; None for nothing.

    Attributes:
        space: observation space of one wrapped environment: the latent's, or with `keep` or goals a Dict of it, the kept
            entries and the goal.
    """

    def __init__(
        self,
        env: Any,
        space: gym.Space[Any],
        encoder: Encoder,
        image_key: str | None,
        keep: Sequence[str],
        owner: str,
        to: str = "numpy",
        goals: Goals | None = None,
    ) -> None:
        if to not in HANDED_OUT_AS:
            raise OptionError(f"to must be one of {', '.join(HANDED_OUT_AS)}, not {to!r}.")
        self.owner = owner
        self._to = to
        self._source = find_frames(space, image_key, owner=owner, size=encoder.frame_size)
        refuse_stack(env, self._source)
        self._first_look, self._overwritten = FirstLook(owner), Overwritten(owner)
        self._keep = check_keep(space, keep, owner)
        self._also = check_also(space, encoder.also_reads, owner)
        self._letters = {key for key in self._also if isinstance(space[key], Letters)}  # type: ignore[index]
        self._goals = goals
        beside: dict[str, gym.Space[Any]] = {}
        if self._keep:
            assert isinstance(space, gym.spaces.Dict)
            # Copies: VecNormalize writes into the Dict of what it wraps.
            beside = {key: copy.deepcopy(space[key]) for key in self._keep}
        if goals is not None:
            goals.check(space, owner)
            if GOAL in self._keep:
                raise ObservationError(
                    f"{owner}: keep={GOAL!r} would take the goal's own key; rename that entry first."
                )
            beside[GOAL] = goals.space
        goal_key = goals.key if goals is not None else None
        self._readers = {
            **({} if goal_key is None else {goal_key: "goal_key= names"}),
            **dict.fromkeys(self._also, "the encoder reads"),
            **dict.fromkeys(self._keep, "keep= asks for"),
        }
        self.space: gym.Space[Any] = encoder.latent_space
        if beside:
            self.space = gym.spaces.Dict({LATENT: encoder.latent_space, **beside})

    def batched(self, given: gym.Space[Any], rows: int) -> gym.Space[Any]:
        """The space of so many wrapped environments, where `given` is theirs: rows of kept entries may differ in bounds."""
        space = batch_space(self.space, rows)
        if isinstance(space, gym.spaces.Dict) and isinstance(given, gym.spaces.Dict):
            kept_entries = {key: copy.deepcopy(given[key]) for key in self._keep}
            return gym.spaces.Dict({**space.spaces, **kept_entries})
        return space

    def seen(self, observations: Any, rows: int) -> Seen:
        """What the encoder reads of a batch of observations, all arrays of so many rows."""
        self._check_whole(observations)
        frames = self._source.of(observations, rows)
        self._first_look.at(frames)
        self._overwritten.watch(frames)
        if not self._also:
            return frames
        arrays = {key: as_array(observations[key]) for key in self._also}
        for key, array in arrays.items():
            if array.shape[:1] != (rows,):
                raise ObservationError(
                    f"{self.owner}: observation[{key!r}] must have {rows} rows, but it has shape {array.shape}; make the "
                    "environment keep to its space."
                )
        return {IMAGE: frames, **self._read(arrays)}

    def handed_out(self, latents_nd: Tensor) -> Latents:
        """What a stream gave, fresh, as the caller wants it."""
        return latents_nd if self._to == "torch" else latents_nd.cpu().numpy()

    def seen_of_one(self, observation: Any) -> Seen:
        """As `seen`, for the observation of a single environment: arrays of one row."""
        seen = self.seen_of_each([observation])
        self._first_look.at(image_of(seen))
        return seen

    def seen_of_each(self, observations: Sequence[Any]) -> Seen:
        """As `seen`, for the observations of single environments: arrays of one row for each."""
        for observation in observations:
            self._check_whole(observation)
        frames = self._source.of_each(observations)
        if not self._also:
            return frames
        arrays = {key: np.stack([as_array(observation[key]) for observation in observations]) for key in self._also}
        return {IMAGE: frames, **self._read(arrays)}

    def _read(self, arrays: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Entries [n, ...] as the encoder reads them: what crossed a VecEnv as letters is texts again."""
        for key in self._letters:
            arrays[key] = np.array([Letters.read(row) for row in arrays[key]], np.object_)
        return arrays

    def frames_of_each(self, observations: Sequence[Any]) -> Any:
        """The frames alone of observations of single environments."""
        return self._source.of_each(observations)

    def compare_ends(self, last: Seen, opening: Seen, rows: npt.NDArray[np.int64]) -> None:
        """Warns once when the last frames of rows are the opening frames of their next episodes: what `seen` gave last."""
        self._overwritten.compare(image_of(last), image_of(some(opening, rows)), rows)

    def _check_whole(self, observation: Any) -> None:
        # Before anything is encoded: a refused observation must not have moved the memory.
        missing = [key for key in self._readers if not isinstance(observation, Mapping) or key not in observation]
        if missing:
            raise ObservationError(
                f"{self.owner}: the observation lacks {', '.join(map(repr, missing))}, which its space promises and "
                f"{self._readers[missing[0]]}; make the environment keep to its space."
            )

    def join(self, latents: Latents, observations: Any) -> Any:
        """Latents, what is kept of the observations and their goals, all batched or all of one environment; copies."""
        if not self._keep and self._goals is None:
            return latents
        joined = {LATENT: latents, **{key: kept(observations[key]) for key in self._keep}}
        if self._goals is not None:
            one = latents.ndim == 1
            goals = (
                self._goals.of(observations, self.owner)
                if one
                else self._goals.of_rows(observations, len(latents), self.owner)
            )
            joined[GOAL] = torch.from_numpy(goals).to(latents.device) if isinstance(latents, Tensor) else goals
        return joined


def kept(values: Any) -> Any:
    """A copy of an entry of an observation."""
    # A deep copy of one row of a tensor would copy the memory of all of them.
    return values.detach().clone() if isinstance(values, Tensor) else copy.deepcopy(values)


def image_of(seen: Seen) -> Any:
    """The frames alone of what the encoder reads."""
    return seen[IMAGE] if isinstance(seen, dict) else seen


def some(seen: Seen, rows: npt.NDArray[Any]) -> Seen:
    """The rows of a batch that a mask or a list of rows names."""
    return {key: array[rows] for key, array in seen.items()} if isinstance(seen, dict) else seen[rows]


def as_array(values: Any) -> npt.NDArray[Any]:
    """Numbers of an environment, which may keep them as tensors on a GPU, as an array."""
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)


def copied(latents: Latents) -> Latents:
    """Latents that share no memory with these."""
    return latents.clone() if isinstance(latents, Tensor) else latents.copy()


def check_also(space: gym.Space[Any], also: tuple[str, ...], owner: str) -> tuple[str, ...]:
    """The keys that an encoder reads besides the image; raises ObservationError if the observation has no such entries."""
    entries = space.spaces if isinstance(space, gym.spaces.Dict) else {}
    for key in also:
        if not isinstance(entries.get(key), (gym.spaces.Box, gym.spaces.Discrete, gym.spaces.Text)):
            came = f"its entries are {', '.join(map(repr, entries))}" if entries else f"it is a {type(space).__name__}"
            raise ObservationError(
                f"{owner}: the encoder reads {', '.join(map(repr, also))} of every observation, a Box, a Discrete or a Text "
                f"each, at the top of a Dict, but {key!r} is not there ({came}); add it in the environment, flattening a "
                "nested Dict."
            )
    return also


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
