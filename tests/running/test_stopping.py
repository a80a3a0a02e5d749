from __future__ import annotations

import signal

import pytest

from vpt_gym.running.stopping import Stopped, StopSignal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_wish_and_the_second_an_order(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopSignal() as stop:
        stop.check()
        signal.raise_signal(number)
        assert stop.requested
        with pytest.raises(Stopped):
            stop.check()
        with stop.held():
            signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_a_ctrl_c_while_files_are_written_is_not_lost() -> None:
    with StopSignal() as stop:
        with stop.held():
            signal.raise_signal(signal.SIGINT)
        assert stop.requested
