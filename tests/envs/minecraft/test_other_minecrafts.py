"""MineRL's and MineDojo's observations, whose packages install on few machines, through the same wrapper."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import vpt_gym

BOX, DISCRETE, TEXT = gym.spaces.Box, gym.spaces.Discrete, gym.spaces.Text


def number(low: float, high: float, shape: tuple[int, ...] = (), dtype: Any = np.float32) -> gym.spaces.Box:
    return BOX(low, high, shape, dtype)


def minerl() -> gym.spaces.Dict:
    """MineRL 1.0's ObtainDiamondShovel: the picture under `pov`, height x width x channels, and what the player has."""
    item = {"damage": number(-1, 1562, dtype=np.int64), "maxDamage": number(-1, 1562, dtype=np.int64), "type": TEXT(32)}
    places = ("biome_id", "light_level", "pitch", "xpos", "ypos", "yaw", "zpos")
    return gym.spaces.Dict(
        {
            "pov": BOX(0, 255, (360, 640, 3), np.uint8),
            "inventory": gym.spaces.Dict({name: number(0, 2304, dtype=np.int32) for name in ("oak_log", "stick")}),
            "equipped_items": gym.spaces.Dict({"mainhand": gym.spaces.Dict(item)}),
            "life_stats": gym.spaces.Dict({name: number(0, 20) for name in ("air", "food", "life", "saturation")}),
            "location_stats": gym.spaces.Dict({name: number(-640000, 640000, dtype=np.float64) for name in places}),
        }
    )


def minedojo() -> gym.spaces.Dict:
    """MineDojo: the picture under `rgb`, channels first, beside uint8-like neighbours that are no pictures."""
    cube = (3, 3, 3)
    return gym.spaces.Dict(
        {
            "rgb": BOX(0, 255, (3, 160, 256), np.uint8),
            "inventory": gym.spaces.Dict(
                {
                    "quantity": number(0, 64, (36,)),
                    "name": gym.spaces.Tuple([TEXT(32)] * 36),
                    "variant": number(0, 9, (36,)),
                }
            ),
            "equipment": gym.spaces.Dict({"quantity": number(0, 64, (6,)), "max_durability": number(0, 2000, (6,))}),
            "life_stats": gym.spaces.Dict({"life": number(0, 20, (1,)), "is_sleeping": DISCRETE(2)}),
            "location_stats": gym.spaces.Dict(
                {
                    "pos": number(-640000, 640000, (3,)),
                    "yaw": number(-180, 180, (1,)),
                    "biome_id": number(0, 167, (1,), np.int64),
                }
            ),
            "voxels": gym.spaces.Dict(
                {"blocks_movement": gym.spaces.MultiBinary(cube), "cos_look_vec_angle": number(-1, 1, cube)}
            ),
            "nearby_tools": gym.spaces.Dict({"table": DISCRETE(2), "furnace": DISCRETE(2)}),
            "rays": gym.spaces.Dict({"entity_distance": number(0, 1e6, (9,)), "traceable": gym.spaces.MultiBinary(9)}),
            "masks": gym.spaces.Dict({"action_type": gym.spaces.MultiBinary(8), "equip": gym.spaces.MultiBinary(36)}),
        }
    )


class Scripted(gym.Env[Any, Any]):
    """Observations of a space, drawn from it."""

    action_space = DISCRETE(3)

    def __init__(self, space: gym.spaces.Dict) -> None:
        self.observation_space = space
        self.seen: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self._next(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self._next(), 0.0, False, False, {}

    def _next(self) -> Any:
        self.seen.append(self.observation_space.sample())
        return self.seen[-1]


@pytest.mark.parametrize(("space", "key"), [(minerl(), "pov"), (minedojo(), "rgb")], ids=["minerl", "minedojo"])
def test_the_picture_is_found_among_the_rest(space: gym.spaces.Dict, key: str) -> None:
    env = vpt_gym.VPTLatentObservation(Scripted(space), "random:tiny")
    latents = [env.reset(seed=3)[0], env.step(0)[0], env.step(1)[0]]
    assert env.observation_space == env.encoder.latent_space
    pictures = np.stack([observation[key] for observation in env.unwrapped.seen])  # type: ignore[attr-defined]
    if key == "rgb":
        pictures = pictures.transpose(0, 2, 3, 1)
    expected = env.encoder.encode(pictures[None])[0].cpu().numpy()
    assert np.abs(np.stack(latents) - expected).max() < 1e-4
