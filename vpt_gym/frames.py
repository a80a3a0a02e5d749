"""The image in an observation: find it in the space, check every batch of it, and bring it to the network's size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vpt_gym.config import FRAME_SIZE
from vpt_gym.errors import ObservationError
from vpt_gym.resize import resize

__all__ = ["FrameSource", "Frames", "find_frames", "preprocessing"]

Frames = npt.NDArray[np.uint8] | Tensor


def preprocessing(size: int) -> str:
    """What happens to a frame before the first convolution, in words; part of an encoder's fingerprint."""
    return f"uint8 RGB, OpenCV INTER_LINEAR to {size}x{size}, /255"


@dataclass(frozen=True)
class FrameSource:
    """Where the image of an observation is and how it lies; made by `find_frames`.

    Attributes:
        owner: what messages call the environment.
        key: key of the image in a Dict observation, or None when the observation is the image.
        layout: "HWC", "CHW" or "HW".
        shape: shape of one image.
        size: side in pixels that frames are resized to.
    """

    owner: str
    key: str | None
    layout: str
    shape: tuple[int, ...]
    size: int = FRAME_SIZE

    def of(self, observations: Any, rows: int) -> Frames:
        """Takes the frames out of a batch of observations.

        Args:
            observations: uint8 [rows, ...] as the space says, array or tensor, or a mapping that holds it under `key`.
            rows: how many environments there are.

        Returns:
            uint8 [rows, size, size, 3], array for array and tensor for tensor on its device; never the caller's when anything
            had to be changed.

        Raises:
            ObservationError: dtype or shape is not what the space promised.
        """
        if self.key is None:
            images = observations
        elif isinstance(observations, Mapping) and self.key in observations:
            images = observations[self.key]
        else:
            came = (
                f"keys {_keys(observations)}"
                if isinstance(observations, Mapping)
                else f"a {type(observations).__name__}"
            )
            raise ObservationError(
                f"{self.owner}: the observation must be a Dict with the image {self.key!r}, as its space says, but {came} "
                "came; make the environment keep to its space."
            )
        name = "observation" if self.key is None else f"observation[{self.key!r}]"
        if not isinstance(images, (np.ndarray, Tensor)) or images.dtype not in (np.dtype(np.uint8), torch.uint8):
            came = f"dtype {images.dtype}" if hasattr(images, "dtype") else f"a {type(images).__name__}"
            raise ObservationError(
                f"{self.owner}: {name} must be a uint8 array or tensor of raw pixels, but {came} came; do not scale, normalise "
                "or convert frames before the encoder, it does that itself."
            )
        if tuple(images.shape) != (rows, *self.shape):
            raise ObservationError(
                f"{self.owner}: {name} must have shape {(rows, *self.shape)}, {rows} rows of what the observation space "
                f"says, but {tuple(images.shape)} came; make the environment keep to its space."
            )
        if self.layout == "CHW":
            images = images.permute(0, 2, 3, 1) if isinstance(images, Tensor) else images.transpose(0, 2, 3, 1)
        elif self.layout == "HW":
            images = images[..., None]
        frames_nhwc: Any = resize(images, self.size)
        if frames_nhwc.shape[3] == 3:
            return frames_nhwc  # type: ignore[no-any-return]
        if isinstance(frames_nhwc, Tensor):
            return frames_nhwc.repeat(1, 1, 1, 3)
        return np.repeat(frames_nhwc, 3, axis=3)

    def of_one(self, observation: Any) -> Frames:
        """As `of`, for the observation of a single environment: uint8 [1, size, size, 3]."""
        if self.key is None:
            return self.of(_batch_of_one(observation), 1)
        if isinstance(observation, Mapping) and self.key in observation:
            observation = {self.key: _batch_of_one(observation[self.key])}
        return self.of(observation, 1)


def _batch_of_one(image: Any) -> Any:
    return image[None] if isinstance(image, (np.ndarray, Tensor)) else image


def find_frames(
    space: gym.Space[Any], image_key: str | None = None, *, owner: str, size: int = FRAME_SIZE
) -> FrameSource:
    """Finds the image in the observation space of one environment.

    Args:
        space: a Box that is an image, or a Dict with one; an image is uint8, height x width x channels or channels x height
            x width, with one or three channels; height x width alone is one channel.
        image_key: key of the image, needed when not exactly one entry of a Dict is an image.
        owner: what messages call the environment.
        size: side in pixels that frames are resized to.

    Raises:
        ObservationError: there is no image, or more than one and no `image_key`, or it is not one that VPT can look at.
    """
    if isinstance(space, gym.spaces.Dict):
        if image_key is None:
            image_key = _only_image(space, owner)
        elif image_key not in space.spaces:
            raise ObservationError(
                f"{owner}: image_key={image_key!r} is not in the observation; its keys are {_keys(space.spaces)}."
            )
        return _source(space[image_key], image_key, owner, size)
    if image_key is not None:
        raise ObservationError(
            f"{owner}: image_key={image_key!r} was given, but the observation is a {type(space).__name__}, not a Dict; "
            "leave image_key out."
        )
    return _source(space, None, owner, size)


def _only_image(space: gym.spaces.Dict, owner: str) -> str:
    images = [key for key, entry in space.spaces.items() if _is_image(entry)]
    if len(images) == 1:
        return str(images[0])
    found = f"{_keys(images)} all are" if images else f"none of {_keys(space.spaces)} is"
    raise ObservationError(
        f"{owner}: exactly one entry of the observation must be an image (uint8, 3 dimensions), but {found}; name the one to "
        "encode with image_key=."
    )


def _is_image(space: gym.Space[Any]) -> bool:
    return isinstance(space, gym.spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3


def _source(space: gym.Space[Any], key: str | None, owner: str, size: int) -> FrameSource:
    name = "the observation" if key is None else f"observation[{key!r}]"
    if not isinstance(space, gym.spaces.Box):
        raise ObservationError(
            f"{owner}: {name} must be an image, a uint8 Box, but its space is {space}; use a pixel environment."
        )
    if len(space.shape) not in (2, 3):
        raise ObservationError(
            f"{owner}: {name} must be an image, but its shape is {space.shape}; use a pixel environment (or "
            "gymnasium.wrappers.AddRenderObservation), and wrap it once only."
        )
    if space.dtype != np.uint8:
        raise ObservationError(
            f"{owner}: {name} must be raw uint8 pixels, but its space is {space.dtype} {space.shape}; put vpt_gym before any "
            "wrapper that scales frames or computes latents, and wrap an environment once only."
        )
    return FrameSource(owner, key, _layout(space.shape, name, owner), space.shape, size)


def _layout(shape: tuple[int, ...], name: str, owner: str) -> str:
    if len(shape) == 2:
        return "HW"
    if len(shape) == 3:
        last, leading = shape[2] in (1, 3), shape[0] in (1, 3)
        if last != leading:
            return "HWC" if last else "CHW"
        if last:
            raise ObservationError(
                f"{owner}: {name} has shape {shape}, where both the first and the last axis could be channels; reshape it to "
                "height x width x channels with more than 3 pixels a side."
            )
    raise ObservationError(
        f"{owner}: {name} must have one or three channels, first or last, but its shape is {shape}; stacks of frames and "
        "alpha channels must be undone first (stack latents instead, outside the encoder)."
    )


def _keys(keys: Mapping[str, Any] | list[Any]) -> str:
    return ", ".join(repr(key) for key in keys)
