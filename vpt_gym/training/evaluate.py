"""Playing a trained run again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vpt_gym.encoders import load_encoder
from vpt_gym.encoders.vpt import VPTEncoder
from vpt_gym.errors import VPTGymError
from vpt_gym.rollout.make import make_latent_vec_env
from vpt_gym.rollout.workers import WorkerDiedError, WorkerVecEnv
from vpt_gym.running.stopping import Stopped, StopSignal
from vpt_gym.training.algorithms import load_model, load_statistics
from vpt_gym.training.config import EVALUATION_SEED, TrainingConfig, check_seed
from vpt_gym.training.environments import check_env
from vpt_gym.training.folder import RunFolder
from vpt_gym.training.playing import play_model
from vpt_gym.training.report import Facts, Reporter, Score
from vpt_gym.training.train import describe_encoder, encoder_words
from vpt_gym.training.video import EpisodeRecorder

__all__ = ["EvaluationResult", "evaluate"]


@dataclass(frozen=True)
class EvaluationResult:
    """What an evaluation found.

    Attributes:
        config: the run's own config.
        score: the trained policy's score.
        baseline: the random policy's score as the run measured it before training; None if it was stopped before.
        video: the film, if one was made.
    """

    config: TrainingConfig
    score: Score
    baseline: Score | None
    video: Path | None


def evaluate(
    run: Path,
    *,
    episodes: int = 20,
    seed: int | None = None,
    deterministic: bool = False,
    video: Path | None = None,
    film: bool = True,
    encoder: str | None = None,
    device: str | None = None,
    reporter: Reporter | None = None,
) -> EvaluationResult:
    """Play whole episodes with the policy of a run folder, in its environment and on its encoder.

    Args:
        run: a run folder of `train`.
        episodes: how many to play.
        seed: of the environments; None takes the run's evaluation seed, plus one, for episodes that are new.
        deterministic: take the likeliest action instead of sampling, as training does.
        video: where the film goes, `.gif` or `.mp4`; None is `eval.gif` in the run folder.
        film: make a film at all, where the environment renders.
        encoder: source of the weights, when they are no longer where the run found them; they must be the same.
        device: of the encoder; None takes the run's choice.
        reporter: told how it goes.

    Returns:
        The score beside the random policy's.

    Raises:
        VPTGymError: the folder is no run, its environment or encoder cannot be had, or the encoder is not the run's.
        KeyboardInterrupt: Ctrl-C or SIGTERM came.
    """
    if episodes < 1:
        raise VPTGymError(f"episodes must be 1 or more, not {episodes}.")
    target = video or RunFolder(run).video("gif", "eval")
    if film and target.suffix not in (".gif", ".mp4"):
        raise VPTGymError(f"A video ends in .gif or .mp4, not {target.name!r}.")
    reporter = reporter or Reporter()
    folder = RunFolder.open(run)
    recorded = folder.read_config()
    try:
        config = TrainingConfig.from_dict(recorded["training"])
    except VPTGymError as error:
        raise VPTGymError(f"{folder.config}: {error}") from error
    random = recorded.get("random_policy")
    baseline = Score.of(random["returns"]) if random else None
    seed = config.seed + EVALUATION_SEED + 1 if seed is None else seed
    n_envs = min(config.n_envs, episodes)
    check_seed(seed, n_envs - 1)
    env_facts = check_env(config)
    network = load_encoder(
        encoder or config.encoder,
        device=device or config.device,
        precision=config.precision,
        layer=config.layer,
    )
    _check_fingerprint(network, recorded["encoder"], run)
    latents = make_latent_vec_env(
        env_facts.qualified_id,
        n_envs,
        encoder=network,
        seed=seed,
        env_kwargs=config.env_kwargs,
        image_key=config.image_key,
        keep=config.keep,
        vec_env_cls=WorkerVecEnv,
    )
    try:
        with StopSignal() as stop:
            venv = load_statistics(config, folder.statistics, latents)
            model = load_model(config, folder.model, venv)
            # Loading restores the generator of the training run; the sampled actions belong to this evaluation's seed.
            model.set_random_seed(seed)
            record = describe_encoder(network)
            reporter.starting(Facts(encoder_words(record), record["untrained"], torch.get_num_threads(), run))
            watcher = None
            if film and venv.render_mode == "rgb_array":
                watcher = EpisodeRecorder(venv, n_envs - 1, env_facts.video_fps)
            score = play_model(
                model,
                venv,
                episodes,
                seed=seed,
                deterministic=deterministic,
                reporter=reporter,
                stop=stop,
                watcher=watcher,
            )
    except Stopped:
        raise KeyboardInterrupt from None
    except WorkerDiedError:
        # A SIGTERM to the whole process group ends the workers too.
        if stop.requested:
            raise KeyboardInterrupt from None
        raise
    finally:
        latents.close()
    if watcher is not None:
        watcher.save(target)
    return EvaluationResult(config, score, baseline, target if watcher else None)


def _check_fingerprint(network: VPTEncoder, recorded: Mapping[str, Any], run: Path) -> None:
    if network.fingerprint != recorded["fingerprint"]:
        raise VPTGymError(
            f"The encoder {network.source} is not the one that {run} was trained on: its fingerprint begins "
            f"{network.fingerprint[:12]}, the run's {recorded['fingerprint'][:12]}; give the weights of the training "
            f"({recorded['source']}) with --encoder."
        )
