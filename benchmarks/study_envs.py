"""Two environments for the study in docs/evidence.md, beside ViZDoom's, and one with continuous actions.

    pip install crafter
    PYTHONPATH=benchmarks vpt-gym compare study_envs:vpt_gym_study/Recall-v0 study_envs:vpt_gym_study/Crafter-v0 ...

`Recall` is ViZDoom with a cue that is gone when it counts. `Crafter`, far from first person, is Crafter, which speaks the old
Gym's API. `Racing` is Gymnasium's CarRacing, faster.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np


class Recall(gym.Env[Any, Any]):
    """Walking in ViZDoom's HealthGathering, where a white bar beside the first frames says what counts later.

    The bar is at the left or at the right, and gone after `CUE` steps. After `DELAY` more, in which the agent walks as it likes
    and earns nothing, a bar at the top asks: turning to the side that was shown earns 1, anything else -1, and the episode is
    terminated. Without a memory 0 is the best mean; the random policy has -0.5.
    """

    CUE, DELAY = 3, 12

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = gym.spaces.Box(0, 255, (120, 160, 3), np.uint8)
    action_space = gym.spaces.Discrete(4)

    def __init__(self, render_mode: str | None = None, frame_skip: int = 4) -> None:
        from vizdoom import gymnasium_wrapper  # noqa: F401 - registers the scenarios

        self.render_mode = render_mode
        self._game: Any = gym.make("VizdoomHealthGathering-v1", frame_skip=frame_skip).unwrapped
        # Of the game's buttons only those that turn: 1 and 2 of Discrete are the first two.
        names = [button.name for button in self._game.game.get_available_buttons()[:2]]
        assert names == ["TURN_LEFT", "TURN_RIGHT"], names
        self._side = self._count = 0
        self._frame: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """A new walk, and a side."""
        super().reset(seed=seed, options=options)
        observation, _ = self._game.reset(seed=int(self.np_random.integers(2**31)))
        self._side, self._count = int(self.np_random.integers(2)), 0
        return self._drawn(observation), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Turns left (1), turns right (2), walks on (3) or stands still (0); at the end, an answer."""
        if self._count == self.CUE + self.DELAY:
            return self._frame, 1.0 if int(action) - 1 == self._side else -1.0, True, False, {}
        observation, _, dead, over, _ = self._game.step(int(action))
        assert not dead, "nobody dies within a minute here"
        assert not over
        self._count += 1
        return self._drawn(observation), 0.0, False, False, {}

    def render(self) -> Any:
        """The frame as it is observed."""
        return self._frame

    def close(self) -> None:
        """Ends the game."""
        self._game.close()

    def _drawn(self, observation: dict[str, Any]) -> Any:
        frame = observation["screen"][::2, ::2].copy()
        if self._count < self.CUE:
            frame[:, 130 * self._side :][:, :30] = 255
        elif self._count == self.CUE + self.DELAY:
            frame[:20] = 255
        self._frame = frame
        return frame


class Crafter(gym.Env[Any, Any]):
    """Crafter at 64 x 64 pixels: an episode is terminated by death and truncated after 10,000 steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = gym.spaces.Discrete(17)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self._game: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """A new world: Crafter's own seed is that of its maker, so the maker is called again."""
        import crafter

        super().reset(seed=seed, options=options)
        self._game = crafter.Env(seed=int(self.np_random.integers(2**31)))
        return self._game.reset(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Crafter says by a discount of 0 that the player has died."""
        frame, reward, done, info = self._game.step(int(action))
        died = info["discount"] == 0
        return (
            frame,
            float(reward),
            bool(done and died),
            bool(done and not died),
            {"achievements": info["achievements"]},
        )

    def render(self) -> Any:
        """The world around the player, as it is observed."""
        return self._game.render()


class Racing(gym.Env[Any, Any]):
    """Gymnasium's CarRacing, where an action holds for four frames, and only the last is drawn: drawing is what takes time.

    Otherwise as it is: 96 x 96 pixels, steering, gas and brake, and 1,000 frames, here 250 steps, at most.
    """

    HOLD = 4

    metadata = {"render_modes": ["rgb_array"], "render_fps": 12}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self._game: Any = gym.make("CarRacing-v3", continuous=True).unwrapped
        self.observation_space, self.action_space = self._game.observation_space, self._game.action_space
        self._draw, self._looked_at = self._game._render, True
        self._game._render = lambda mode: self._draw(mode) if self._looked_at else self._game.state

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """A new track."""
        super().reset(seed=seed, options=options)
        frame, info = self._game.reset(seed=int(self.np_random.integers(2**31)))
        return frame, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Holds the action."""
        total = 0.0
        for left in reversed(range(self.HOLD)):
            self._looked_at = left == 0
            frame, reward, terminated, truncated, info = self._game.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        self._looked_at = True
        return frame if left == 0 else self._draw("state_pixels"), total, terminated, truncated, info

    def render(self) -> Any:
        """The track around the car."""
        return self._draw("rgb_array")

    def close(self) -> None:
        """Ends the game."""
        self._game.close()


gym.register("vpt_gym_study/Recall-v0", Recall)
gym.register("vpt_gym_study/Racing-v0", Racing, max_episode_steps=1000 // Racing.HOLD)
gym.register("vpt_gym_study/Crafter-v0", Crafter)
