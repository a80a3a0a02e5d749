"""Makes frames small where they are made, so that little has to travel to the encoder."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from vpt_gym.config import FRAME_SIZE
from vpt_gym.frames import find_frames
from vpt_gym.wrappers.chain import refuse_stack
from vpt_gym.wrappers.goals import lettered, with_letters
from vpt_gym.wrappers.observations import check_keep, kept, owner_of

__all__ = ["ResizeFrame"]


class ResizeFrame(gym.ObservationWrapper[Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Resizes an observation's image to what the encoder looks at, exactly as the encoder would, and drops what nobody keeps.

    A 640x360 frame is 691 KB, a resized one 49 KB: put around each environment in a worker process, this is what crosses the
    pipe. The latents are the same as without it.

    Args:
        env: as for `VPTLatentObservation`.
        image_key: key of the image, where not exactly one entry of a Dict observation is an image.
        keep: keys of a Dict observation to hand on as they are. The image's own key keeps the image whole: nothing is resized.
        size: side in pixels of the square frames that the encoder looks at.
        texts: keys of Text entries to hand on too, as arrays of their characters (`Letters`): a VecEnv holds no texts. Entries
            of another kind among them are left alone.

    The observation is uint8 [size, size, 3], or for a Dict observation a Dict of it, under its own key (`outer/inner` where it
    was nested), and the kept entries. Every observation is the caller's own, whatever the environment does with its arrays.

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
        texts: Sequence[str] = (),
    ) -> None:
        gym.ObservationWrapper.__init__(self, env)
        space = env.observation_space
        self._source = find_frames(space, image_key, owner=owner_of(env), size=size)
        refuse_stack(env, self._source)
        self._keep = check_keep(space, keep, owner_of(env))
        gym.utils.RecordConstructorArgs.__init__(
            self, image_key=image_key, keep=list(keep), size=size, texts=list(texts)
        )
        self._letters = with_letters(space, texts) if isinstance(space, gym.spaces.Dict) else {}
        small = gym.spaces.Box(0, 255, (size, size, 3), np.uint8)
        if isinstance(space, gym.spaces.Dict):
            assert self._source.key is not None
            self.observation_space = gym.spaces.Dict(
                {self._source.key: small, **{key: copy.deepcopy(space[key]) for key in self._keep}, **self._letters}
            )
        else:
            self.observation_space = small

    def observation(self, observation: Any) -> Any:
        """One observation of the environment -> its image, resized unless it is kept whole, and what is kept."""
        texts = lettered(observation, self._letters, owner_of(self.env)) if self._letters else {}
        if self._source.key in self._keep:
            return {**{key: kept(observation[key]) for key in self._keep}, **texts}
        frame = kept(self._source.of_one(observation)[0])
        if self._source.key is None:
            return frame
        return {self._source.key: frame, **{key: kept(observation[key]) for key in self._keep}, **texts}
