"""Minecraft as a Gymnasium environment, over MineStudio's simulator."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from vpt_gym.encoders.minestudio.package import import_simulator
from vpt_gym.envs.action import FlattenDictAction
from vpt_gym.envs.minecraft.callbacks import make_callbacks, step_limit, without_limits
from vpt_gym.envs.minecraft.engine import Engine, check_engine
from vpt_gym.envs.minecraft.guards import Guard
from vpt_gym.envs.minecraft.keyboard import ACTION_TYPES, action_space, own_action
from vpt_gym.envs.minecraft.options import callback_spaces, camera_config_of, check_options, size_of
from vpt_gym.envs.minecraft.quiet import printing_to_log
from vpt_gym.envs.minecraft.values import deaths, generator_seed, named_world, own_values, seen_values, world_seed_of
from vpt_gym.errors import ResetNeeded, VPTGymError

__all__ = ["MinecraftEnv", "make_minecraft"]


def make_minecraft(*, action_type: str = "multi_discrete", **options: Any) -> gym.Env[Any, Any]:
    """What `gymnasium.make("vpt_gym/Minecraft-v0", ...)` calls.

    Args:
        action_type: "multi_discrete", a MultiDiscrete [8641, 121] of VPT's buttons and camera in this order, as
            Stable-Baselines3 wants actions; "agent", the same two as a Dict, as MineStudio's policies give them; "env", a Dict
            of keys and the mouse.
        options: of `MinecraftEnv`.

    Raises:
        VPTGymError: as `MinecraftEnv`.
    """
    if action_type not in ACTION_TYPES:
        raise VPTGymError(f"Minecraft: action_type must be one of {', '.join(ACTION_TYPES)}, not {action_type!r}.")
    known = inspect.signature(MinecraftEnv).parameters
    unknown = [name for name in options if name not in known]
    if unknown:
        raise VPTGymError(f"Minecraft: there are no options {', '.join(unknown)}; there are {', '.join(known)}.")
    if action_type != "multi_discrete":
        return MinecraftEnv(action_type=action_type, **options)
    return FlattenDictAction(MinecraftEnv(action_type="agent", **options), keys=("buttons", "camera"))


class MinecraftEnv(gym.Env[Any, Any]):
    """MineStudio's `MinecraftSim`, with VPT's settings by default, behind the whole of Gymnasium's contract.

    The observation is a Dict with `image`, uint8 [height, width, 3], what the player sees in `obs_size`; `info` holds what
    else MineStudio tells (inventory, statistics such as `mine_block`, `player_pos`, `health`, ...) as plain Python values,
    and `world_seed`. The reward is 0 unless a callback gives one. What is handed out is the caller's to change.

    `terminated` says that the player died or the task ended: the game ended the mission, its health is 0, its count of
    deaths grew, or a callback says so. MineStudio's callbacks for tasks and rewards never do (its PlayCallback does): for an
    episode that ends with its task, pass a callback of your own whose `after_step` sets `terminated`. `truncated` says that
    time was up: Gymnasium's `max_episode_steps`, MineStudio's JudgeResetCallback, or a callback of your own. A game that
    crashes or hangs is neither; `step` and `reset` raise EnvironmentCrashed then, and the next `reset` starts it anew. That
    it hangs is noticed after MineStudio's two minutes without an answer.

    `reset(seed=s)` seeds the environment's generator and opens world `s`; a `reset` without a seed opens a world drawn from
    the generator. `world_seed=` fixes the world of every reset; `seed` then seeds the generator alone.
    `reset(options={"world_seed": s})` goes before both, this once. MineStudio's FastResetCallback stays in the open world,
    unless the reset names a seed or world. Where SummonMobsCallback puts its mobs follows the environment's generator; all
    other chance inside MineStudio's callbacks follows Python's and NumPy's global generators, which no seed of this
    environment touches.

    `close` ends the game; so does dropping the last reference to the environment, though no callback hears of that.

    Args:
        action_type: "agent", a Dict of `buttons` (8641) and `camera` (121); or "env", a Dict of keys (0 or 1) and `camera`,
            float32 [2], degrees down and right.
        obs_size: width and height of the observation in pixels; VPT's is 128 x 128.
        render_size: width and height in which the game draws; VPT learned from 640 x 360.
        world_seed: the world of every reset whose `options` name no other; None for that of the seed, or one drawn.
        inventory: what the player starts with, as MineStudio's `inventory`.
        preferred_spawn_biome: the biome to start in, if the world has it near.
        num_empty_frames: steps without action after a reset, while the first pictures are still black.
        callbacks: MineStudio's callbacks, copied into `env.unwrapped.callbacks`; each an object, or a pair of a class's name
            and arguments such as `("RewardsCallback", {"reward_cfg": [...]})`, which worker processes and JSON take too.
        callback_observations: spaces of what callbacks add to the observation, by key; what has no space here goes to `info`.
        camera_config: arguments of MineStudio's `CameraConfig`, where the bins of the camera are not VPT's.
        pov_in_info: whether `info` holds `pov`, the full picture; it weighs 691 KB a step in the pipe of a worker process.
        launch_timeout: seconds that the game may take to come up.
        render_mode: "rgb_array" for `render` to return the full picture, uint8 [360, 640, 3]; or None.

    Attributes:
        callbacks: the callbacks at work.
        sim: MineStudio's MinecraftSim.

    Raises:
        VPTGymError: MineStudio, its engine or Java is not installed (with the command to run), or an option is wrong; from
            `step`, when the action is not in the action space.
        ResetNeeded: `step` before `reset`, or after an episode's end.
        EnvironmentCrashed: from `reset` and `step`, as above.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 - Gymnasium's own form

    def __init__(
        self,
        *,
        action_type: str = "agent",
        obs_size: Sequence[int] = (128, 128),
        render_size: Sequence[int] = (640, 360),
        world_seed: int | None = None,
        inventory: Mapping[str, Any] | None = None,
        preferred_spawn_biome: str | None = None,
        num_empty_frames: int = 20,
        callbacks: Sequence[Any] = (),
        callback_observations: Mapping[str, gym.Space[Any]] | None = None,
        camera_config: Mapping[str, Any] | None = None,
        pov_in_info: bool = False,
        launch_timeout: float = 300.0,
        render_mode: str | None = None,
    ) -> None:
        self._open = False
        if action_type not in ("agent", "env"):
            raise VPTGymError(f"MinecraftEnv: action_type must be agent or env, not {action_type!r}.")
        check_options(num_empty_frames, launch_timeout, inventory, preferred_spawn_biome, render_mode)
        width, height = size_of("obs_size", obs_size)
        drawn_size = size_of("render_size", render_size)
        added = callback_spaces(callback_observations)
        check_engine()
        self._world_seed = None if world_seed is None else world_seed_of(world_seed)
        self.callbacks = make_callbacks(callbacks)
        self._step_limit = step_limit(self.callbacks)
        entry = import_simulator()
        self.sim: Any = entry.MinecraftSim(
            action_type=action_type,
            obs_size=(width, height),
            render_size=drawn_size,
            inventory=dict(inventory or {}),
            preferred_spawn_biome=preferred_spawn_biome,
            num_empty_frames=num_empty_frames,
            callbacks=[Guard(callback) for callback in without_limits(self.callbacks)],
            camera_config=camera_config_of(camera_config, entry),
        )
        self._engine = Engine(self.sim, launch_timeout)
        weakref.finalize(self, self._engine.stop).atexit = False  # the engine sees to the interpreter's end by itself
        self.render_mode = render_mode
        mapping = self.sim.action_mapper
        self._actions = action_space(action_type, len(mapping.BUTTONS_COMBINATIONS), len(mapping.camera_combinations))
        self.action_space = self._actions
        image = gym.spaces.Box(0, 255, (height, width, 3), np.uint8)
        self._seen = {**added, "image": image}
        self.observation_space = gym.spaces.Dict(self._seen)
        self._pov_in_info = pov_in_info
        self._pov: npt.NDArray[np.uint8] | None = None
        self._steps = self._deaths = 0
        self._running = False
        self._open = True

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Opens a world, or with MineStudio's FastResetCallback goes on in the open one.

        Args:
            seed: of the environment's generator, and of the world too where no `world_seed` is given.
            options: `{"world_seed": s}`, the world for this once.

        Returns:
            The first observation that is not black, and info.
        """
        if not self._open:
            raise VPTGymError("Minecraft: the environment was closed; make a new one.")
        # All checks come before anything moves: a refused reset leaves the generator and a running episode as they are.
        named = named_world(options)
        fixed = self._world_seed if named is None else named
        seed = generator_seed(seed, opens_world=fixed is None)
        super().reset(seed=seed)
        if seed is not None or named is not None or not self._engine.running or self._engine.finished:
            # A fast reset speaks to a running mission, and it would leave the world as it is.
            self.sim.already_reset = False
        drawn = int(self.np_random.integers(2**31)) if seed is None else seed
        self.sim.env.seed(world_seed_of(drawn if fixed is None else fixed), seed_spaces=False)
        self.sim.np_random = self.np_random
        self.sim.info = {}
        self._running = False
        try:
            with printing_to_log():
                observation, info = self.sim.reset()
            self._engine.check_mission()
            self._steps, self._deaths = 0, deaths(info)
            first = self._hand_out(observation, info)
        except BaseException:
            self._engine.stop()
            raise
        self._running = True
        return first

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Acts for one tick of 50 ms."""
        if not self._running:
            raise ResetNeeded("Minecraft: step was called where no episode is running; call reset first.")
        own = own_action(action, self._actions)
        # Whatever raises from here on, an interrupt or a callback's error, the game may have moved without the caller.
        self._running = False
        observation, reward, terminated, truncated, info = self.sim.step(own)
        self._steps += 1
        if self._engine.finished:
            # MineStudio sets both flags then; its missions have no limit of time, so the game ended it for a reason.
            terminated, truncated = True, False
        terminated = bool(terminated) or deaths(info) > self._deaths or float(info.get("health", 1.0)) <= 0
        truncated = bool(truncated) or (self._step_limit is not None and self._steps >= self._step_limit)
        observation, info = self._hand_out(observation, info)
        self._running = not (terminated or truncated)
        return observation, float(reward), terminated, truncated, info

    def render(self) -> npt.NDArray[np.uint8] | None:
        """The full picture of the last step, uint8 [height, width, 3]; None without `render_mode`."""
        if self.render_mode is None:
            return None
        if self._pov is None:
            raise ResetNeeded("Minecraft: render was called before reset; call reset first.")
        picture: npt.NDArray[np.uint8] = self._pov.copy()
        return picture

    def close(self) -> None:
        """Ends the game; a second call does nothing."""
        if self._open:
            self._open = self._running = False
            try:
                with printing_to_log():
                    self.sim.close()
            finally:
                self._engine.stop()

    def _hand_out(self, observation: dict[str, Any], info: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The caller's own observation, as its space says, and info."""
        told = {key: value for key, value in info.items() if key != "pov"}
        told.update((key, value) for key, value in observation.items() if key not in self._seen)
        own = own_values(told)
        self._pov = np.ascontiguousarray(info["pov"])
        if self._pov_in_info:
            own["pov"] = self._pov.copy()
        own["world_seed"] = self._engine.world_seed
        return seen_values(observation, self._seen), own
