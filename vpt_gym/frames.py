"""The image in an observation: find it in the space, check every batch of it, and bring it to the network's size."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Any, Final

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vpt_gym.config import FRAME_SIZE
from vpt_gym.errors import ObservationError
from vpt_gym.resize import resize

__all__ = ["FrameSource", "Frames", "find_frames", "picture_shape", "preprocessing"]

Frames = npt.NDArray[np.uint8] | Tensor

Path = tuple[str, ...]
"""Keys that lead to an entry of a Dict, through nested ones; none where the observation itself is the image."""

SEEN_BY_PEOPLE: Final = ("screen", "pov", "rgb", "image", "pixels")
"""What environments call the picture that a person would look at, where maps, depths and labels lie beside it."""

BRIGHT: Final = 128
"""A space whose values all end below half of uint8's range says that it holds no picture."""

TINY: Final = 16
"""Pixels: no picture that was made to be looked at is smaller along both sides."""

NAME_IT: Final = "image_key= (on the command line --image-key)"


def preprocessing(size: int) -> str:
    """What happens to a frame before the first convolution, in words; part of an encoder's fingerprint."""
    return f"uint8 RGB, OpenCV INTER_LINEAR to {size}x{size}, /255"


@dataclass(frozen=True)
class FrameSource:
    """Where the image of an observation is and how it lies; made by `find_frames`.

    Attributes:
        owner: what messages call the environment.
        key: key of the image in a Dict observation, `outer/inner` in a nested one; None when the observation is the image.
        path: the same as single keys.
        layout: "HWC", "CHW" or "HW".
        shape: shape of one image, without the axis of a stack of one.
        size: side in pixels that frames are resized to.
    """

    owner: str
    key: str | None
    path: Path
    layout: str
    shape: tuple[int, ...]
    size: int = FRAME_SIZE

    def of(self, observations: Any, rows: int) -> Frames:
        """Takes the frames out of a batch of observations.

        Args:
            observations: uint8 [rows, ...] as the space says, array or tensor, or a mapping that holds it under `key`. Axes of
                length one may be missing or too many.
            rows: how many environments there are.

        Returns:
            uint8 [rows, size, size, 3], array for array and tensor for tensor on its device; never the caller's when anything
            had to be changed.

        Raises:
            ObservationError: dtype or shape is not what the space promised.
        """
        return self._resized(self._checked(self._image(observations), rows))

    def of_each(self, observations: Sequence[Any]) -> Frames:
        """As `of`, for the observations of so many single environments, which are resized together."""
        images = [self._checked(_batch_of_one(self._image(observation)), 1) for observation in observations]
        if len(images) == 1:
            return self._resized(images[0])
        return self._resized(torch.cat(images) if isinstance(images[0], Tensor) else np.concatenate(images))

    def of_one(self, observation: Any) -> Frames:
        """As `of`, for the observation of a single environment: uint8 [1, size, size, 3]."""
        return self.of_each([observation])

    @property
    def channels(self) -> int:
        """One or three."""
        return 1 if self.layout == "HW" else self.shape[0 if self.layout == "CHW" else 2]

    def _image(self, observations: Any) -> Any:
        entry = observations
        for key in self.path:
            if not isinstance(entry, Mapping) or key not in entry:
                came = f"keys {_keys(entry)}" if isinstance(entry, Mapping) else f"a {type(entry).__name__}"
                raise ObservationError(
                    f"{self.owner}: the observation must be a Dict with the image {self.key!r}, as its space says, but {came} "
                    "came; make the environment keep to its space."
                )
            entry = entry[key]
        return entry

    def _checked(self, images: Any, rows: int) -> Any:
        name = "observation" if self.key is None else f"observation[{self.key!r}]"
        if not isinstance(images, (np.ndarray, Tensor)) or images.dtype not in (np.dtype(np.uint8), torch.uint8):
            came = f"dtype {images.dtype}" if hasattr(images, "dtype") else f"a {type(images).__name__}"
            raise ObservationError(
                f"{self.owner}: {name} must be a uint8 array or tensor of raw pixels, but {came} came; do not scale, normalise "
                "or convert frames before the encoder, it does that itself."
            )
        came_shape = tuple(images.shape)
        if came_shape == (rows, *self.shape):
            return images
        if came_shape[:1] != (rows,) or _sides(came_shape[1:]) != _sides(self.shape):
            raise ObservationError(
                f"{self.owner}: {name} must have shape {(rows, *self.shape)}, {rows} rows of what the observation space "
                f"says, but {came_shape} came; make the environment keep to its space."
            )
        return images.reshape(rows, *self.shape)

    def _resized(self, images: Any) -> Frames:
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


def _batch_of_one(image: Any) -> Any:
    return image[None] if isinstance(image, (np.ndarray, Tensor)) else image


def _sides(shape: tuple[int, ...]) -> list[int]:
    return [length for length in shape if length != 1]


def picture_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without the axis of a stack of one: (1, 84, 84, 3) is a picture of (84, 84, 3)."""
    while len(shape) > 3 and shape[0] == 1:
        shape = shape[1:]
    return shape


def find_frames(
    space: gym.Space[Any], image_key: str | None = None, *, owner: str, size: int = FRAME_SIZE
) -> FrameSource:
    """Finds the image in the observation space of one environment.

    Args:
        space: a Box that is an image, or a Dict with one; an image is uint8, height x width x channels or channels x height
            x width, with one or three channels; height x width alone is one channel. The axis of a stack of one is dropped.
        image_key: key of the image, or `outer/inner` in a nested Dict, where not exactly one entry of a Dict is an image.
            Without it, of several images the one is taken that a person would look at, such as `screen` beside `automap`, and
            a warning says so.
        owner: what messages call the environment.
        size: side in pixels that frames are resized to.

    Raises:
        ObservationError: there is no image, or more than one and no `image_key`, or it is not one that VPT can look at.
    """
    if isinstance(space, gym.spaces.Dict):
        path = _only_image(space, owner) if image_key is None else _path_of(space, image_key, owner)
        return _source(_at(space, path), path, owner, size)
    if image_key is not None:
        raise ObservationError(
            f"{owner}: image_key={image_key!r} was given, but the observation is a {type(space).__name__}, not a Dict; "
            "leave image_key out."
        )
    return _source(space, (), owner, size)


def _path_of(space: gym.spaces.Dict, image_key: str, owner: str) -> Path:
    # Those at the top come first: a key may hold a slash itself.
    paths = [path for path in _paths(space) if "/".join(path) == image_key]
    if not paths:
        nested = [path for path in _images(space) if len(path) > 1]
        raise ObservationError(
            f"{owner}: image_key={image_key!r} is not in the observation; its keys are {_keys(space.spaces)}"
            f"{f', and nested images {_names(nested)}' if nested else ''}."
        )
    path = paths[0]
    entry = _at(space, path)
    return (*path, *_only_image(entry, owner)) if isinstance(entry, gym.spaces.Dict) else path


def _paths(space: gym.spaces.Dict) -> Iterator[Path]:
    """Of every entry, those at the top first."""
    yield from ((key,) for key in space.spaces)
    for key, entry in space.spaces.items():
        if isinstance(entry, gym.spaces.Dict):
            yield from ((key, *path) for path in _paths(entry))


def _at(space: gym.Space[Any], path: Path) -> gym.Space[Any]:
    for key in path:
        space = space[key]  # type: ignore[index]
    return space


def _images(space: gym.spaces.Dict) -> list[Path]:
    """Of every entry that is an image: those at the top, or where there are none the nested ones."""
    images = [path for path in _paths(space) if _is_image(_at(space, path))]
    return [path for path in images if len(path) == 1] or images


def _only_image(space: gym.spaces.Dict, owner: str) -> Path:
    images = _images(space)
    if len(images) == 1:
        return images[0]
    for of_people in (
        [path for path in images if path[-1] in SEEN_BY_PEOPLE],
        [path for path in images if 3 in _at(space, path).shape],  # type: ignore[operator]
    ):
        if len(of_people) == 1:
            warnings.warn(
                f"{owner}: {_names(images)} are all images; {'/'.join(of_people[0])!r} is encoded, which a person would look "
                f"at; {NAME_IT} takes another, or this one without a word.",
                stacklevel=2,
            )
            return of_people[0]
    found = f"{_names(images)} all are" if images else f"none of {_keys(space.spaces)} is"
    raise ObservationError(
        f"{owner}: exactly one entry of the observation must be an image (uint8, 3 dimensions), but {found}; name the one to "
        f"encode with {NAME_IT}."
    )


def _is_image(space: gym.Space[Any]) -> bool:
    return isinstance(space, gym.spaces.Box) and space.dtype == np.uint8 and len(picture_shape(space.shape)) == 3


def _source(space: gym.Space[Any], path: Path, owner: str, size: int) -> FrameSource:
    key = "/".join(path) if path else None
    name = "the observation" if key is None else f"observation[{key!r}]"
    if not isinstance(space, gym.spaces.Box):
        raise ObservationError(
            f"{owner}: {name} must be an image, a uint8 Box, but its space is {shorten(str(space), 100)}; use a pixel "
            "environment."
        )
    shape = picture_shape(space.shape)
    if len(shape) == 4:
        raise ObservationError(
            f"{owner}: {name} must be one image, but its shape is {shape}, a stack of several; undo the stack (stack latents "
            "instead, outside the encoder, whose network remembers the frames before)."
        )
    if len(shape) not in (2, 3):
        raise ObservationError(
            f"{owner}: {name} must be an image, but its shape is {shape}; use a pixel environment (or "
            "gymnasium.wrappers.AddRenderObservation), and wrap it once only."
        )
    if 0 in shape:
        raise ObservationError(f"{owner}: {name} must be an image, but its shape is {shape}, which has no pixels.")
    if space.dtype != np.uint8:
        raise ObservationError(
            f"{owner}: {name} must be raw uint8 pixels, but its space is {space.dtype} {shape}; put vpt_gym before any "
            "wrapper that scales frames or computes latents, and wrap an environment once only."
        )
    source = FrameSource(owner, key, path, _layout(shape, name, owner), shape, size)
    _check_picture(space, source, name)
    return source


def _layout(shape: tuple[int, ...], name: str, owner: str) -> str:
    if len(shape) == 2:
        return "HW"
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


def _check_picture(space: gym.spaces.Box, source: FrameSource, name: str) -> None:
    """Refuses what by its bounds is none, and warns of what is too small to be one."""
    channel = {"HW": None, "HWC": 2, "CHW": 0}[source.layout]
    brightest = np.moveaxis(space.high.reshape(source.shape), channel, 0) if channel is not None else space.high[None]
    ends = [int(plane.max()) for plane in brightest.reshape(len(brightest), -1)]
    if min(ends) < BRIGHT:
        raise ObservationError(
            f"{source.owner}: {name} is uint8, but its space says that its channels end at {ends}, a picture's at 255; "
            "scale the pixels to 0 to 255, and draw ids of objects as colours first."
        )
    height, width = _sides_of(source)
    if max(height, width) < TINY:
        warnings.warn(
            f"{source.owner}: {name} is only {height} x {width} pixels. If these are ids of objects on a grid, and no colours, "
            "put a wrapper in front that draws them (MiniGrid: minigrid.wrappers.RGBImgObsWrapper or RGBImgPartialObsWrapper).",
            stacklevel=2,
        )


def _sides_of(source: FrameSource) -> tuple[int, int]:
    height, width = {"HW": source.shape, "HWC": source.shape[:2], "CHW": source.shape[1:]}[source.layout]
    return height, width


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(repr("/".join(path)) for path in paths)


def _keys(keys: Mapping[str, Any] | list[Any]) -> str:
    return ", ".join(repr(key) for key in keys)
