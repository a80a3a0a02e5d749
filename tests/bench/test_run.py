from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from tests.bench.quick import quicken
from tests.bench.strangers import Stranger
from vpt_gym.bench.plan import Plan
from vpt_gym.bench.report import heading, tables
from vpt_gym.bench.run import Bench
from vpt_gym.errors import OptionError
from vpt_gym.running.files import write_json

PLAN = Plan(
    "random:tiny",
    {"device": "cpu"},
    batches=(1, 2),
    precisions=("float32", "bfloat16", "auto"),
    seconds=0.001,
    accuracy_steps=8,
    threads=1,
)


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch.setattr)
        yield


@pytest.fixture(scope="module")
def record(small: None) -> dict[str, Any]:
    bench = Bench(PLAN)
    seen: list[tuple[str, float]] = []
    assert bench.run(lambda what, share: seen.append((what, share)))
    assert list(dict.fromkeys(what for what, _ in seen)) == ["batch 1", "batch 2", "accuracy"]
    for what in ("batch 1", "batch 2", "accuracy"):
        shares = [share for each, share in seen if each == what]
        assert shares == sorted(shares)
    return bench.record


def test_the_record_holds_every_cell(record: dict[str, Any]) -> None:
    assert record["complete"] is True
    cells = [(cell["batch"], cell["candidate"]) for cell in record["cells"]]
    assert cells == [(1, "float32"), (1, "bfloat16"), (2, "float32"), (2, "bfloat16")], "auto is float32 on a CPU"
    for cell in record["cells"]:
        assert cell["seconds"]["steps"] == 3
        assert cell["frames_per_second"] == pytest.approx(cell["batch"] / cell["seconds"]["p50"])
        assert cell["gflops"] == pytest.approx(cell["frames_per_second"] * record["encoder"]["flops_per_frame"] / 1e9)
        assert cell["share_of_peak"] == pytest.approx(cell["gflops"] / cell["peak_gflops"])
        beside = [p for p in record["peaks"] if (p["batch"], p["precision"]) == (cell["batch"], cell["candidate"])]
        assert len(beside) == 3
        assert cell["peak_gflops"] == max(p["gflops"] for p in beside)
    state = {cell["candidate"]: cell["state_bytes_per_env"] for cell in record["cells"]}
    assert state["float32"] > 1.9 * state["bfloat16"]


def test_accuracy_is_of_every_precision_but_float32(record: dict[str, Any]) -> None:
    assert list(record["accuracy"]) == ["bfloat16"]
    one = record["accuracy"]["bfloat16"]
    assert one["steps"] == 8
    assert 0.99 < one["cosine_min"] <= one["cosine_median"] < 1


def test_the_record_says_where_it_comes_from(record: dict[str, Any]) -> None:
    assert record["arguments"]["seconds"] == 0.001
    assert record["arguments"]["encoder_options"] == {"device": "cpu"}
    assert record["hardware"]["threads"] == 1
    assert record["hardware"]["cores"] >= 1
    assert {"python", "torch"} <= set(record["versions"])
    assert record["encoder"]["untrained"] is True
    assert set(record["candidates"]) == {"float32", "bfloat16"}
    assert json.loads(json.dumps(record, allow_nan=False)) == json.loads(json.dumps(record))


def test_the_tables_are_aligned_and_fit(record: dict[str, Any]) -> None:
    printed = f"{heading(record)}\n{tables(record)}"
    lines = printed.splitlines()
    assert max(map(len, lines)) <= 100
    assert "UNTRAINED" in printed
    assert "INCOMPLETE" not in printed
    header = next(line for line in lines if "frames/s" in line and "batch" in line)
    end = header.index("GFLOP/s") + len("GFLOP/s")
    rows = [line for line in lines if line.split()[:1] in (["1"], ["2"], ["bfloat16"]) and "%" in line and "*" in line]
    assert len(rows) == 4
    for row in rows:
        assert row[end - 1].isdigit()
        assert row[end] == " "


def test_synthetic_pictures_are_called_so(record: dict[str, Any]) -> None:
    assert "resets, every step compared, on synthetic moving" in " ".join(
        tables({**record, "pictures": "synthetic moving pictures"}).split()
    )


def test_what_ran_out_of_memory_is_a_line(record: dict[str, Any]) -> None:
    cells = [*record["cells"], {"batch": 2, "candidate": "minestudio", "failed": "out of memory"}]
    assert "minestudio  out of memory" in " ".join(tables({**record, "cells": cells}).split("\n")).replace("   ", "  ")


def test_a_candidate_that_runs_out_of_memory_is_left_out_of_its_block() -> None:
    def too_much(*_: object) -> NoReturn:
        raise torch.OutOfMemoryError("CUDA out of memory")

    bench = Bench(replace(PLAN, batches=(1,), accuracy_steps=0))
    bench.candidates["float32"] = replace(bench.candidates["float32"], open=too_much)
    assert bench.run()
    lost, measured = bench.record["cells"]
    assert lost == {"batch": 1, "candidate": "float32", "failed": "out of memory"}
    assert measured["candidate"] == "bfloat16"
    assert "float32   out of memory" in tables(bench.record)


def test_accuracy_loads_float32_where_it_is_not_measured() -> None:
    bench = Bench(replace(PLAN, batches=(), precisions=("bfloat16",)))
    assert bench.run()
    assert list(bench.record["accuracy"]) == ["bfloat16"]
    assert bench.record["accuracy"]["bfloat16"]["error_median"] > 0


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    bench = Bench(PLAN)
    target = tmp_path / "bench.json"

    def stop_in_the_second_block(what: str, share: float) -> None:
        if what == "batch 2" and share > 0.4:
            os.kill(os.getpid(), signal.SIGINT)

    assert not bench.run(stop_in_the_second_block, lambda: write_json(target, bench.record))
    written = json.loads(target.read_text())
    assert written == json.loads(json.dumps(bench.record))
    assert written["complete"] is False
    assert [(cell["batch"], cell["candidate"]) for cell in written["cells"]][:2] == [(1, "float32"), (1, "bfloat16")]
    assert written["cells"][2]["batch"] == 2
    assert written["cells"][2]["seconds"]["steps"] == 1
    assert written["accuracy"] == {}
    assert tables(bench.record).startswith("INCOMPLETE")


def test_a_stop_before_anything_was_measured(tmp_path: Path) -> None:
    bench = Bench(PLAN)
    assert not bench.run(lambda *_: os.kill(os.getpid(), signal.SIGINT))
    assert bench.record["cells"] == []
    assert tables(bench.record).startswith("INCOMPLETE")


def test_accuracy_can_be_left_out_and_needs_another_precision() -> None:
    for plan in (replace(PLAN, accuracy_steps=0), replace(PLAN, precisions=("float32",))):
        short = replace(plan, batches=(1,))
        bench = Bench(short)
        assert bench.run()
        assert bench.record["accuracy"] == {}
        assert "Accuracy" not in tables(bench.record)


@pytest.mark.minestudio
def test_rivals_take_part_in_the_same_rounds() -> None:
    plan = replace(PLAN, batches=(2,), precisions=("float32",), rivals=("minestudio", "minestudio-bf16"))
    bench = Bench(plan)
    assert bench.run()
    own, eager, autocast = bench.record["cells"]
    assert [own["candidate"], eager["candidate"], autocast["candidate"]] == ["float32", "minestudio", "minestudio-bf16"]
    assert own["speed_over"]["minestudio"] == pytest.approx(own["frames_per_second"] / eager["frames_per_second"])
    assert set(eager["speed_over"]) == {"minestudio-bf16"}
    printed = tables(bench.record)
    assert "x MS" in printed
    assert max(map(len, printed.splitlines())) <= 100


@pytest.fixture
def stranger(monkeypatch: pytest.MonkeyPatch) -> Stranger:
    encoder = Stranger()
    monkeypatch.setattr("vpt_gym.bench.run.as_encoder", lambda *_: encoder)
    return encoder


def test_any_encoder_is_measured_as_far_as_that_makes_sense(stranger: Stranger) -> None:
    bench = Bench(Plan("stranger:", batches=(2,), seconds=0.001, threads=1))
    assert bench.run()
    (cell,) = bench.record["cells"]
    assert cell["candidate"] == "float32"
    assert cell["state_bytes_per_env"] == 0
    assert cell["gflops"] == pytest.approx(cell["frames_per_second"] * 2 * 8 * 8 * 3 * 5 / 1e9)
    assert bench.record["accuracy"] == {}
    assert bench.record["encoder"]["kind"] == "stranger"
    assert tables(bench.record).endswith(
        "Accuracy: nothing to compare with, because this encoder has no choice of precision."
    )
    assert "UNTRAINED" not in heading(bench.record)


def test_an_encoder_whose_products_torch_does_not_see_has_no_share_of_the_peak(
    stranger: Stranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stranger, "latents", lambda frames: torch.zeros(len(frames), 5))
    bench = Bench(Plan("stranger:", batches=(2,), seconds=0.001, threads=1))
    assert bench.run()
    (cell,) = bench.record["cells"]
    assert cell["frames_per_second"] > 0
    assert (cell["gflops"], cell["share_of_peak"], bench.record["peaks"]) == (None, None, [])
    assert "GFLOP/s: not known" in tables(bench.record)


def test_what_makes_no_sense_for_an_encoder_is_a_sentence(stranger: Stranger, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="stranger: is an encoder of the kind stranger; leave --against out"):
        Bench(Plan("stranger:", rivals=("minestudio",), threads=1))
    monkeypatch.setattr(stranger, "also_reads", ("compass",))
    with pytest.raises(OptionError, match="reads compass too"):
        Bench(Plan("stranger:", threads=1))


def test_without_a_choice_vpt_is_measured_in_float32_its_own_and_bfloat16() -> None:
    bench = Bench(replace(PLAN, precisions=None))
    assert list(bench.candidates) == ["float32", "bfloat16"]
    options = {"device": "cpu", "precision": "bfloat16", "layer": "cnn"}
    bench = Bench(replace(PLAN, precisions=None, encoder_options=options))
    assert list(bench.candidates) == ["bfloat16"]
    assert bench.record["encoder"]["options"]["layer"] == "cnn"
