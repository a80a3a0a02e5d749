"""One benchmark run: what is measured, in which order, and the record that it leaves."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

import vpt_gym
from vpt_gym.bench import accuracy
from vpt_gym.bench.candidates import Candidate, measured_open, minestudio_network, of_encoder, of_minestudio
from vpt_gym.bench.limits import SHAPES, convolution, count_flops, flops_per_frame
from vpt_gym.bench.pictures import load_pictures, read_video
from vpt_gym.bench.plan import Plan
from vpt_gym.bench.rounds import Step, Times, summary, take_turns
from vpt_gym.config import VPTConfig
from vpt_gym.encoders import Encoder, as_encoder
from vpt_gym.errors import OptionError
from vpt_gym.precision import DTYPES
from vpt_gym.running.machine import commit, hardware
from vpt_gym.running.stopping import Stopped, StopSignal
from vpt_gym.running.versions import versions

__all__ = ["Bench", "check_plan"]

Progress = Callable[[str, float], None]
"""Told what is being measured, and which share of it is done, 0 to 1."""


def check_plan(plan: Plan) -> None:
    """What can be known before weights are loaded.

    Raises:
        VPTGymError: a rival is not installed, or a video cannot be read.
    """
    if plan.rivals:
        from vpt_gym.encoders.minestudio.package import check_installed

        check_installed("--against minestudio")
    for name in plan.videos:
        read_video(Path(name), 8, most=1)


class Bench:
    """A run that is ready to measure.

    Attributes:
        record: what the JSON holds, filled as the run goes; `complete` is False until all is measured.

    Raises:
        VPTGymError: the encoder cannot be loaded as asked for; it reads more than images; or it is no VPT and has no rival.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        if plan.threads is not None:
            torch.set_num_threads(plan.threads)
        self.encoders = _encoders(plan)
        one = next(iter(self.encoders.values()))
        if one.also_reads:
            raise OptionError(f"{plan.encoder} reads {', '.join(one.also_reads)} too; give an encoder of images alone.")
        facts, self.device = one.describe(), one.device
        self.candidates = {name: of_encoder(encoder) for name, encoder in self.encoders.items()}
        self.candidates |= _rivals(plan, facts, self.device)
        self.pictures = load_pictures([Path(name) for name in plan.videos], one.frame_size)
        self.flops = flops_per_frame(one)
        no_flops = "GFLOP/s: not known, because torch's counter sees no product in this encoder."
        no_choice = "Accuracy: nothing to compare with, because this encoder has no choice of precision."
        self.record: dict[str, Any] = {
            "format": "vpt-gym bench 2",
            "complete": False,
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "arguments": asdict(plan),
            "versions": versions(),
            "hardware": hardware(self.device),
            "commit": commit(Path(vpt_gym.__file__).parent),
            "encoder": {**facts, "flops_per_frame": self.flops},
            "pictures": self.pictures.source,
            "candidates": {name: candidate.words for name, candidate in self.candidates.items()},
            "peaks": [],
            "cells": [],
            "accuracy": {},
            "left_out": [no_flops] * (self.flops is None) + [no_choice] * ("precision" not in facts["options"]),
        }

    def run(self, progress: Progress = lambda *_: None, save: Callable[[], None] = lambda: None) -> bool:
        """Measures; speed first, then accuracy.

        Args:
            progress: told how far it is.
            save: called whenever the record has grown.

        Returns:
            Whether all was measured; False after Ctrl-C or SIGTERM. The record holds what was measured until then.
        """
        with StopSignal() as stop:

            def tick(what: str, share: float) -> None:
                stop.check()
                progress(what, share)

            try:
                for batch in self.plan.batches:
                    self._speed(batch, partial(tick, f"batch {batch}"))
                    with stop.held():
                        save()
                self._accuracy(partial(tick, "accuracy"))
                self.record["complete"] = True
            except (Stopped, KeyboardInterrupt):
                pass
            finally:
                with stop.held():
                    save()
        return bool(self.record["complete"])

    def _speed(self, batch: int, tick: Callable[[float], None]) -> None:
        """One block: every candidate and every convolution that is a candidate's limit, in turns."""
        opened: dict[str, tuple[Step, float, float | None]] = {}
        for name, candidate in self.candidates.items():
            tick(0.0)
            try:
                opened[name] = measured_open(candidate, batch, self.pictures)
            except torch.OutOfMemoryError:
                self.record["cells"].append({"batch": batch, "candidate": name, "failed": "out of memory"})
        turns = {name: (step, self.plan.seconds) for name, (step, *_) in opened.items()}
        flops: dict[tuple[str, str], int] = {}
        for precision in dict.fromkeys(
            one.peak for one in self.candidates.values() if self.flops and one.peak in DTYPES
        ):
            for channels, size in SHAPES:
                name, step = f"{precision}, {channels}, {size}", convolution(precision, channels, size, self.device)
                flops[name, precision] = count_flops(step)
                turns[name] = step, self.plan.seconds / len(SHAPES)  # all of one precision as long as one candidate
        times: Times = {}
        try:
            take_turns(turns, times, tick=tick)
        finally:
            seconds = {name: summary(one) for name, one in times.items()}
            best: dict[str, float] = {}
            for (name, precision), count in flops.items():
                if name in seconds:
                    gflops = count / seconds[name]["p50"] / 1e9
                    best[precision] = max(gflops, best.get(precision, 0.0))
                    peak = {"batch": batch, "convolution": name, "precision": precision, "gflops": gflops}
                    self.record["peaks"].append({**peak, "seconds": seconds[name]})
            for name, (_, *memory) in opened.items():
                if name in seconds:
                    limit = best.get(self.candidates[name].peak)
                    self.record["cells"].append(self._cell(batch, name, seconds, limit, memory))
            del opened, turns
            gc.collect()  # before the next block opens its own

    def _cell(
        self, batch: int, name: str, seconds: dict[str, Any], peak: float | None, memory: list[float | None]
    ) -> dict[str, Any]:
        p50 = seconds[name]["p50"]
        gflops = None if self.flops is None else batch * self.flops / p50 / 1e9
        rivals = [rival for rival in self.plan.rivals if rival in seconds and rival != name]
        return {
            "batch": batch,
            "candidate": name,
            "frames_per_second": batch / p50,
            "seconds": seconds[name],
            "gflops": gflops,
            "peak_gflops": peak,
            "share_of_peak": gflops / peak if gflops and peak else None,
            "state_bytes_per_env": memory[0],
            "device_bytes_per_env": memory[1],
            "speed_over": {rival: seconds[rival]["p50"] / p50 for rival in rivals},
        }

    def _accuracy(self, tick: Callable[[float], None]) -> None:
        lower = {name: encoder for name, encoder in self.encoders.items() if name != "float32"}
        if not self.plan.accuracy_steps or not lower or "precision" not in self.record["encoder"]["options"]:
            return
        options = {**self.plan.encoder_options, "precision": "float32"}
        reference = self.encoders.get("float32") or as_encoder(self.plan.encoder, options)
        float32, *others = (encoder.stream(accuracy.ROWS) for encoder in (reference, *lower.values()))
        streams, steps = dict(zip(lower, others, strict=True)), self.plan.accuracy_steps
        self.record["accuracy"] = accuracy.compare(float32, streams, self.pictures, steps, tick)


def _encoders(plan: Plan) -> dict[str, Encoder]:
    """Encoders by the precision that they resolve to, in the order asked for."""
    names = plan.precisions
    if names is None:
        one = as_encoder(plan.encoder, plan.encoder_options)
        if one.describe()["kind"] != "vpt" or "precision" in plan.encoder_options:
            return {one.precision: one}
        names = ("float32", one.precision, "bfloat16")
    encoders: dict[str, Encoder] = {}
    for name in names:
        encoder = as_encoder(plan.encoder, {**plan.encoder_options, "precision": name})
        encoders.setdefault(encoder.precision, encoder)
    return encoders


def _rivals(plan: Plan, facts: dict[str, Any], device: torch.device) -> dict[str, Candidate]:
    if not plan.rivals:
        return {}
    if facts["kind"] != "vpt":
        raise OptionError(
            f"--against {','.join(plan.rivals)} builds MineStudio's network at the sizes of a VPT network, but {plan.encoder} "
            f"is an encoder of the kind {facts['kind']}; leave --against out."
        )
    network = minestudio_network(VPTConfig(**facts["architecture"]), device)
    return {name: of_minestudio(network, device, autocast=name == "minestudio-bf16") for name in plan.rivals}
