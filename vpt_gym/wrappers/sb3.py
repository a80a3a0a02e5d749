"""A Stable-Baselines3 VecEnv whose observations are VPT latents."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from types import CodeType, FunctionType
from typing import Any, Final, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecEnvWrapper
from torch import Tensor

from vpt_gym.encoders import Encoder, Stream, as_encoder
from vpt_gym.errors import NonFiniteLatent, ObservationError, OptionError, ResetNeeded
from vpt_gym.wrappers.chain import check_kind, layers
from vpt_gym.wrappers.goals import goals_of
from vpt_gym.wrappers.observations import LatentObservations, Latents, Seen, image_of, refuse_latents, some

__all__ = ["VecVPTLatent"]

FORGETTING: Final = 0.98
"""What is left of a call's expected seconds after every call of another size."""

_WITHOUT_ENDS: Final = (
    "make the VecEnv provide it, as SB3's own do, or put the environments into SB3's SubprocVecEnv, or into a "
    "gymnasium.vector.VectorEnv in NEXT_STEP mode and vpt_gym.vector.VPTLatentObservation (docs/wrappers.md has the lines)."
)


@runtime_checkable
class Arriving(Protocol):
    """A VecEnv that hands over steps one by one, between `step_async` and `step_wait`, as environments make them."""

    def arrivals(self) -> Iterator[list[int]]:
        """Rows whose step is there and whose episode goes on, as they arrive; ends when all have arrived."""

    def arrived(self, rows: list[int]) -> list[Any]:
        """The observations of rows that `arrivals` has named."""

    def seconds_left(self) -> float:
        """Seconds until the last step is expected."""


class VecVPTLatent(VecEnvWrapper):
    """Turns the pixels of N environments into VPT latents, with the network's memory of each running episode.

    SB3 resets an environment in the step that ends its episode and hands the ended episode's last frame over in
    `infos[i]["terminal_observation"]`: it is encoded on the memory of the episode that it ends, then the opening frame with
    `first=True`. VecNormalize, VecMonitor and VecFrameStack compose on either side, as long as frames stay uint8.

    Args:
        venv: its observation is an image (uint8; height x width x 1 or 3, or channels first) or a Dict with one.
        encoder: from `vpt_gym.load_encoder` or `vpt_gym.minestudio.encoder_from_policy`, shared freely; or a source string.
        image_key: key of the image, or `outer/inner` in a nested Dict, where not exactly one entry of a Dict is an image.
        keep: keys of a Dict observation to hand on beside the latent; the observation is then a Dict with `latent` and these
            (use SB3's MultiInputPolicy).
        encoder_options: keyword arguments of `load_encoder`, when `encoder` is a source string.
        goal: what is wanted, in words, embedded once by CLIP's text tower and handed on beside the latent as `goal`.
        goal_key: of a Text entry at the top of a Dict observation that says the goal, in place of `goal`.
        clip: a folder or hub repository with the CLIP that embeds goals; None for the encoder's own, or the paper's.
        overlap: encode the frames that are there while slow environments still step, when the wait is longer than that takes. A
            step then costs little more than the slower of the two. Which frames go through the network together follows from
            time and changes latents by rounding, so that two runs are no longer the same to the last digit. Takes a VecEnv that
            hands over steps as they arrive: one of `vpt_gym.rollout`.

    Observations are float32 [N, latent_size], or with `keep` or a goal a Dict `{"latent": ..., ...}`; fresh arrays every time.

    Attributes:
        encoder: the encoder.
        latent_stream: the memory of the running episodes.
        encoding_seconds: spent in the encoder so far.

    Raises:
        VPTGymError: `venv` is no VecEnv, or `encoder` no encoder; or `overlap` is asked of a VecEnv that cannot.
        ObservationError: the observation holds no image that VPT can look at, a key is missing, or the VecEnv is wrapped
            already; from `reset` and `step` too, when observations are not what their space says or a last one is missing.
        ResetNeeded: `step` before the first `reset`.
    """

    def __init__(
        self,
        venv: VecEnv,
        encoder: Encoder | str,
        *,
        image_key: str | None = None,
        keep: Sequence[str] = (),
        encoder_options: Mapping[str, Any] | None = None,
        goal: str | None = None,
        goal_key: str | None = None,
        clip: str | None = None,
        overlap: bool = False,
    ) -> None:
        check_kind(venv, VecEnv, "VecVPTLatent wraps a stable_baselines3 VecEnv")
        owner = type(venv.unwrapped).__name__
        if any(isinstance(layer, VecVPTLatent) for layer in layers(venv)):
            raise ObservationError(f"{owner}: the VecEnv gives VPT latents already; wrap it once only.")
        refuse_latents(venv.observation_space, owner)
        loaded = as_encoder(encoder, encoder_options)
        goals = goals_of(goal, goal_key, clip, loaded)
        self._latent_observations = LatentObservations(
            venv, venv.observation_space, loaded, image_key, keep, owner, goals=goals
        )
        _warn_of_missing_ends(venv, owner)
        super().__init__(venv, observation_space=self._latent_observations.space)
        self.encoder = loaded
        self.latent_stream: Stream = loaded.stream(venv.num_envs)
        if overlap and not isinstance(venv, Arriving):
            raise OptionError(
                f"overlap takes a VecEnv of vpt_gym.rollout, which hands over steps as they arrive, but {owner} came; leave "
                "overlap out."
            )
        self._arriving: Arriving | None = venv if overlap and isinstance(venv, Arriving) else None
        self.encoding_seconds = 0.0
        self._seconds_of: dict[int, float] = {}
        """What a call of the encoder takes, by its number of rows."""
        self._was_reset = False
        self._opens = np.ones(venv.num_envs, np.bool_)
        """Rows whose next frame opens an episode, because the opening frame itself was refused."""

    @property
    def observation_space(self) -> gym.Space[Any]:
        """A fresh copy each time: VecNormalize rewrites a Dict space that it is given, also the one of what it wraps."""
        return copy.deepcopy(self._latent_observations.space)

    @observation_space.setter
    def observation_space(self, space: gym.Space[Any]) -> None:
        """Stable-Baselines3 sets it while it constructs; it stays what the latents are."""

    def reset(self) -> Any:
        """Resets all environments; the observations are the opening frames' latents."""
        observations = self.venv.reset()
        self.reset_infos = self.venv.reset_infos
        self._opens = np.ones(self.num_envs, np.bool_)
        frames = self._seen(observations)
        latents = self._encode(frames, self._opens)
        self._opens = np.zeros(self.num_envs, np.bool_)
        self._was_reset = True
        return self._latent_observations.join(latents, observations)

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Hands the actions to the environments."""
        if not self._was_reset:
            raise ResetNeeded(f"{self._latent_observations.owner}: step was called before reset; call reset first.")
        self.venv.step_async(actions)

    def step_wait(self) -> tuple[Any, npt.NDArray[Any], npt.NDArray[Any], list[dict[str, Any]]]:
        """Waits for the environments and encodes their frames in one call, two when episodes end; with `overlap` in more."""
        early: dict[int, npt.NDArray[np.float32]] = {}
        try:
            if self._arriving is not None:
                self._encode_arriving(self._arriving, early)
        finally:
            # Also when it fails: the VecEnv must not be left in the middle of a step.
            observations, rewards, dones, infos = self.venv.step_wait()
            self.reset_infos = self.venv.reset_infos
            done = np.asarray(dones, dtype=np.bool_)
            opened = self._opens
            # From here on, whatever fails: what has ended has ended, and what nobody saw open opens with the next frame.
            self._opens = opened | done
        frames = self._seen(observations)
        if done.any():
            infos = self._with_terminal_latents(infos, np.flatnonzero(done), opened, frames)
        latents = self._encode_rest(frames, early)
        self._opens = np.zeros(self.num_envs, np.bool_)
        return self._latent_observations.join(latents, observations), rewards, dones, infos

    def _encode_arriving(self, venv: Arriving, early: dict[int, npt.NDArray[np.float32]]) -> None:
        """Encodes rows that have arrived while others still step, where that is time won; notes their latents in `early`."""
        waiting: list[int] = []
        for rows in venv.arrivals():
            waiting += rows
            others = self.num_envs - len(early) - len(waiting)
            if self._two_calls_win(len(waiting), others, venv.seconds_left()):
                frames = self._latent_observations.seen_of_each(venv.arrived(waiting))
                latents = self._encode(frames, self._opens[waiting], np.array(waiting))
                self._opens[waiting] = False
                early.update(zip(waiting, latents, strict=True))
                waiting = []

    def _two_calls_win(self, waiting: int, others: int, left: float) -> bool:
        """Whether a step ends sooner if the rows that wait go through the network now, and `others` in a call of their own.

        The others are expected in `left` seconds. Two calls cost more than one; what is won is the shorter of the wait and the
        first call, since these run side by side.
        """
        first = self._expected_seconds(waiting)
        more = first + self._expected_seconds(others) - self._expected_seconds(waiting + others)
        return more < min(left, first)

    def _expected_seconds(self, rows: int) -> float:
        """What a call for so many rows takes: on a line between the nearest sizes that were measured, from 0 for none."""
        if not self._seconds_of:
            return float("inf")
        sizes = sorted(self._seconds_of)
        if rows > sizes[-1]:
            return self._seconds_of[sizes[-1]] * rows / sizes[-1]
        return float(np.interp(rows, [0, *sizes], [0.0, *(self._seconds_of[size] for size in sizes)]))

    def _encode_rest(self, frames: Seen, early: dict[int, npt.NDArray[np.float32]]) -> Latents:
        """Latents of all rows, those that were encoded on arrival among them."""
        if not early:
            return self._encode(frames, self._opens)
        latents = np.empty((self.num_envs, self.encoder.latent_size), np.float32)
        latents[list(early)] = np.stack(list(early.values()))
        rest = np.array([row for row in range(self.num_envs) if row not in early], np.int64)
        if len(rest):
            latents[rest] = self._encode(some(frames, rest), self._opens[rest], rest)
        return latents

    def _seen(self, observations: Any) -> Seen:
        seen = self._latent_observations.seen(observations, self.num_envs)
        if isinstance(image_of(seen), Tensor):
            raise ObservationError(
                f"{self._latent_observations.owner}: the VecEnv hands out tensors, and Stable-Baselines3 is all NumPy; use "
                "vpt_gym.vector.VPTLatentObservation, which takes them."
            )
        return seen

    def _encode(self, frames: Seen, first: npt.NDArray[np.bool_], rows: npt.NDArray[np.int64] | None = None) -> Latents:
        began = time.perf_counter()
        try:
            latents = self._latent_observations.handed_out(self.latent_stream.step(frames, first, rows=rows))
        except NonFiniteLatent as error:
            asked = list(range(self.num_envs)) if rows is None else rows.tolist()
            error.frames = image_of(frames)[[asked.index(row) for row in error.rows]]
            raise
        seconds = time.perf_counter() - began
        self.encoding_seconds += seconds
        count = len(first)
        # What was not measured again is believed a little less each time: one slow call must not be the last of its size.
        self._seconds_of = {size: FORGETTING * known for size, known in self._seconds_of.items()}
        self._seconds_of[count] = 0.8 * self._seconds_of.get(count, seconds) + 0.2 * seconds
        return latents

    def _with_terminal_latents(
        self,
        infos: Sequence[dict[str, Any]],
        rows: npt.NDArray[np.int64],
        opened: npt.NDArray[np.bool_],
        opening: Seen,
    ) -> list[dict[str, Any]]:
        """Infos, copied where changed, with the last observations of the rows' episodes encoded on those episodes' memory."""
        missing = [int(row) for row in rows if infos[row].get("terminal_observation") is None]
        if missing:
            raise ObservationError(
                f"{self._latent_observations.owner}: infos[i]['terminal_observation'] must hold the last observation of every "
                f"episode that ends, but it is missing for environments {missing}; {_WITHOUT_ENDS}"
            )
        last = [infos[row]["terminal_observation"] for row in rows]
        frames = self._latent_observations.seen_of_each(last)
        self._latent_observations.compare_ends(frames, opening, rows)
        latents = self._encode(frames, opened[rows], rows)
        result = list(infos)
        for row, latent, observation in zip(rows, latents, last, strict=True):
            terminal = self._latent_observations.join(latent.copy(), observation)
            result[row] = {**infos[row], "terminal_observation": terminal}
        return result


def _warn_of_missing_ends(venv: VecEnv, owner: str) -> None:
    """Says before any training what would else be found out at the first episode's end."""
    kinds = [kind for layer in layers(venv) for kind in type(layer).__mro__]
    provided = any(
        issubclass(kind, (DummyVecEnv, SubprocVecEnv))
        # SB3's wrappers speak of it too, but only hand it on.
        or (not kind.__module__.startswith("stable_baselines3.") and "terminal_observation" in _constants(kind))
        for kind in kinds
    )
    if not provided:
        warnings.warn(
            f"{owner}: nothing in the VecEnv's code speaks of infos[i]['terminal_observation'], which must hold the last "
            f"observation of every episode that ends; without it the first such end is an error: {_WITHOUT_ENDS}",
            stacklevel=3,
        )


def _constants(kind: type) -> Iterator[Any]:
    """What is written out in the code of a class's functions."""
    codes = [function.__code__ for function in vars(kind).values() if isinstance(function, FunctionType)]
    while codes:
        constants = codes.pop().co_consts
        codes += [constant for constant in constants if isinstance(constant, CodeType)]
        # The keys of a dict that is written out are one constant, a tuple.
        yield from (
            part for constant in constants for part in (constant if isinstance(constant, tuple) else (constant,))
        )
