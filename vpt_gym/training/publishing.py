"""A run as others can have it: the head as safetensors, its scaling as JSON, no pickle, and a card with its score."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import save

from vpt_gym.errors import VPTGymError
from vpt_gym.training.algorithms import read_parameters
from vpt_gym.training.config import TrainingConfig
from vpt_gym.training.folder import UNDER_WAY, RunFolder
from vpt_gym.training.report import Score

__all__ = ["run_files"]


def run_files(path: Path, repository: str) -> dict[str, Path | bytes]:
    """What of a run folder goes onto the hub, by names that users of RL Baselines3 Zoo know.

    `<algo>-<env>.safetensors` stands in place of the `.zip`, `vecnormalize.json` of the pickle; `config.json` says how it was
    trained and on which encoder, `results.json` how it played, `replay.gif` or `.mp4` shows it, `README.md` is the card. What
    is downloaded is a run folder again, which `vpt-gym eval` plays.

    Args:
        path: a run folder of `vpt-gym train`.
        repository: `owner/name`, for the card.

    Raises:
        VPTGymError: it is no run folder, is damaged, goes on, or was made with a scaling that is a pickle.
    """
    folder = RunFolder.open(path)
    recorded = folder.read_config()
    config = TrainingConfig.from_dict(recorded["training"])
    if folder.status(recorded) in UNDER_WAY:
        raise VPTGymError(f"{path} is {folder.status(recorded)}: push it when it has ended.")
    if config.normalize and not folder.scaling.is_file():
        raise VPTGymError(
            f"{path} has no {folder.scaling.name}, without which its head cannot see; a pickle is not pushed: train again."
        )
    env = re.sub(r"[^A-Za-z0-9._-]+", "-", config.env_id.rpartition(":")[2])
    state = {name: tensor.contiguous() for name, tensor in read_parameters(folder.model, sys.maxsize).items()}
    score = Score.of(recorded["evaluation"]["returns"]) if recorded.get("evaluation") else None
    encoder = recorded["encoder"]["source"]
    text = json.dumps(recorded, indent=2)
    if Path(encoder).exists():
        # A place on this machine is of no use to others, and no business of theirs.
        local, encoder = json.dumps(encoder)[1:-1], Path(encoder).resolve().name
        text = text.replace(local, encoder)
    files: dict[str, Path | bytes] = {
        f"{config.algo.lower()}-{env}.safetensors": save(state, metadata={"format": "pt"}),
        folder.config.name: text.encode(),
        "README.md": _card(config, recorded, score, encoder, repository).encode(),
    }
    if config.normalize:
        files[folder.scaling.name] = folder.scaling
    if folder.curve.is_file():
        files[folder.curve.name] = folder.curve
    for suffix in ("gif", "mp4"):
        if folder.video(suffix).is_file():
            files[f"replay.{suffix}"] = folder.video(suffix)
    if score is not None:
        results = {
            "mean_reward": score.mean,
            "std_reward": score.std,
            "is_deterministic": bool(recorded["evaluation"].get("deterministic", False)),
            "n_eval_episodes": len(score.returns),
        }
        files["results.json"] = json.dumps(results, indent=2).encode()
    return files


def _card(config: TrainingConfig, recorded: dict[str, Any], score: Score | None, encoder: str, repository: str) -> str:
    """README.md with the metadata by which the hub lists a model's score."""
    from huggingface_hub import EvalResult, ModelCardData

    algo = config.algo.upper() if config.algo.islower() else config.algo
    found = []
    if score is not None:
        found.append(
            EvalResult(
                task_type="reinforcement-learning",
                task_name="reinforcement-learning",
                dataset_name=config.env_id,
                dataset_type=config.env_id,
                metric_type="mean_reward",
                metric_name="mean_reward",
                metric_value=f"{score.mean:.2f} +/- {score.std:.2f}",
            )
        )
    data = ModelCardData(
        model_name=algo,
        library_name="stable-baselines3",
        tags=[config.env_id, "deep-reinforcement-learning", "reinforcement-learning", "stable-baselines3", "vpt-gym"],
        eval_results=found or None,
    )
    name = repository.rpartition("/")[2]
    random = recorded.get("random_policy")
    played = "It was not evaluated." if score is None else _words("It", score)
    if random:
        played += f" {_words('The random policy', Score.of(random['returns']))}"
    untrained = ", **untrained**" if recorded["encoder"].get("untrained") else ""
    lines = [
        "---",
        data.to_yaml().strip(),
        "---",
        f"# {algo} on {config.env_id}",
        "",
        f"A head trained by {algo} for {recorded.get('steps', 0):,} steps on the latents of a frozen encoder, with vpt-gym. "
        f"{played}",
        "",
        f"Encoder: `{encoder}`{untrained}, fingerprint `{recorded['encoder']['fingerprint']}`. Another one is refused.",
        "",
        "```bash",
        f"hf download {repository} --local-dir {name}",
        f"vpt-gym eval {name}",
        "```",
        "",
        "The head is safetensors and its scaling JSON: there is no pickle here.",
        "",
        "Licence: say here under which one this head may be used.",
        "",
    ]
    return "\n".join(lines)


def _words(who: str, score: Score) -> str:
    return f"{who} reached {score.mean:.1f} ± {score.std:.1f} over {len(score.returns)} episodes."
