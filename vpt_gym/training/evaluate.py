"""Playing a trained run again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.vec_env import VecEnv

from vpt_gym.encoders import as_encoder
from vpt_gym.errors import OptionError, VPTGymError
from vpt_gym.running.files import check_writable, claimed, lock_of
from vpt_gym.running.stopping import Stopped, StopSignal
from vpt_gym.running.versions import differences
from vpt_gym.training.algorithms import load_model, load_statistics
from vpt_gym.training.chunks import load_diffusion
from vpt_gym.training.config import EvaluationConfig, TrainingConfig
from vpt_gym.training.environments import check_env, latent_envs
from vpt_gym.training.folder import RunFolder
from vpt_gym.training.playing import play
from vpt_gym.training.report import Facts, Reporter, Score
from vpt_gym.training.seeds import Purpose, seeds_of

__all__ = ["EvaluationResult", "check_fingerprint", "evaluate"]


@dataclass(frozen=True)
class EvaluationResult:
    """What an evaluation found.

    Attributes:
        training: the run's own config.
        score: the trained policy's score.
        baseline: the random policy's score as the run measured it before training; None if it was stopped before.
        video: the film, if one was made.
        status: how the run stood: `finished`, `interrupted`, `failed`, `killed`, or `running` or `evaluating` if it goes on.
        differences: packages that are installed in another version than the run was made with, in words.
    """

    training: TrainingConfig
    score: Score
    baseline: Score | None
    video: Path | None
    status: str
    differences: list[str]


def evaluate(config: EvaluationConfig, reporter: Reporter | None = None) -> EvaluationResult:
    """Play whole episodes with the policy of a run folder, in its environment and on its encoder.

    Args:
        config: which run, and how to play.
        reporter: told how it goes.

    Returns:
        The score beside the random policy's.

    Raises:
        VPTGymError: the folder is no run or is damaged, its environment or encoder cannot be had, the encoder is not the
            run's, the film cannot be made or written, or another command writes there.
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
    n_envs = min(training.n_envs, config.episodes)
    seeds = seeds_of(training.seed if config.seed is None else config.seed, Purpose.EVAL_COMMAND, n_envs)
    film = None if config.video == "none" else Path(config.video or folder.video("gif", "eval"))
    options = {**training.encoder_options, **config.encoder_options}
    stop = StopSignal()
    try:
        with _claimed(film, folder):
            fps = check_env(training)
            with closing(as_encoder(config.encoder or training.encoder, options)) as encoder:
                facts = encoder.describe()
                check_fingerprint(facts, recorded["encoder"], config.folder, remedy="with --encoder")
                with closing(latent_envs(training, encoder, n_envs)) as latents, stop:
                    if config.video is not None and film is not None and latents.render_mode != "rgb_array":
                        raise OptionError(
                            f"{training.env_id} renders no rgb_array, so {film} cannot be filmed; leave --video out."
                        )
                    venv: VecEnv = latents
                    if config.policy is None:
                        venv = load_statistics(training, folder, latents, trust=config.trust)
                        model: Any = load_model(training, folder.model, venv, encoder)
                    else:
                        model = load_diffusion(config, latents, encoder)
                    # The generator of a fresh model is the training's; the sampled actions belong to this evaluation.
                    model.set_random_seed(seeds.actions)
                    reporter.starting(Facts(facts["words"], facts["untrained"], torch.get_num_threads(), config.folder))
                    score, video = play(
                        model,
                        venv,
                        config.episodes,
                        seeds=seeds,
                        deterministic=config.deterministic,
                        film=film,
                        fps=fps,
                        reporter=reporter,
                        stop=stop,
                    )
    except Stopped:
        raise KeyboardInterrupt from None
    return EvaluationResult(
        training, score, baseline, video, folder.status(recorded), differences(recorded.get("versions", {}))
    )


@contextmanager
def _claimed(film: Path | None, folder: RunFolder) -> Iterator[None]:
    """Holds the run folder, or the film, whichever this evaluation writes to."""
    if film is None:
        yield
        return
    check_writable(film)
    inside = film.parent.resolve() == folder.path.resolve()
    with folder.held() if inside else claimed(lock_of(film), f"The film {film}"):
        yield


def check_fingerprint(encoder: Mapping[str, Any], recorded: Mapping[str, Any], run: Path, *, remedy: str) -> None:
    """Raises VPTGymError unless an encoder, as it describes itself, is the one that a run was trained on."""
    if encoder["fingerprint"] != recorded["fingerprint"]:
        raise VPTGymError(
            f"The encoder {encoder['source']} is not the one that {run} was trained on: its fingerprint begins "
            f"{encoder['fingerprint'][:12]}, the run's {recorded['fingerprint'][:12]}; give the weights of the training "
            f"({recorded['source']}) {remedy}."
        )
