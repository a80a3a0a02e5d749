"""A Gymnasium vector environment whose observations are VPT latents: one call of the network for all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from torch import Tensor

from vpt_gym.encoders import Encoder, Stream, as_encoder
from vpt_gym.errors import ObservationError, ResetNeeded
from vpt_gym.wrappers.chain import check_kind, layers
from vpt_gym.wrappers.goals import goals_of
from vpt_gym.wrappers.observations import (
    LatentObservations,
    Latents,
    Seen,
    as_array,
    copied,
    owner_of,
    refuse_latents,
    some,
)

__all__ = ["VPTLatentObservation"]

Mask = npt.NDArray[np.bool_]


class VPTLatentObservation(VectorWrapper):
    """Turns the pixels of N environments into VPT latents, with the network's memory of each running episode.

    All three autoreset modes work, and so does `reset(options={"reset_mask": mask})`, which steps only the rows in the mask
    and hands back the other rows' last latents. In SAME_STEP mode `infos["final_obs"]` holds the ended episodes' last
    latents, computed on the memory of the episode that they end.

    Args:
        env: a vector environment, whose single observation is an image (uint8, array or tensor; height x width x 1 or 3,
            or channels first) or a Dict with one; `metadata["autoreset_mode"]` must be set, as Gymnasium's own are.
        encoder: from `vpt_gym.load_encoder` or `vpt_gym.minestudio.encoder_from_policy`, shared freely; or a source string.
        image_key: key of the image, or `outer/inner` in a nested Dict, where not exactly one entry of a Dict is an image.
        keep: keys of a Dict observation to hand on beside the latent; the observation is then a Dict with `latent` and these.
        encoder_options: keyword arguments of `load_encoder`, when `encoder` is a source string.
        to: hand latents out as `numpy` arrays, or as `torch` tensors on the encoder's device.
        goal: what is wanted, in words, embedded once by CLIP's text tower and handed on beside the latent as `goal`.
        goal_key: of a Text entry at the top of a Dict observation that says the goal, in place of `goal`.
        clip: a folder or hub repository with the CLIP that embeds goals; None for the encoder's own, or the paper's.

    Observations are float32 [N, latent_size], or with `keep` or a goal a Dict `{"latent": ..., ...}`; fresh arrays every time.

    Attributes:
        encoder: the encoder.
        latent_stream: the memory of the running episodes.

    Raises:
        VPTGymError: `env` is no vector environment, or `encoder` no encoder.
        ObservationError: the observation holds no image that VPT can look at, a key is missing, the environments are wrapped
            already, or the autoreset mode is unknown; from `reset` and `step` too, when observations are not what their
            space says, a mask is not a boolean array of N with a True in it, or a last observation is missing.
        ResetNeeded: `step` or a masked `reset` before the first whole `reset`.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
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
        check_kind(env, VectorEnv, "vpt_gym.vector.VPTLatentObservation wraps a gymnasium.vector.VectorEnv")
        super().__init__(env)
        self._owner = owner_of(env)
        _refuse_double_wrapping(env, self._owner)
        self._mode = _autoreset_mode(env, self._owner)
        self.encoder = as_encoder(encoder, encoder_options)
        goals = goals_of(goal, goal_key, clip, self.encoder)
        self._latent_observations = LatentObservations(
            env, env.single_observation_space, self.encoder, image_key, keep, self._owner, to, goals
        )
        self.single_observation_space = self._latent_observations.space
        self.observation_space = self._latent_observations.batched(env.observation_space, env.num_envs)
        self.latent_stream: Stream = self.encoder.stream(env.num_envs)
        self._latents: Latents | None = None
        """[N, latent_size], a private copy of the latents handed out last; None before the first reset."""
        self._opens: Mask = np.ones(env.num_envs, np.bool_)
        """Rows whose next frame opens an episode: its last frame came before, or its opening one was refused."""

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets all environments, or with `options={"reset_mask": mask}` those in the mask (bool [N])."""
        mask = np.ones(self.num_envs, np.bool_)
        if options is not None and "reset_mask" in options:
            mask = self._check_mask(options["reset_mask"])
            # Gymnasium's environments take the mask out of the dict they are given; this one is the caller's.
            options = dict(options)
        observations, infos = self.env.reset(seed=seed, options=options)
        self._opens = self._opens | mask
        frames = self._latent_observations.seen(observations, self.num_envs)
        if mask.all():
            latents = self._step_all(frames, mask)
        else:
            assert self._latents is not None
            rows = np.flatnonzero(mask)
            renewed: Any = copied(self._latents)  # array or tensor, and a mask is the same to both
            renewed[mask] = self._step_rows(some(frames, mask), mask[rows], rows)
            latents = renewed
        self._opens = self._opens & ~mask
        self._latents = latents
        return self._latent_observations.join(copied(latents), observations), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Steps all environments and encodes their frames in one call, two when episodes end in SAME_STEP mode."""
        if self._latents is None:
            raise ResetNeeded(f"{self._owner}: step was called before reset; call reset first.")
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        done = as_array(terminations).astype(np.bool_) | as_array(truncations).astype(np.bool_)
        opened = self._opens
        # From here on, whatever fails: what has ended has ended, and what nobody saw open opens with the next frame.
        self._opens = opened | done
        frames = self._latent_observations.seen(observations, self.num_envs)
        if self._mode is AutoresetMode.SAME_STEP:
            if done.any():
                infos = self._with_final_latents(infos, np.flatnonzero(done), opened, frames)
            self._latents = self._step_all(frames, opened | done)
            self._opens = np.zeros(self.num_envs, np.bool_)
        else:
            if done.any():
                self._check_told_apart(observations, infos, np.flatnonzero(done))
            self._latents = self._step_all(frames, opened)
            # In DISABLED mode a reset comes first, which opens an episode by itself.
            self._opens = done
        return (
            self._latent_observations.join(copied(self._latents), observations),
            rewards,
            terminations,
            truncations,
            infos,
        )

    def _step_all(self, frames: Seen, first: Mask) -> Latents:
        return self._latent_observations.handed_out(self.latent_stream.step(frames, first))

    def _step_rows(self, frames: Seen, first: Mask, rows: npt.NDArray[np.int64]) -> Latents:
        return self._latent_observations.handed_out(self.latent_stream.step(frames, first, rows=rows))

    def _with_final_latents(
        self, infos: dict[str, Any], rows: npt.NDArray[np.int64], opened: Mask, opening: Seen
    ) -> dict[str, Any]:
        """Infos with the last observations of the rows' episodes encoded, on the memory that those episodes leave behind."""
        name = _final_name(infos)
        final_obs = infos.get(name)
        # Native vector environments have a last observation for every row, and no mask.
        present = as_array(infos.get(f"_{name}", np.ones(self.num_envs, np.bool_)))
        if present.shape != (self.num_envs,) or not present[rows].all() or not _has_rows(final_obs, self.num_envs):
            raise ObservationError(
                f"{self._owner}: infos['final_obs'] and its mask '_final_obs' must hold the last observation of every episode "
                f"that ends in SAME_STEP mode, but those of environments {rows.tolist()} are not all there; make the vector "
                "environment provide them, or use NEXT_STEP mode."
            )
        final = [_row_of(final_obs, row) for row in rows]
        frames = self._latent_observations.seen_of_each(final)
        self._latent_observations.compare_ends(frames, opening, rows)
        latents = self._step_rows(frames, opened[rows], rows)
        encoded = np.full(self.num_envs, None, dtype=object)
        for row, latent, observation in zip(rows, latents, final, strict=True):
            encoded[row] = self._latent_observations.join(copied(latent), observation)
        return {**infos, name: encoded}

    def _check_told_apart(self, observations: Any, infos: dict[str, Any], rows: npt.NDArray[np.int64]) -> None:
        """Refuses last observations beside others where the mode says that the step itself carries them."""
        final_obs = infos.get(_final_name(infos))
        if not _has_rows(final_obs, self.num_envs) or all(_row_of(final_obs, row) is None for row in rows):
            return
        given = self._latent_observations.frames_of_each([_row_of(observations, row) for row in rows])
        final = self._latent_observations.frames_of_each([_row_of(final_obs, row) for row in rows])
        if not bool((given == final).all()):
            raise ObservationError(
                f"{self._owner}: the vector environment says that its autoreset mode is {self._mode.name}, but hands over last "
                "observations in infos['final_obs'] beside others in the step, as in SAME_STEP mode; make its attribute "
                "autoreset_mode say what it does. Two environments of one class may share their metadata."
            )

    def _check_mask(self, mask: Any) -> Mask:
        wanted = f"{self._owner}: reset_mask must be a boolean numpy array of shape ({self.num_envs},) with at least one True"
        if isinstance(mask, Tensor):
            mask = as_array(mask)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (self.num_envs,):
            came = f"{mask.dtype} of shape {mask.shape}" if isinstance(mask, np.ndarray) else f"a {type(mask).__name__}"
            raise ObservationError(f"{wanted}, but {came} came; True stands for the environments to reset.")
        if not mask.any():
            raise ObservationError(
                f"{wanted}, but it is all False; leave the call out when no environment is to be reset."
            )
        if self._latents is None and not mask.all():
            raise ResetNeeded(
                f"{self._owner}: a masked reset came before the first whole one; call reset without a mask first."
            )
        checked: Mask = mask.copy()
        return checked


def _has_rows(batch: Any, rows: int) -> bool:
    """Whether a batch of observations, an array or a Dict of arrays, has so many rows."""
    if isinstance(batch, Mapping):
        return bool(batch) and all(_has_rows(value, rows) for value in batch.values())
    return hasattr(batch, "__len__") and len(batch) == rows


def _row_of(batch: Any, row: int) -> Any:
    """One row of a batch: an array of observations, or a Dict of arrays."""
    return {key: _row_of(value, row) for key, value in batch.items()} if isinstance(batch, Mapping) else batch[row]


def _final_name(infos: Mapping[str, Any]) -> str:
    """The key of the last observations: Gymnasium's, or the one from before 1.0, which GPU simulators still use."""
    return "final_observation" if "final_observation" in infos and "final_obs" not in infos else "final_obs"


def _autoreset_mode(env: VectorEnv[Any, Any, Any], owner: str) -> AutoresetMode:
    # What an environment says of itself goes first: metadata may be its class's, where another one has written since.
    said = next((own["autoreset_mode"] for own in map(vars, layers(env)) if "autoreset_mode" in own), None)
    mode = env.metadata.get("autoreset_mode") if said is None else said
    with contextlib.suppress(ValueError):
        mode = AutoresetMode(mode)
    if not isinstance(mode, AutoresetMode):
        raise ObservationError(
            f"{owner}: the vector environment must say when it resets: metadata['autoreset_mode'] must be a "
            f"gymnasium.vector.AutoresetMode, but it is {mode!r}; set it to what the environment does (EnvPool's: NEXT_STEP)."
        )
    return mode


def _refuse_double_wrapping(env: VectorEnv[Any, Any, Any], owner: str) -> None:
    refuse_latents(env.single_observation_space, owner)
    if any(isinstance(layer, VPTLatentObservation) for layer in layers(env)):
        raise ObservationError(f"{owner}: the environments give VPT latents already; wrap them once only.")
