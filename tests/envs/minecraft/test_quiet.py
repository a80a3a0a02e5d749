"""Printing that goes to the log, of one thread and not of the others."""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from vpt_gym.envs.minecraft.quiet import _Ear, printing_to_log


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


def test_the_last_line_may_have_no_end_and_colours_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "vpt_gym.envs.minecraft")
    with printing_to_log():
        print("first part, ", end="")
        with printing_to_log():
            sys.stdout.writelines(["\x1b[1;33mINFO\x1b[0m\n", "last line"])
        assert [record.getMessage() for record in caplog.records] == ["first part, INFO", "last line"]
        assert isinstance(sys.stdout, _Ear)
        assert sys.stdout.unfinished == {}, "nothing is kept of a thread that has left"
    assert len(caplog.records) == 2


def test_all_else_is_the_real_stdout_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w", encoding="latin-1", errors="replace") as real:
        monkeypatch.setattr(sys, "stdout", real)
        with printing_to_log():
            ear = sys.stdout
            assert ear is not real
            assert (ear.fileno(), ear.isatty(), ear.encoding, ear.errors) == (
                real.fileno(),
                False,
                "latin-1",
                "replace",
            )
            assert ear.buffer is real.buffer
            monkeypatch.setattr(ear, "stdout", SimpleNamespace(isatty=lambda: True))
            assert ear.isatty()
            monkeypatch.setattr(ear, "stdout", real)


def test_it_ends_with_an_error_too() -> None:
    stdout = sys.stdout
    with pytest.raises(KeyError), printing_to_log():
        raise KeyError
    assert sys.stdout is stdout
