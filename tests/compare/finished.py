"""Run folders as a finished training leaves them, without the training."""

from __future__ import annotations

import json

from vpt_gym.compare import Cell


def finish(cell: Cell, score: float, *, random: float = 0.0, seconds: float = 60.0, status: str = "finished") -> None:
    """A run whose return climbs evenly from the random policy's to its score, at an even pace."""
    steps = cell.training.planned_steps
    cell.folder.mkdir(parents=True)
    values = {
        "status": status,
        "training": cell.training.to_dict(),
        "encoder": {"source": cell.training.encoder, "fingerprint": "0" * 64, "untrained": True},
        "versions": {},
        "steps": steps,
        "seconds": {"training": seconds, "total": seconds + 10},
        "random_policy": {"mean": random, "returns": [random]},
        "evaluation": {"mean": score, "returns": [score]},
    }
    (cell.folder / "config.json").write_text(json.dumps(values))
    at = [steps * part // 100 for part in range(1, 101)]
    episodes = [f"{step},{random + (score - random) * step / steps},8" for step in at]
    (cell.folder / "episodes.csv").write_text("\n".join(["steps,return,length", *episodes]) + "\n")
    log = [f"{step},{int(seconds * step / steps)}" for step in at]
    (cell.folder / "progress.csv").write_text("\n".join(["time/total_timesteps,time/time_elapsed", *log]) + "\n")
