"""Printing that goes to the log, of one thread and not of the others."""

from __future__ import annotations

import logging
import sys
import threading

import pytest

from vpt_gym.envs.quiet import printing_to_log


def test_only_the_thread_that_asked_is_quiet(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "vpt_gym.envs.minecraft")
    stdout = sys.stdout
    outer_ended, inner_began = threading.Event(), threading.Event()

    def other() -> None:
        print("spoken by the other")
        with printing_to_log():
            inner_began.set()
            outer_ended.wait(30)
            print("whispered by the other")
        print("spoken again")

    thread = threading.Thread(target=other)
    with printing_to_log():
        print("whispered ", end="")
        print("in parts\n\nand lines", flush=True)
        thread.start()
        inner_began.wait(30)
    print("spoken here")
    outer_ended.set()
    thread.join()
    assert sys.stdout is stdout
    assert capsys.readouterr().out == "spoken by the other\nspoken here\nspoken again\n"
    said = [record.getMessage() for record in caplog.records]
    assert said == ["whispered in parts", "and lines", "whispered by the other"]


def test_it_ends_with_an_error_too() -> None:
    stdout = sys.stdout
    with pytest.raises(KeyError), printing_to_log():
        raise KeyError
    assert sys.stdout is stdout
