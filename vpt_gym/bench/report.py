"""A record as people read it: aligned tables of at most 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

__all__ = ["align", "heading", "tables"]

WIDTH = 100

SPEED = "Speed of one step, from uint8 frames to float32 latents, both in host memory."
SPEED_NOTES = {
    "GFLOP/s": """\
  GFLOP/s: the network's nominal FLOPs (2 x multiply-adds of direct convolutions) of a frame times
    frames/s. Winograd convolutions need fewer multiplications for the same result, so that a step
    can pass 100% of the peak.""",
    "of peak": """\
  of peak: over plain channels-last 3x3 convolutions (128 channels at 64x64, 256 at 32x32 and 16x16;
    the best of the three) in the same precision, threads and rounds. At best, in GFLOP/s:
    {peaks}.""",
    "MiB/env": "  MiB/env: memory between steps, the state of one environment.",
    "x MS": "  x MS: how many times faster than MineStudio's network in the same rounds.",
    "*": "  * fewer than 100 steps were measured: the slowest one stands for p99.",
}
"""What stands below the table, by what in it is explained."""
ACCURACY_NOTES = """\
  error: length of the difference over the length of float32's latent. growth in time: median error
    of the last quarter of the steps over the first quarter's; since reset: of the frames longest
    after a reset over the first 8 frames'. Errors that added up would make them grow far above 1."""
ACCURACY_FORMS = {
    "cosine_min": "{:.6f}",
    "cosine_median": "{:.6f}",
    "max_abs": "{:.4f}",
    "error_median": "{:.2%}",
    "growth_over_time": "x {:.2f}",
    "growth_since_reset": "x {:.2f}",
}


def heading(record: dict[str, Any]) -> str:
    """What is about to be measured, and on what."""
    encoder, hardware, versions = record["encoder"], record["hardware"], record["versions"]
    place = f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['threads']} threads of torch"
    if gpu := hardware.get("gpu"):
        place = f"{gpu['name']} (driver {gpu['driver']}, CUDA {gpu['cuda']}) beside {place}"
    flops = encoder["flops_per_frame"]
    software = [f"{one} {versions[one]}" for one in ("torch", "python", "vpt-gym", "minestudio") if one in versions]
    lines = {
        "encoder": encoder["source"] + " (UNTRAINED: random weights take the same time)" * encoder["untrained"],
        "arithmetic": "not known" if flops is None else f"nominal {flops / 1e9:.2f} GFLOP a frame",
        "hardware": place,
        "software": ", ".join(software + [f"commit {record['commit']}"] * (record["commit"] is not None)),
        "pictures": record["pictures"],
        **record["candidates"],
    }
    width = max(map(len, lines))
    return "\n".join(_wrap(text, f"{name:<{width}}  ", " " * (width + 2)) for name, text in lines.items())


def tables(record: dict[str, Any]) -> str:
    """All that was measured so far."""
    parts = [] if record["complete"] else ["INCOMPLETE: stopped before the end; this was measured until then."]
    if record["cells"]:
        of: dict[str, float] = {}
        for peak in record["peaks"]:
            of[peak["precision"]] = max(peak["gflops"], of.get(peak["precision"], 0.0))
        peaks = ", ".join(f"{name} {gflops:,.0f}" for name, gflops in of.items()) or "not measured"
        table = align(_speed_rows(record), left=(1,))
        counted = any(cell.get("gflops") is not None for cell in record["cells"])
        notes = [
            note.format(peaks=peaks)
            for mark, note in SPEED_NOTES.items()
            if mark in table and (counted or mark not in ("GFLOP/s", "of peak"))
        ]
        parts += [SPEED, table, "\n".join(notes)]
    if record["accuracy"]:
        one = next(iter(record["accuracy"].values()))
        size = f"{one['steps']:,} steps of 2 rows, {one['resets']} resets, every step compared"
        rows = [["", "cosine min", "median", "max abs error", "median error", "growth in time", "since reset"]]
        for name, one in record["accuracy"].items():
            cells = ["-" if one[key] is None else form.format(one[key]) for key, form in ACCURACY_FORMS.items()]
            rows.append([name, *cells])
        parts += [_wrap(f"Accuracy against float32: {size}, on {record['pictures']}.")]
        parts += [align(rows, left=(0,)), ACCURACY_NOTES]
    return "\n\n".join(parts + [_wrap(sentence) for sentence in record["left_out"]])


def align(rows: Sequence[Sequence[str]], left: Sequence[int] = ()) -> str:
    """Columns side by side, to the right but for those in `left`; the first row is the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = ["<" if column in left else ">" for column in range(len(widths))]
    form = "".join(f"  {{:{side}{width}}}" for side, width in zip(sides, widths, strict=True))
    return "\n".join(form.format(*row).rstrip() for row in rows)


def _speed_rows(record: dict[str, Any]) -> list[list[str]]:
    """The table of speeds, its header first; a column over each rival."""
    rivals, on_gpu = record["arguments"]["rivals"], "gpu" in record["hardware"]
    header = ["batch", "", "frames/s", "p50 ms", "p99 ms", "GFLOP/s", "of peak", "MiB/env"]
    rows = [header + ["CUDA MiB/env"] * on_gpu + [f"x {rival.replace('minestudio', 'MS')}" for rival in rivals]]
    batch = None
    for cell in record["cells"]:
        row = ["" if cell["batch"] == batch else str(cell["batch"]), cell["candidate"]]
        batch = cell["batch"]
        if "failed" in cell:
            rows.append([*row, cell["failed"], *[""] * (len(rows[0]) - 3)])
            continue
        seconds, pace, over = cell["seconds"], cell["frames_per_second"], cell["speed_over"]
        row += [f"{pace:,.1f}" if pace < 1000 else f"{pace:,.0f}", _milliseconds(seconds["p50"])]
        row += [_milliseconds(seconds["p99"]) + ("*" if seconds["p99_is_the_slowest"] else " ")]
        row += ["-" if cell["gflops"] is None else f"{cell['gflops']:,.0f}"]
        row += ["-" if cell["share_of_peak"] is None else f"{cell['share_of_peak']:.0%}"]
        row += [f"{cell['state_bytes_per_env'] / 2**20:.2f}"]
        row += [f"{cell['device_bytes_per_env'] / 2**20:.2f}" for _ in range(on_gpu)]
        rows.append(row + [f"{over[rival]:.2f}" if rival in over else "" for rival in rivals])
    return rows


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.3f}" if seconds < 0.01 else f"{1000 * seconds:,.1f}"


def _wrap(text: str, first: str = "", then: str = "") -> str:
    return textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=then, break_long_words=False)
