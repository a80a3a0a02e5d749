"""Whatever breaks into a call, no observation is taken for another's, and a refused reset moves nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.engine import MinecraftEngine
from vpt_gym.encoders.minestudio.package import import_minestudio
from vpt_gym.errors import ResetNeeded, VPTGymError

NOTHING = np.array([0, 60])


def test_an_interrupt_between_two_answers_ends_the_game(
    make: Any, minecraft_engine: MinecraftEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = make()
    env.reset(seed=1)
    comms = import_minestudio("minestudio.simulator.minerl.env.comms")

    receive = comms.recv_message

    def interrupted(_: Any) -> bytes:
        comms.recv_message = receive  # once: a game that is ended says goodbye
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(comms, "recv_message", interrupted)
        with pytest.raises(KeyboardInterrupt):
            env.step(NOTHING)
    assert minecraft_engine.processes() == [], "its answer would be that of the next action"
    with pytest.raises(ResetNeeded):
        env.step(NOTHING)
    env.reset(seed=1)
    env.step(NOTHING)
    assert len(minecraft_engine.notes("started")) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_a_callback_raises_ends_the_episode(
    make: Any, minecraft_engine: MinecraftEngine, error: type[BaseException]
) -> None:
    module = import_minestudio("minestudio.simulator.callbacks")

    class Raises(module.MinecraftCallback):  # type: ignore[misc, name-defined]
        now = True

        def after_step(self, sim: Any, *results: Any) -> Any:
            if self.now:
                raise error
            return results

    env = make(callbacks=[Raises()])
    env.reset(seed=1)
    with pytest.raises(error):
        env.step(NOTHING)
    env.unwrapped.callbacks[0].now = False
    with pytest.raises(ResetNeeded):
        env.step(NOTHING)
    env.reset(seed=2)
    env.step(NOTHING)
    assert minecraft_engine.notes("seed") == [1, 2]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"options": [1]}, r"options must be a dict such as .*, not \[1\]"),
    ({"options": {"word_seed": 1}}, "world_seed only"),
    ({"options": {"world_seed": 2**63}}, "seed of a world must be"),
    ({"seed": -1}, "reset's seed must be a whole number from 0, not -1"),
    ({"seed": 1.5}, "reset's seed must be a whole number from 0, not 1.5"),
    ({"seed": 2**63}, "seed of a world must be"),
    ({"seed": 5, "options": {"world_seed": "spawn"}}, "seed of a world must be"),
]


def test_a_refused_reset_moves_nothing(make: Any, minecraft_engine: MinecraftEngine) -> None:
    env = make().unwrapped
    worlds = []
    for refused in ([], REFUSED):
        env.reset(seed=0)
        for options, sentence in refused:
            with pytest.raises(VPTGymError, match=sentence):
                env.reset(**options)
        env.step({"buttons": 0, "camera": 60})
        worlds.append(env.reset()[1]["world_seed"])
    assert worlds[0] == worlds[1]
    assert len(minecraft_engine.notes("mission")) == 4
