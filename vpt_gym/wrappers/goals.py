"""A goal in words beside the latent: told once for all episodes, or read in every observation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from vpt_gym.checks import check_goal
from vpt_gym.encoders.protocol import Encoder, GoalTower
from vpt_gym.encoders.text import CLIP, check_text, text_tower
from vpt_gym.errors import ObservationError
from vpt_gym.latents import latent_box

__all__ = ["GOAL", "GoalSpace", "Goals", "Letters", "goals_of", "lettered", "with_letters"]

GOAL: Final = "goal"
"""Key of the goal in a Dict observation."""

LAST_CODE: Final = 0x10FFFF
"""The largest number that stands for a character."""


class GoalSpace(gym.spaces.Box):
    """Of an embedded goal, which no scaling may touch: a goal that is always the same would be scaled to nothing.

    Args:
        size: numbers in it.
    """

    def __init__(self, size: int) -> None:
        inner = latent_box(size)
        super().__init__(inner.low, inner.high, dtype=np.float32)


class Letters(gym.spaces.Box):
    """A text as an array of its characters' numbers, zeros behind, which crosses a VecEnv, where texts cannot.

    Args:
        longest: text that fits.
    """

    def __init__(self, longest: int) -> None:
        super().__init__(0, LAST_CODE, (longest,), np.int32)

    def written(self, text: object, owner: str) -> npt.NDArray[np.int32]:
        """A text as such an array.

        Raises:
            ObservationError: it is none, or is longer than its space says.
        """
        (longest,) = self.shape
        if not isinstance(text, str) or len(text) > longest:
            raise ObservationError(
                f"{owner} must be a text of up to {longest} characters, as its space says, not {text!r:.60}; make the "
                "environment keep to its space."
            )
        return np.array([*map(ord, text), *[0] * (longest - len(text))], np.int32)

    @staticmethod
    def read(letters: npt.NDArray[Any]) -> str:
        """The text of such an array."""
        return "".join(map(chr, letters[letters > 0]))


class Goals:
    """Goals in words as vectors; equal words are embedded once.

    Args:
        goal: what is wanted in all episodes; or None, and `key` names an entry of the observation that says it.
        key: of a Text entry at the top of a Dict observation.
        tower: what embeds them.

    Attributes:
        key: as given.
        space: of one goal.

    Raises:
        OptionError: there are no words, they are longer than the tower reads, or the tower has no vector for a whole text.
    """

    def __init__(self, goal: str | None, key: str | None, tower: GoalTower) -> None:
        self.key = key
        self._tower = tower
        self._told = None if goal is None else self._tower.goal(check_text(goal, "goal"))
        self.space = GoalSpace(self._tower.goal_size)

    def check(self, space: gym.Space[Any], owner: str) -> None:
        """Raises ObservationError unless observations of this space say their goals."""
        if self.key is None:
            return
        entries = space.spaces if isinstance(space, gym.spaces.Dict) else {}
        if not isinstance(entries.get(self.key), (gym.spaces.Text, Letters)):
            came = entries.get(
                self.key, f"among {', '.join(map(repr, entries)) or 'no entries'} there is none of that name"
            )
            raise ObservationError(
                f"{owner}: goal_key={self.key!r} must name a Text entry at the top of a Dict observation, but it does not "
                f"({came}); name another entry, or tell one goal for all with goal=."
            )

    def of(self, observation: Any, owner: str) -> npt.NDArray[np.float32]:
        """The goal of one observation, float32 [G]."""
        return self._of_text(self._entry(observation), owner)

    def of_rows(self, observations: Any, rows: int, owner: str) -> npt.NDArray[np.float32]:
        """The goals of a batch of observations, float32 [n, G]."""
        if self._told is not None:
            return np.tile(self._told, (rows, 1))
        return np.stack([self._of_text(entry, owner) for entry in self._entry(observations)])

    def _entry(self, observation: Any) -> Any:
        return None if self.key is None else observation[self.key]

    def _of_text(self, entry: Any, owner: str) -> npt.NDArray[np.float32]:
        if self._told is not None:
            told: npt.NDArray[np.float32] = self._told.copy()
            return told
        text = Letters.read(entry) if isinstance(entry, np.ndarray) and entry.ndim else entry
        if not isinstance(text, str):
            raise ObservationError(
                f"{owner}: observation[{self.key!r}] must be a text, as its space says, not {text!r:.60}; make the environment "
                "keep to its space."
            )
        goal: npt.NDArray[np.float32] = self._tower.goal(check_text(str(text), f"{owner}: observation[{self.key!r}]"))
        return goal


def goals_of(goal: str | None, key: str | None, clip: str | None, encoder: Encoder | None = None) -> Goals | None:
    """The goals of a wrapper's arguments; None where it has none.

    They are embedded by the CLIP that `clip` names; without one by the encoder's own `goal_tower`, where it has one, and by
    `vpt_gym.encoders.text.CLIP` elsewhere.

    Raises:
        OptionError: they do not go together; or as for `Goals`.
        WeightsError: CLIP cannot be had.
    """
    check_goal(goal, key, clip)
    if goal is None and key is None:
        return None
    own: GoalTower | None = None if clip else getattr(encoder, "goal_tower", None)
    return Goals(goal, key, own or text_tower(clip or CLIP))


def with_letters(space: gym.spaces.Dict, keys: Sequence[str]) -> dict[str, Letters]:
    """For each Text entry that is named: the space that it crosses a VecEnv in, where it is perhaps already."""
    entries = {key: space.spaces.get(key) for key in keys}
    return {
        key: entry if isinstance(entry, Letters) else Letters(entry.max_length)
        for key, entry in entries.items()
        if isinstance(entry, (gym.spaces.Text, Letters))
    }


def lettered(observation: Mapping[str, Any], letters: Mapping[str, Letters], owner: str) -> dict[str, Any]:
    """The named entries of an observation, as arrays of their characters."""
    return {
        key: observation[key].copy()
        if isinstance(observation[key], np.ndarray)
        else space.written(observation[key], f"{owner}: observation[{key!r}]")
        for key, space in letters.items()
    }
