"""One Gymnasium environment whose observation is a VPT latent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np

from vpt_gym.encoders import Encoder, EncoderBase, Lent, Stream, as_encoder
from vpt_gym.errors import ObservationError, ResetNeeded
from vpt_gym.wrappers.chain import check_kind, layers
from vpt_gym.wrappers.goals import goals_of
from vpt_gym.wrappers.observations import LatentObservations, owner_of

__all__ = ["VPTLatentObservation"]


class VPTLatentObservation(gym.ObservationWrapper[Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Turns the pixels of an environment into VPT latents, with the network's memory of the running episode.

    The first frame after `reset`, and the first frame after a step that ended an episode (under an auto-resetting wrapper),
    opens an episode: it is encoded with `first=True` and sees itself alone.

    Args:
        env: its observation is an image (uint8, array or tensor; height x width x 1 or 3, or channels first) or a Dict of one.
        encoder: from `vpt_gym.load_encoder` or `vpt_gym.minestudio.encoder_from_policy`, shared freely; or a source string.
        image_key: key of the image, or `outer/inner` in a nested Dict, where not exactly one entry of a Dict is an image.
        keep: keys of a Dict observation to hand on beside the latent; the observation is then a Dict with `latent` and these.
        encoder_options: keyword arguments of `load_encoder`, when `encoder` is a source string.
        to: hand latents out as `numpy` arrays, or as `torch` tensors on the encoder's device.
        goal: what is wanted, in words, embedded once by CLIP's text tower and handed on beside the latent as `goal`.
        goal_key: of a Text entry at the top of a Dict observation that says the goal, in place of `goal`.
        clip: a folder or hub repository with the CLIP that embeds goals; None for the encoder's own, or the paper's.

    The observation is float32 [latent_size], or with `keep` or a goal a Dict `{"latent": ..., ...}`. The wrapper's arguments
    are recorded in `env.spec` as the encoder's source and options (an encoder made from a policy stands for itself), so that
    `gymnasium.make(env.spec)` rebuilds the environment.

    Attributes:
        encoder: the encoder.
        latent_stream: the memory of the running episode.

    Raises:
        VPTGymError: `env` is no environment, `encoder` no encoder, or `to` another word.
        ObservationError: the observation holds no image that VPT can look at, a key is missing, or the environment is
            wrapped already; from `reset` and `step` too, when an observation is not what its space says.
        ResetNeeded: `step` before the first `reset`.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        encoder: Encoder | str,
        *,
        image_key: str | None = None,
        keep: Sequence[str] = (),
        encoder_options: Mapping[str, Any] | None = None,
        to: str = "numpy",
        goal: str | None = None,
        goal_key: str | None = None,
        clip: str | None = None,
    ) -> None:
        check_kind(env, gym.Env, "VPTLatentObservation wraps a gymnasium.Env")
        owner = owner_of(env)
        _refuse_double_wrapping(env, owner)
        self.encoder = as_encoder(encoder, encoder_options)
        self._latent_observations = LatentObservations(
            env,
            env.observation_space,
            self.encoder,
            image_key,
            keep,
            owner,
            to,
            goals_of(goal, goal_key, clip, self.encoder),
        )
        recorded = dict(self.encoder.recorded)
        if not isinstance(recorded["encoder"], (str, EncoderBase)):
            # An encoder of the user's own need not know what a deep copy of it is, and its weights are large.
            recorded["encoder"] = Lent(recorded["encoder"])
        gym.utils.RecordConstructorArgs.__init__(
            self,
            **recorded,
            image_key=image_key,
            keep=list(keep),
            to=to,
            goal=goal,
            goal_key=goal_key,
            clip=clip,
        )
        gym.ObservationWrapper.__init__(self, env)
        self.observation_space = self._latent_observations.space
        self.latent_stream: Stream = self.encoder.stream(1)
        self._opens: bool | None = None
        """Whether the next frame opens an episode; None before the first reset."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets the environment; the observation is the opening frame's latent."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._opens = True
        return self.observation(observation), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Steps the environment; the observation is the new frame's latent, also when the episode ends with it."""
        if self._opens is None:
            raise ResetNeeded(f"{self._latent_observations.owner}: step was called before reset; call reset first.")
        observation, reward, terminated, truncated, info = self.env.step(action)
        try:
            latent = self.observation(observation)
        finally:
            # Also when the last frame is refused: the episode has ended all the same.
            self._opens = self._opens or bool(terminated or truncated)
        return latent, reward, terminated, truncated, info

    def observation(self, observation: Any) -> Any:
        """Encodes the next frame of the running episode and moves its memory on; called by `reset` and `step`."""
        frame = self._latent_observations.seen_of_one(observation)
        latents = self.latent_stream.step(frame, np.array([bool(self._opens)]))
        self._opens = False
        return self._latent_observations.join(self._latent_observations.handed_out(latents)[0], observation)


def _refuse_double_wrapping(env: gym.Env[Any, Any], owner: str) -> None:
    if any(isinstance(layer, VPTLatentObservation) for layer in layers(env)):
        raise ObservationError(f"{owner}: the environment gives VPT latents already; wrap it once only.")
