from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vpt_gym.bench.plan import Plan
from vpt_gym.bench.report import heading, tables
from vpt_gym.bench.rounds import Budget
from vpt_gym.bench.run import Bench, prepare
from vpt_gym.running.files import write_json

PLAN = Plan(
    "random:tiny",
    device="cpu",
    batches=(1, 2),
    precisions=("float32", "bfloat16", "auto"),
    budget=Budget(steps=2),
    accuracy_steps=8,
    threads=1,
)


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    bench = Bench(PLAN, prepare(PLAN))
    seen: list[tuple[str, float]] = []
    assert bench.run(lambda what, share: seen.append((what, share)))
    assert [what for what, share in seen if share == 1] == ["batch 1", "batch 2", "accuracy"]
    return bench.record


def test_the_record_holds_every_cell(record: dict[str, Any]) -> None:
    assert record["complete"] is True
    cells = [(cell["batch"], cell["candidate"]) for cell in record["cells"]]
    assert cells == [(1, "float32"), (1, "bfloat16"), (2, "float32"), (2, "bfloat16")], "auto is float32 on a CPU"
    for cell in record["cells"]:
        assert cell["seconds"]["steps"] == 2
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
    assert record["arguments"]["budget"] == {"seconds": 5.0, "steps": 2}
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
    drawn = {**record, "pictures": {"source": "synthetic moving pictures", "synthetic": True}}
    assert "resets, every step compared, on\nsynthetic moving" in tables(drawn) or "synthetic moving" in tables(drawn)


def test_what_ran_out_of_memory_is_a_line(record: dict[str, Any]) -> None:
    cells = [*record["cells"], {"batch": 2, "candidate": "minestudio", "failed": "out of memory"}]
    assert "minestudio  out of memory" in " ".join(tables({**record, "cells": cells}).split("\n")).replace("   ", "  ")


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    bench = Bench(PLAN, prepare(PLAN))
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
    bench = Bench(PLAN, prepare(PLAN))
    assert not bench.run(lambda *_: os.kill(os.getpid(), signal.SIGINT))
    assert bench.record["cells"] == []
    assert tables(bench.record).startswith("INCOMPLETE")


def test_accuracy_can_be_left_out_and_needs_another_precision() -> None:
    for plan in (replace(PLAN, accuracy_steps=0), replace(PLAN, precisions=("float32",))):
        short = replace(plan, batches=(1,), budget=Budget(steps=1))
        bench = Bench(short, prepare(short))
        assert bench.run()
        assert bench.record["accuracy"] == {}
        assert "Accuracy" not in tables(bench.record)


@pytest.mark.minestudio
def test_rivals_take_part_in_the_same_rounds() -> None:
    plan = replace(
        PLAN, batches=(2,), precisions=("float32",), rivals=("minestudio", "minestudio-bf16", "policy"), policy_steps=1
    )
    bench = Bench(plan, prepare(plan))
    assert bench.run()
    own, eager, autocast = bench.record["cells"]
    assert [own["candidate"], eager["candidate"], autocast["candidate"]] == ["float32", "minestudio", "minestudio-bf16"]
    assert own["speed_over"]["minestudio"] == pytest.approx(own["frames_per_second"] / eager["frames_per_second"])
    assert set(eager["speed_over"]) == {"minestudio-bf16"}
    printed = tables(bench.record)
    assert "x MS" in printed
    assert "One PPO iteration: 8 environments, 1 steps, 10 epochs" in printed
    assert max(map(len, printed.splitlines())) <= 100
