"""Makes frames small where they are made, so that little has to travel to the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from vpt_gym.config import FRAME_SIZE
from vpt_gym.frames import find_frames
from vpt_gym.wrappers.observations import check_keep, owner_of

__all__ = ["ResizeFrame"]


class ResizeFrame(gym.ObservationWrapper[Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Resizes an observation's image to what the encoder looks at, exactly as the encoder would, and drops what nobody keeps.

    A 640x360 frame is 691 KB, a resized one 49 KB: put around each environment in a worker process, this is what crosses the
    pipe. The latents are the same as without it.

    Args:
        env: as for `VPTLatentObservation`.
        image_key: key of the image, where not exactly one entry of a Dict observation is an image.
        keep: keys of a Dict observation to hand on beside the image.
        size: side in pixels of the square frames that the encoder looks at.

    The observation is uint8 [size, size, 3], or for a Dict observation a Dict of it, under its own key, and the kept entries.

    Raises:
        ObservationError: as for `VPTLatentObservation`.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        *,
        image_key: str | None = None,
        keep: Sequence[str] = (),
        size: int = FRAME_SIZE,
    ) -> None:
        gym.ObservationWrapper.__init__(self, env)
        space = env.observation_space
        self._source = find_frames(space, image_key, owner=owner_of(env), size=size)
        self._keep = check_keep(space, keep, owner_of(env))
        gym.utils.RecordConstructorArgs.__init__(self, image_key=image_key, keep=list(keep), size=size)
        small = gym.spaces.Box(0, 255, (size, size, 3), np.uint8)
        if isinstance(space, gym.spaces.Dict):
            assert self._source.key is not None
            kept = {key: space[key] for key in self._keep}
            self.observation_space = gym.spaces.Dict({**kept, self._source.key: small})
        else:
            self.observation_space = small

    def observation(self, observation: Any) -> Any:
        """One observation of the environment -> its image, resized, and what is kept."""
        frame = self._source.of_one(observation)[0]
        if self._source.key is None:
            return frame
        return {**{key: observation[key] for key in self._keep}, self._source.key: frame}
