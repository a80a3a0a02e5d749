"""One benchmark run: what is measured, in which order, and the record that it leaves."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

import vpt_gym
from vpt_gym.bench import accuracy
from vpt_gym.bench.candidates import Candidate, Opened, measured_open, of_encoder
from vpt_gym.bench.limits import SHAPES, convolution, count_flops, flops_per_frame
from vpt_gym.bench.pictures import load_pictures, read_video
from vpt_gym.bench.plan import Plan
from vpt_gym.bench.rounds import Step, Times, summary, take_turns
from vpt_gym.config import VPTConfig
from vpt_gym.encoders.protocol import Encoder
from vpt_gym.errors import VPTGymError
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
    for path in plan.videos:
        read_video(path, 8, most=1)


class Bench:
    """A run that is ready to measure.

    Attributes:
        record: what the JSON holds, filled as the run goes; `complete` is False until all is measured.

    Raises:
        VPTGymError: the encoder cannot be loaded, or not in a precision that was asked for; it reads more than images; or a
            rival is asked for and it is no VPT.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        if plan.threads is not None:
            torch.set_num_threads(plan.threads)
        self.encoders = _encoders(plan)
        one = next(iter(self.encoders.values()))
        if one.also_reads:
            raise VPTGymError(f"{plan.encoder} reads {', '.join(one.also_reads)} too; give an encoder of images alone.")
        facts, self.device = one.describe(), one.device
        self.candidates = {name: of_encoder(encoder) for name, encoder in self.encoders.items()}
        self.candidates |= _rivals(plan, facts, self.device)
        self.pictures = load_pictures(plan.videos, one.frame_size)
        self.flops = flops_per_frame(one)
        no_flops = "GFLOP/s: not known, because torch's counter sees no product in this encoder."
        no_choice = "Accuracy: nothing to compare with, because this encoder has no choice of precision."
        self.record: dict[str, Any] = {
            "format": "vpt-gym bench 2",
            "complete": False,
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "arguments": plan.to_dict(),
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
            try:
                for batch in self.plan.batches:
                    self._speed(batch, stop.check, progress)
                    with stop.held():
                        save()
                self._accuracy(stop.check, progress)
                self.record["complete"] = True
            except (Stopped, KeyboardInterrupt):
                pass
            finally:
                with stop.held():
                    save()
        return bool(self.record["complete"])

    def _speed(self, batch: int, check: Callable[[], None], progress: Progress) -> None:
        """One block: every candidate and every convolution that is a candidate's limit, in turns."""
        opened: dict[str, Opened] = {}
        turns: dict[str, tuple[Step, float]] = {}
        limits: dict[str, dict[str, Any]] = {}
        times: Times = {}
        for name, candidate in self.candidates.items():
            check()
            try:
                opened[name] = measured_open(candidate, batch, self.pictures)
                turns[name] = opened[name].step, self.plan.seconds
            except torch.OutOfMemoryError:
                self.record["cells"].append({"batch": batch, "candidate": name, "failed": "out of memory"})
        peaks = dict.fromkeys(one.peak for one in self.candidates.values() if self.flops and one.peak in DTYPES)
        for precision, (channels, size) in itertools.product(peaks, SHAPES):
            name, step = f"{precision} {channels} {size}", convolution(precision, channels, size, self.device)
            limits[name] = {"batch": batch, "precision": precision, "channels": channels, "size": size}
            limits[name]["flops"] = count_flops(step)
            turns[name] = step, self.plan.seconds / len(SHAPES)  # all of one precision as long as one candidate
        try:
            take_turns(turns, times, check=check, progress=lambda share: progress(f"batch {batch}", share))
        finally:
            for name, limit in limits.items():
                if name in times:
                    seconds = summary(times[name])
                    gflops = limit["flops"] / seconds["p50"] / 1e9
                    self.record["peaks"].append({**limit, "gflops": gflops, "seconds": seconds})
            self.record["cells"] += [self._cell(batch, name, opened[name], times) for name in opened if name in times]
            del opened, turns
            gc.collect()  # before the next block opens its own

    def _cell(self, batch: int, name: str, opened: Opened, times: Times) -> dict[str, Any]:
        seconds, key = summary(times[name]), (batch, self.candidates[name].peak)
        pace = batch / seconds["p50"]
        gflops = None if self.flops is None else pace * self.flops / 1e9
        peaks = [one["gflops"] for one in self.record["peaks"] if (one["batch"], one["precision"]) == key]
        rivals = [rival for rival in self.plan.rivals if rival in times and rival != name]
        return {
            "batch": batch,
            "candidate": name,
            "frames_per_second": pace,
            "seconds": seconds,
            "gflops": gflops,
            "peak_gflops": max(peaks, default=None),
            "share_of_peak": gflops / max(peaks) if gflops and peaks else None,
            "state_bytes_per_env": opened.state_bytes,
            "device_bytes_per_env": opened.device_bytes,
            "speed_over": {rival: summary(times[rival])["p50"] / seconds["p50"] for rival in rivals},
        }

    def _accuracy(self, check: Callable[[], None], progress: Progress) -> None:
        lower = {name: encoder for name, encoder in self.encoders.items() if name != "float32"}
        if not self.plan.accuracy_steps or not lower or "precision" not in self.record["encoder"]["options"]:
            return
        options = {**self.plan.encoder_options, "precision": "float32"}
        reference = self.encoders.get("float32") or vpt_gym.load_encoder(self.plan.encoder, **options)
        self.record["accuracy"] = accuracy.compare(
            reference.stream(accuracy.ROWS),
            {name: encoder.stream(accuracy.ROWS) for name, encoder in lower.items()},
            self.pictures,
            self.plan.accuracy_steps,
            check=check,
            progress=lambda share: progress("accuracy", share),
        )


def _encoders(plan: Plan) -> dict[str, Encoder]:
    """Encoders by the precision that they resolve to, in the order asked for."""
    names = plan.precisions
    if names is None:
        one = vpt_gym.load_encoder(plan.encoder, **plan.encoder_options)
        if one.describe()["kind"] != "vpt" or "precision" in plan.encoder_options:
            return {one.precision: one}
        names = ("float32", one.precision, "bfloat16")
    encoders: dict[str, Encoder] = {}
    for name in names:
        encoder = vpt_gym.load_encoder(plan.encoder, **plan.encoder_options, precision=name)
        encoders.setdefault(encoder.precision, encoder)
    return encoders


def _rivals(plan: Plan, facts: dict[str, Any], device: torch.device) -> dict[str, Candidate]:
    if not plan.rivals:
        return {}
    if facts["kind"] != "vpt":
        raise VPTGymError(
            f"--against {','.join(plan.rivals)} builds MineStudio's network at the sizes of a VPT network, but {plan.encoder} "
            f"is an encoder of the kind {facts['kind']}; leave --against out."
        )
    from vpt_gym.bench.minestudio import minestudio_network, of_minestudio

    network = minestudio_network(VPTConfig(**facts["architecture"]), device)
    return {name: of_minestudio(network, device, autocast=name == "minestudio-bf16") for name in plan.rivals}
