from __future__ import annotations

from collections.abc import Callable

import pytest

from vpt_gym.bench.rounds import is_warm, summary, take_turns, turns_of
from vpt_gym.running.stopping import Stopped

Times = dict[str, list[list[float]]]


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

    def clock(self) -> float:
        return self.now


def steps(times: Times) -> dict[str, int]:
    return {name: sum(map(len, turns)) for name, turns in times.items()}


def test_steps_fill_the_seconds_asked_for() -> None:
    assert turns_of(0.2, seconds=5) == [3, 3, 3, 3, 3, 2, 2, 2, 2, 2]
    assert turns_of(0.1, seconds=5) == [5] * 10
    assert turns_of(60.0, seconds=5) == [1, 1, 1], "three steps at least"


def test_a_warm_up_is_three_steps_and_a_fifth_of_the_seconds() -> None:
    assert not is_warm([0.2, 0.2, 0.2], seconds=5)
    assert is_warm([0.2] * 5, seconds=5)
    assert not is_warm([2.0, 2.0], seconds=5)
    assert is_warm([30.0, 20.0], seconds=5)
    assert not is_warm([30.0], seconds=5)


def test_candidates_take_turns_and_each_round_begins_with_another() -> None:
    machine, times = Machine(), Times()
    take_turns({name: (machine.step(name, 1.0), 4.0) for name in "abc"}, times, clock=machine.clock)
    assert "".join(machine.order) == "aaabbbccc" + "abc" + "bca" + "cab" + "abc"
    assert times == {name: [[1.0]] * 4 for name in "abc"}


def test_a_turn_of_several_steps_begins_with_one_that_is_not_counted() -> None:
    machine, times = Machine(), Times()
    take_turns({"a": (machine.step("a", 1.0), 20.0)}, times, clock=machine.clock)
    assert len(machine.order) == 4 + 10 * (1 + 2)
    assert [len(one) for one in times["a"]] == [2] * 10


def test_a_slow_candidate_is_spread_over_the_rounds() -> None:
    machine, times = Machine(), Times()
    take_turns(
        {"fast": (machine.step("f", 0.5), 5.0), "slow": (machine.step("s", 2.5), 5.0)}, times, clock=machine.clock
    )
    assert steps(times)["slow"] == 3
    assert "".join(machine.order).endswith("fs" + "f" + "f" + "sf" + "f" + "f" + "fs" + "f" + "f" + "f")


def test_drift_hits_all_alike() -> None:
    """The machine becomes several times slower; two equal candidates still get equal medians, to 5%."""
    machine, times = Machine(slowing=0.02), Times()
    take_turns({name: (machine.step(name, 0.1), 20.0) for name in ("one", "two")}, times, clock=machine.clock)
    assert times["one"][-1][-1] > 2 * times["one"][0][0]
    assert summary(times["one"])["p50"] == pytest.approx(summary(times["two"])["p50"], rel=0.05)


def test_what_was_measured_before_a_stop_is_kept() -> None:
    machine, times = Machine(), Times()

    def tick(share: float) -> None:
        if len(machine.order) == 9:
            raise Stopped

    with pytest.raises(Stopped):
        take_turns({name: (machine.step(name, 1.0), 10.0) for name in "ab"}, times, tick=tick, clock=machine.clock)
    assert steps(times) == {"a": 1, "b": 2}


def test_a_candidate_without_a_turn_has_no_times() -> None:
    machine, times = Machine(), Times()

    def tick(share: float) -> None:
        if len(machine.order) == 6:
            raise Stopped

    with pytest.raises(Stopped):
        take_turns({name: (machine.step(name, 1.0), 10.0) for name in "ab"}, times, tick=tick, clock=machine.clock)
    assert times == {}


def test_progress_ends_at_one() -> None:
    machine, shares = Machine(), list[float]()
    take_turns({"a": (machine.step("a", 1.0), 4.0)}, {}, tick=shares.append, clock=machine.clock)
    assert shares == pytest.approx([0.0] * 3 + [0.2, 0.4, 0.6, 0.8, 1.0])


def test_nothing_to_measure_takes_no_time() -> None:
    take_turns({}, {})


def test_the_summary_is_over_all_turns() -> None:
    assert summary([[1.0, 3.0], [2.0], [10.0, 4.0]]) == {
        "steps": 5,
        "p50": 3.0,
        "p99": 10.0,
        "p99_is_the_slowest": True,
        "round_medians": [2.0, 2.0, 7.0],
    }


def test_p99_is_a_step_that_99_of_100_do_not_exceed() -> None:
    samples = [float(number) for number in range(1, 201)]
    assert summary([samples[::-1]])["p99"] == 198
    assert summary([[7.0]])["p99"] == 7
    assert summary([[1.0, 2.0, 9.0]])["p99"] == 9


def test_a_hundred_steps_are_enough_for_p99() -> None:
    found = summary([[1.0] * 99 + [50.0]])
    assert found["p99"] == 1
    assert found["p99_is_the_slowest"] is False
