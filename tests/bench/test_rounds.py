from __future__ import annotations

from collections.abc import Callable

import pytest

from vpt_gym.bench.rounds import Budget, Turns
from vpt_gym.running.stopping import Stopped


class Machine:
    """A clock that its own work moves on; it can slow down as it goes."""

    def __init__(self, slowing: float = 0.0) -> None:
        self.now = 0.0
        self.slowing = slowing
        self.order: list[str] = []

    def step(self, name: str, seconds: float) -> Callable[[], None]:
        def work() -> None:
            self.order.append(name)
            self.now += seconds * (1 + self.slowing * self.now)

        return work

    def turns(self, **options: Callable[..., None]) -> Turns:
        return Turns(clock=lambda: self.now, **options)


def test_steps_are_as_many_as_asked_for() -> None:
    assert Budget(steps=25).turns(99.0) == [3, 3, 3, 3, 3, 2, 2, 2, 2, 2]
    assert Budget(steps=2).turns(0.1) == [1, 1]
    assert Budget(seconds=5).turns(0.1) == [5] * 10
    assert Budget(seconds=5).turns(60.0) == [1, 1, 1], "three steps at least"


def test_a_warm_up_is_three_steps_and_a_fifth_of_the_budget() -> None:
    assert not Budget(seconds=5).is_warm([0.2, 0.2, 0.2])
    assert Budget(seconds=5).is_warm([0.2] * 5)
    assert not Budget(seconds=5).is_warm([2.0, 2.0])
    assert Budget(seconds=5).is_warm([30.0, 20.0])
    assert not Budget(seconds=5).is_warm([30.0])
    assert Budget(steps=2).is_warm([0.1] * 3)
    assert not Budget(steps=100).is_warm([0.01] * 19)
    assert Budget(steps=100).is_warm([0.01] * 20)


def test_candidates_take_turns_and_each_round_begins_with_another() -> None:
    machine = Machine()
    turns = machine.turns()
    for name in "abc":
        turns.add(name, machine.step(name, 1.0), Budget(steps=4))
    turns.run()
    assert "".join(machine.order) == "aaabbbccc" + "abc" + "bca" + "cab" + "abc"
    assert {name: times.steps for name, times in turns.times.items()} == {"a": 4, "b": 4, "c": 4}


def test_a_turn_of_several_steps_begins_with_one_that_is_not_counted() -> None:
    machine = Machine()
    turns = machine.turns()
    turns.add("a", machine.step("a", 1.0), Budget(steps=20))
    turns.run()
    assert len(machine.order) == 4 + 10 * (1 + 2)
    assert turns.times["a"].steps == 20
    assert [len(one) for one in turns.times["a"].rounds] == [2] * 10


def test_a_slow_candidate_is_spread_over_the_rounds() -> None:
    machine = Machine()
    turns = machine.turns()
    turns.add("fast", machine.step("f", 0.5), Budget(seconds=5))
    turns.add("slow", machine.step("s", 2.5), Budget(seconds=5))
    turns.run()
    assert turns.times["slow"].steps == 3
    assert "".join(machine.order).endswith("fs" + "f" + "f" + "sf" + "f" + "f" + "fs" + "f" + "f" + "f")


def test_drift_hits_all_alike() -> None:
    """The machine becomes several times slower; two equal candidates still get equal medians, to 5%."""
    machine = Machine(slowing=0.02)
    turns = machine.turns()
    for name in ("one", "two"):
        turns.add(name, machine.step(name, 0.1), Budget(steps=200))
    turns.run()
    one, two = turns.times["one"], turns.times["two"]
    assert one.rounds[-1][-1] > 2 * one.rounds[0][0]
    assert one.p50 == pytest.approx(two.p50, rel=0.05)


def test_what_was_measured_before_a_stop_is_kept() -> None:
    machine = Machine()

    def check() -> None:
        if len(machine.order) == 9:
            raise Stopped

    turns = machine.turns(check=check)
    for name in ("a", "b"):
        turns.add(name, machine.step(name, 1.0), Budget(steps=10))
    with pytest.raises(Stopped):
        turns.run()
    assert {name: times.steps for name, times in turns.times.items()} == {"a": 1, "b": 2}


def test_a_candidate_without_a_turn_has_no_times() -> None:
    machine = Machine()

    def check() -> None:
        if len(machine.order) == 6:
            raise Stopped

    turns = machine.turns(check=check)
    for name in ("a", "b"):
        turns.add(name, machine.step(name, 1.0), Budget(steps=10))
    with pytest.raises(Stopped):
        turns.run()
    assert turns.times == {}


def test_progress_ends_at_one() -> None:
    machine = Machine()
    shares: list[float] = []
    turns = machine.turns(progress=shares.append)
    turns.add("a", machine.step("a", 1.0), Budget(steps=4))
    turns.run()
    assert shares == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
