"""Playing a trained run again."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vpt_gym.encoders import load_encoder
from vpt_gym.errors import VPTGymError
from vpt_gym.rollout.workers import WorkerDiedError
from vpt_gym.running.stopping import Stopped, StopSignal
from vpt_gym.training.algorithms import load_model, load_statistics
from vpt_gym.training.config import EVALUATION_SEED, EvaluationConfig, TrainingConfig, check_seed
from vpt_gym.training.environments import check_env, latent_envs
from vpt_gym.training.folder import RunFolder
from vpt_gym.training.playing import play
from vpt_gym.training.report import Facts, Reporter, Score

__all__ = ["EvaluationResult", "evaluate"]


@dataclass(frozen=True)
class EvaluationResult:
    """What an evaluation found.

    Attributes:
        training: the run's own config.
        score: the trained policy's score.
        baseline: the random policy's score as the run measured it before training; None if it was stopped before.
        video: the film, if one was made.
    """

    training: TrainingConfig
    score: Score
    baseline: Score | None
    video: Path | None


def evaluate(config: EvaluationConfig, reporter: Reporter | None = None) -> EvaluationResult:
    """Play whole episodes with the policy of a run folder, in its environment and on its encoder.

    Args:
        config: which run, and how to play.
        reporter: told how it goes.

    Returns:
        The score beside the random policy's.

    Raises:
        VPTGymError: the folder is no run, its environment or encoder cannot be had, or the encoder is not the run's.
        KeyboardInterrupt: Ctrl-C or SIGTERM came.
    """
    reporter = reporter or Reporter()
    folder = RunFolder.open(config.folder)
    recorded = folder.read_config()
    try:
        training = TrainingConfig.from_dict(recorded["training"])
    except VPTGymError as error:
        raise VPTGymError(f"{folder.config}: {error}") from error
    random = recorded.get("random_policy")
    baseline = Score.of(random["returns"]) if random else None
    seed = training.seed + EVALUATION_SEED + 1 if config.seed is None else config.seed
    n_envs = min(training.n_envs, config.episodes)
    check_seed(seed, n_envs - 1)
    film = None if config.video == "none" else Path(config.video or folder.video("gif", "eval"))
    fps = check_env(training)
    options = {**training.encoder_options, **config.encoder_options}
    stop = StopSignal()
    try:
        with closing(load_encoder(config.encoder or training.encoder, **options)) as encoder:
            facts = encoder.describe()
            _check_fingerprint(facts, recorded["encoder"], config.folder)
            with closing(latent_envs(training, encoder, n_envs, seed)) as latents, stop:
                venv = load_statistics(training, folder.statistics, latents)
                model = load_model(training, folder.model, venv)
                # Loading restores the generator of the training run; the sampled actions belong to this evaluation's seed.
                model.set_random_seed(seed)
                reporter.starting(Facts(facts["words"], facts["untrained"], torch.get_num_threads(), config.folder))
                score, video = play(
                    model,
                    venv,
                    config.episodes,
                    seed=seed,
                    deterministic=config.deterministic,
                    film=film,
                    fps=fps,
                    reporter=reporter,
                    stop=stop,
                )
    except Stopped:
        raise KeyboardInterrupt from None
    except WorkerDiedError:
        # A SIGTERM to the whole process group ends the workers too.
        if stop.requested:
            raise KeyboardInterrupt from None
        raise
    return EvaluationResult(training, score, baseline, video)


def _check_fingerprint(encoder: Mapping[str, Any], recorded: Mapping[str, Any], run: Path) -> None:
    if encoder["fingerprint"] != recorded["fingerprint"]:
        raise VPTGymError(
            f"The encoder {encoder['source']} is not the one that {run} was trained on: its fingerprint begins "
            f"{encoder['fingerprint'][:12]}, the run's {recorded['fingerprint'][:12]}; give the weights of the training "
            f"({recorded['source']}) with --encoder."
        )
