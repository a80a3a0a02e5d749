"""One benchmark run: what is measured, in which order, and the record that it leaves."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

import vpt_gym
from vpt_gym.bench import accuracy
from vpt_gym.bench.candidates import Candidate, OwnCandidate, Running, measured_open, native_bfloat16, stepper
from vpt_gym.bench.flops import flops_by_stage, flops_per_frame
from vpt_gym.bench.peak import SHAPES, Convolution
from vpt_gym.bench.pictures import Pictures, load_pictures
from vpt_gym.bench.plan import Plan
from vpt_gym.bench.rounds import Budget, Turns
from vpt_gym.bench.samples import Times
from vpt_gym.encoders import load_encoder
from vpt_gym.encoders.vpt import VPTEncoder
from vpt_gym.running.machine import commit, cpu_flags, hardware
from vpt_gym.running.stopping import Stopped, StopSignal
from vpt_gym.running.versions import versions

__all__ = ["Bench", "prepare"]

Progress = Callable[[str, float], None]
"""Told what is being measured, and which share of it is done, 0 to 1."""


def prepare(plan: Plan) -> Pictures:
    """Looks whether the rivals are there, and reads the videos: what can be known before weights are loaded.

    Raises:
        VPTGymError: a rival is not installed, or a video cannot be read.
    """
    if any(name.startswith("minestudio") for name in plan.rivals):
        from vpt_gym.encoders.minestudio.package import check_installed

        check_installed("--against minestudio")
    return load_pictures(plan.videos)


class Bench:
    """A run that is ready to measure.

    Args:
        plan: what is measured.
        pictures: from `prepare`.

    Attributes:
        record: what the JSON holds, filled as the run goes; `complete` is False until all is measured.

    Raises:
        VPTGymError: the weights cannot be loaded, or not in a precision that was asked for.
    """

    def __init__(self, plan: Plan, pictures: Pictures) -> None:
        self.plan = plan
        self.pictures = pictures
        if plan.threads is not None:
            torch.set_num_threads(plan.threads)
        self.encoders = _load(plan)
        one = next(iter(self.encoders.values()))
        self.candidates: dict[str, Candidate] = {name: OwnCandidate(encoder) for name, encoder in self.encoders.items()}
        self.candidates.update(_rivals(plan.rivals, one))
        self.device = one.device
        self.flops = flops_per_frame(one.config)
        self.record: dict[str, Any] = {
            "format": "vpt-gym bench 1",
            "complete": False,
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "arguments": plan.to_dict(),
            "versions": versions(),
            "hardware": hardware(self.device),
            "encoder": {
                "source": one.source,
                "untrained": one.report.untrained,
                "architecture": asdict(one.config),
                "device": str(one.device),
                "flops_per_frame": self.flops,
                "flops_by_stage": flops_by_stage(one.config),
            },
            "pictures": {"source": self.pictures.source, "synthetic": self.pictures.synthetic},
            "candidates": {name: candidate.words for name, candidate in self.candidates.items()},
            "peaks": [],
            "cells": [],
            "accuracy": {},
        }
        found = commit(Path(vpt_gym.__file__).parent)
        if found is not None:
            self.record["commit"] = found

    def run(self, progress: Progress = lambda *_: None, save: Callable[[], None] = lambda: None) -> bool:
        """Measures; speed first, then accuracy, then the policy.

        Args:
            progress: told how far it is.
            save: called whenever the record has grown.

        Returns:
            Whether all was measured; False after Ctrl-C or SIGTERM. The record holds what was measured until then.
        """
        with StopSignal() as stop:
            try:
                for batch in self.plan.batches:
                    self._speed(batch, stop, progress)
                    with stop.held():
                        save()
                self._accuracy(stop, progress)
                self._policy(stop, progress)
                self.record["complete"] = True
            except (Stopped, KeyboardInterrupt):
                pass
            finally:
                with stop.held():
                    save()
        return bool(self.record["complete"])

    def _speed(self, batch: int, stop: StopSignal, progress: Progress) -> None:
        """One block: every candidate and every convolution that is a candidate's limit, in turns."""
        what = f"batch {batch}"
        progress(what, 0.0)
        turns = Turns(check=stop.check, progress=lambda share: progress(what, share))
        running: dict[str, Running] = {}
        for name, candidate in self.candidates.items():
            stop.check()
            try:
                running[name] = measured_open(candidate, batch, self.pictures)
            except torch.OutOfMemoryError:
                self.record["cells"].append({"batch": batch, "candidate": name, "failed": "out of memory"})
                continue
            turns.add(name, running[name].step, self.plan.budget)
        wanted = dict.fromkeys(candidate.peak for candidate in self.candidates.values())
        limits = [Convolution(p, *shape, self.device) for p in wanted for shape in SHAPES]
        # All shapes of one precision together get the time of one candidate.
        third = Budget(self.plan.budget.seconds / len(SHAPES), self.plan.budget.steps)
        for limit in limits:
            turns.add(limit.name, limit.open(), third)
        try:
            turns.run()
        except torch.OutOfMemoryError:
            # Opened, and then too large all the same: what was measured until here counts.
            lost = [name for name in running if name not in turns.times]
            self.record["cells"] += [{"batch": batch, "candidate": name, "failed": "out of memory"} for name in lost]
        finally:
            self._keep(batch, running, limits, turns.times)
            del turns, running
            _free(self.device)

    def _keep(
        self, batch: int, running: dict[str, Running], limits: Sequence[Convolution], times: dict[str, Times]
    ) -> None:
        """Turns times into the record's rows."""
        peaks: dict[str, float] = {}
        for limit in limits:
            if limit.name in times:
                gflops = limit.flops / times[limit.name].p50 / 1e9
                peaks[limit.precision] = max(gflops, peaks.get(limit.precision, 0.0))
                shape = {"precision": limit.precision, "channels": limit.channels, "size": limit.size}
                self.record["peaks"].append(
                    {"batch": batch, **shape, "gflops": gflops, "seconds": times[limit.name].to_dict()}
                )
        for name, opened in running.items():
            if name not in times:
                continue
            pace = batch / times[name].p50
            gflops = pace * self.flops / 1e9
            peak = peaks.get(self.candidates[name].peak)
            over = {rival: times[rival].p50 / times[name].p50 for rival in self.plan.rivals if rival in times}
            self.record["cells"].append(
                {
                    "batch": batch,
                    "candidate": name,
                    "frames_per_second": pace,
                    "seconds": times[name].to_dict(),
                    "gflops": gflops,
                    "peak_gflops": peak,
                    "share_of_peak": None if peak is None else gflops / peak,
                    "state_bytes_per_env": opened.state_bytes,
                    "device_bytes_per_env": opened.device_bytes,
                    "speed_over": {rival: ratio for rival, ratio in over.items() if rival != name},
                }
            )

    def _accuracy(self, stop: StopSignal, progress: Progress) -> None:
        lower = {name: encoder for name, encoder in self.encoders.items() if name != "float32"}
        if not self.plan.accuracy_steps or not lower:
            return
        reference = self.encoders.get("float32") or load_encoder(
            self.plan.encoder, device=self.plan.device, precision="float32"
        )
        found = accuracy.compare(
            stepper(reference, accuracy.ROWS),
            {name: stepper(encoder, accuracy.ROWS) for name, encoder in lower.items()},
            self.pictures,
            self.plan.accuracy_steps,
            check=stop.check,
            progress=lambda share: progress("accuracy", share),
        )
        self.record["accuracy"] = {name: one.to_dict() for name, one in found.items()}
        _free(self.device)

    def _policy(self, stop: StopSignal, progress: Progress) -> None:
        if "policy" not in self.plan.rivals:
            return
        from vpt_gym.bench.policy import compare_iterations

        fastest = self.encoders[self._fastest()]
        self.record["policy"] = compare_iterations(
            fastest,
            self.pictures,
            n_steps=self.plan.policy_steps,
            check=stop.check,
            progress=lambda share: progress("policy", share),
        )

    def _fastest(self) -> str:
        """Our fastest precision at the batch size nearest to the PPO iteration's; both sides of it use that one."""
        own = [cell for cell in self.record["cells"] if cell["candidate"] in self.encoders and "failed" not in cell]
        if not own:
            return next(iter(self.encoders))
        near = min((cell["batch"] for cell in own), key=lambda batch: abs(batch - 8))
        best = max((cell for cell in own if cell["batch"] == near), key=lambda cell: cell["frames_per_second"])
        return str(best["candidate"])


def _load(plan: Plan) -> dict[str, VPTEncoder]:
    """Encoders by the precision that they resolve to, in the order asked for."""
    names = plan.precisions
    if names is None:
        first = load_encoder(plan.encoder, device=plan.device, precision="float32")
        names = ("float32", "auto", *["bfloat16"] * native_bfloat16(first.device, cpu_flags()))
    encoders: dict[str, VPTEncoder] = {}
    for name in names:
        encoder = load_encoder(plan.encoder, device=plan.device, precision=name)
        encoders.setdefault(encoder.precision, encoder)
    return encoders


def _rivals(names: Sequence[str], encoder: VPTEncoder) -> dict[str, Candidate]:
    wanted = [name for name in names if name.startswith("minestudio")]
    if not wanted:
        return {}
    from vpt_gym.bench.minestudio import MineStudioCandidate, minestudio_network

    network = minestudio_network(encoder.config, encoder.device)
    return {name: MineStudioCandidate(network, encoder.device, autocast=name == "minestudio-bf16") for name in wanted}


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
