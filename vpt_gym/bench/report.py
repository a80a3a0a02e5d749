"""A record as people read it: aligned tables of at most 100 columns, or Markdown for a document."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from statistics import median
from typing import Any

__all__ = ["align", "heading", "markdown", "policy_rows", "tables"]

WIDTH = 100


def heading(record: dict[str, Any]) -> str:
    """What is about to be measured, and on what."""
    encoder, hardware = record["encoder"], record["hardware"]
    gpu = hardware.get("gpu")
    place = f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['threads']} threads of torch"
    if gpu is not None:
        place = f"{gpu['name']} (driver {gpu['driver']}, CUDA {gpu['cuda']}) beside {place}"
    versions = record["versions"]
    software = ", ".join(
        f"{name} {versions[name]}" for name in ("torch", "python", "vpt-gym", "minestudio") if name in versions
    )
    lines = [
        ("encoder", encoder["source"] + (" (UNTRAINED: random weights take the same time)" * encoder["untrained"]))
    ]
    lines += [
        ("hardware", place),
        ("software", software + (f", commit {record['commit']}" if "commit" in record else "")),
    ]
    lines += [("pictures", record["pictures"]["source"])]
    lines += list(record["candidates"].items())
    width = max(len(name) for name, _ in lines)
    return "\n".join(_wrap(text, f"{name:<{width}}  ", " " * (width + 2)) for name, text in lines)


def tables(record: dict[str, Any]) -> str:
    """All that was measured so far."""
    parts = [] if record["complete"] else ["INCOMPLETE: stopped before the end; this was measured until then."]
    if record["cells"]:
        rows = speed_rows(record)
        gflop = record["encoder"]["flops_per_frame"] / 1e9
        title = "Speed of one step, from uint8 frames to float32 latents, both in host memory."
        parts.append("\n".join([title, "", align(rows, left=(1,)), "", *_speed_notes(record, gflop)]))
    if record["accuracy"]:
        parts.append(
            "\n".join([_accuracy_title(record), "", align(accuracy_rows(record), left=(0,)), "", *_accuracy_notes()])
        )
    if "policy" in record:
        parts.append(_policy(record["policy"]))
    return "\n\n".join(parts)


def speed_rows(record: dict[str, Any]) -> list[list[str]]:
    """The table of speeds, its header first; a column over each rival that was measured."""
    rivals = [name for name in record["candidates"] if name.startswith("minestudio")]
    on_gpu = any(cell.get("device_bytes_per_env") is not None for cell in record["cells"])
    header = ["batch", "", "frames/s", "p50 ms", "p99 ms", "GFLOP/s", "of peak", "MiB/env"]
    rows = [header + ["CUDA MiB/env"] * on_gpu + [f"x {_short(name)}" for name in rivals]]
    batch = None
    for cell in record["cells"]:
        row = ["" if cell["batch"] == batch else str(cell["batch"]), cell["candidate"]]
        batch = cell["batch"]
        if "failed" in cell:
            rows.append([*row, cell["failed"], *[""] * (len(rows[0]) - 3)])
            continue
        seconds = cell["seconds"]
        row += [_pace(cell["frames_per_second"]), _milliseconds(seconds["p50"])]
        row += [_milliseconds(seconds["p99"]) + ("*" if seconds["p99_is_the_slowest"] else " ")]
        row += [f"{cell['gflops']:,.0f}", "-" if cell["share_of_peak"] is None else f"{cell['share_of_peak']:.0%}"]
        row += [_mebibytes(cell["state_bytes_per_env"])]
        if on_gpu:
            row += [_mebibytes(cell["device_bytes_per_env"])]
        row += [f"{cell['speed_over'][name]:.2f}" if name in cell["speed_over"] else "" for name in rivals]
        rows.append(row)
    return rows


def accuracy_rows(record: dict[str, Any]) -> list[list[str]]:
    """The table of accuracies, its header first."""
    rows = [["", "cosine min", "median", "max abs error", "median error", "growth in time", "since reset"]]
    for name, one in record["accuracy"].items():
        growth = [f"x {float(one[key]):.2f}" for key in ("growth_over_time", "growth_since_reset")]
        numbers = [
            f"{float(one['cosine_min']):.6f}",
            f"{float(one['cosine_median']):.6f}",
            f"{float(one['max_abs']):.4f}",
        ]
        rows.append([name, *numbers, f"{float(one['error_median']):.2%}", *growth])
    return rows


def policy_rows(policy: dict[str, Any]) -> list[list[str]]:
    """The table of PPO iterations, its header first."""
    rows = [["", "rollout s", "optimisation s", "in all s", "observations MB", "buffer MB"]]
    for one in policy["iterations"]:
        words = {"latents": "VecVPTLatent", "extractor": "features extractor"}[one["way"]]
        seconds = [f"{one[key]:,.1f}" for key in ("rollout_seconds", "optimisation_seconds", "seconds")]
        sizes = policy["buffer_bytes"][one["way"]]
        rows.append([words, *seconds, f"{sizes['observations'] / 1e6:.1f}", f"{sizes['all'] / 1e6:.1f}"])
    return rows


def align(rows: Sequence[Sequence[str]], left: Sequence[int] = ()) -> str:
    """Columns side by side, to the right but for those in `left`; the first row is the header."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            f"{cell:<{width}}" if column in left else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return "\n".join(lines)


def markdown(rows: Sequence[Sequence[str]], left: Sequence[int] = ()) -> str:
    """The same rows as a Markdown table."""
    rule = [":---" if column in left else "---:" for column in range(len(rows[0]))]
    return "\n".join("| " + " | ".join(cell.strip() for cell in row) + " |" for row in (rows[0], rule, *rows[1:]))


def _speed_notes(record: dict[str, Any], gflop: float) -> list[str]:
    notes = [
        f"GFLOP/s: the network's nominal {gflop:.2f} GFLOP a frame (2 x multiply-adds of direct convolutions) times frames/s. "
        "Winograd convolutions need fewer multiplications for the same result, so that a step can pass 100% of the peak."
    ]
    peaks = _peaks(record)
    if peaks:
        notes.append(
            "of peak: over plain channels-last 3x3 convolutions (128 channels at 64x64, 256 at 32x32 and 16x16; the best of "
            f"the three) in the same precision, threads and rounds. Median over the batches: {', '.join(peaks)} GFLOP/s."
        )
    notes.append("MiB/env: memory between steps, the state of one environment.")
    if any(name.startswith("minestudio") for name in record["candidates"]):
        notes.append("x MS: how many times faster than MineStudio's network in the same rounds.")
    if any(cell.get("seconds", {}).get("p99_is_the_slowest") for cell in record["cells"]):
        notes.append("* fewer than 100 steps were measured: the slowest one stands for p99.")
    return [_wrap(note, "  ", "    ") for note in notes]


def _peaks(record: dict[str, Any]) -> list[str]:
    best: dict[str, dict[int, float]] = {}
    for peak in record["peaks"]:
        of = best.setdefault(peak["precision"], {})
        of[peak["batch"]] = max(peak["gflops"], of.get(peak["batch"], 0.0))
    return [f"{precision} {median(of.values()):,.0f}" for precision, of in best.items()]


def _accuracy_title(record: dict[str, Any]) -> str:
    one = next(iter(record["accuracy"].values()))
    title = (
        f"Accuracy against float32: {one['steps']:,} steps of 2 rows, {one['resets']} resets, every step compared, on "
        f"{record['pictures']['source']}."
    )
    return _wrap(title, "", "")


def _accuracy_notes() -> list[str]:
    notes = [
        "error: length of the difference over the length of float32's latent. growth in time: median error of the last quarter "
        "of the steps over the first quarter's; since reset: of the frames longest after a reset over the first 8 frames'. "
        "Errors that added up would make them grow far above 1."
    ]
    return [_wrap(note, "  ", "    ") for note in notes]


def _policy(policy: dict[str, Any]) -> str:
    title = (
        f"One PPO iteration: {policy['n_envs']} environments, {policy['n_steps']} steps, {policy['n_epochs']} epochs, "
        f"minibatches of {policy['minibatch']}; network in {policy['precision']}, frames that lie ready, linear head."
    )
    notes = [
        f"VecVPTLatent is {policy['speed_over_extractor']:.1f} times faster; its observations are "
        f"{policy['observations_smaller']:.1f} times smaller.",
        "The extractor runs our own fast network on each frame of each minibatch, as if every frame opened an episode: it has "
        "no memory. MineStudio's network in its place would be slower.",
    ]
    return "\n".join(
        [
            _wrap(title, "", ""),
            "",
            align(policy_rows(policy), left=(0,)),
            "",
            *[_wrap(note, "  ", "    ") for note in notes],
        ]
    )


def _short(rival: str) -> str:
    return rival.replace("minestudio", "MS")


def _pace(frames_per_second: float) -> str:
    return f"{frames_per_second:,.1f}" if frames_per_second < 1000 else f"{frames_per_second:,.0f}"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.3f}" if seconds < 0.01 else f"{1000 * seconds:,.1f}"


def _mebibytes(count: float) -> str:
    return f"{count / 2**20:.2f}"


def _wrap(text: str, first: str, then: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=then, break_long_words=False)
