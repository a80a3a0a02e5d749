"""One training run, from an environment's id to a run folder."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import CSVOutputFormat, Logger, TensorBoardOutputFormat
from stable_baselines3.common.vec_env import VecNormalize

from vpt_gym.encoders import load_encoder
from vpt_gym.rollout.workers import WorkerDiedError
from vpt_gym.running.files import write_atomically
from vpt_gym.running.stopping import Stopped, StopSignal
from vpt_gym.running.versions import versions
from vpt_gym.training.algorithms import build_model, normalized
from vpt_gym.training.callback import TrainingCallback
from vpt_gym.training.config import ALGORITHMS, EVALUATION_SEED, TrainingConfig
from vpt_gym.training.environments import check_env, latent_envs
from vpt_gym.training.folder import RunFolder
from vpt_gym.training.playing import RandomPolicy, play
from vpt_gym.training.plot import learning_curve
from vpt_gym.training.report import Facts, Reporter, Score
from vpt_gym.wrappers.sb3 import VecVPTLatent

__all__ = ["TrainingResult", "train"]


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended.

    Attributes:
        folder: the run folder.
        interrupted: Ctrl-C or SIGTERM ended the run early; what was done until then is saved.
        steps: environment steps taken.
        training_seconds: wall-clock seconds of the training alone.
        total_seconds: wall-clock seconds of everything.
        baseline: the random policy's score, unless interrupted before it was measured.
        evaluation: the trained policy's score, unless interrupted.
        video: the film of the evaluation, if one was made.
    """

    folder: Path
    interrupted: bool
    steps: int
    training_seconds: float
    total_seconds: float
    baseline: Score | None
    evaluation: Score | None
    video: Path | None


def train(config: TrainingConfig, run: Path | None = None, reporter: Reporter | None = None) -> TrainingResult:
    """Train a head on the latents of a frozen encoder, measure it, and leave a run folder.

    The random policy plays `eval_episodes` episodes first, without the encoder. After training the policy plays as
    many, with actions sampled from it, as in training; both open on the same seeds. The first Ctrl-C or SIGTERM ends
    the run at the next step, and what there is gets saved.

    Args:
        config: the run.
        run: the run folder, new or empty; None makes `runs/<env>-<time>` under the current directory.
        reporter: told how the run goes.

    Returns:
        What was measured, and where it lies.

    Raises:
        VPTGymError: the environment, the encoder or the folder is not usable, or an environment process died; in the
            last case the model of that moment is saved.
        KeyboardInterrupt: Ctrl-C before there was anything to save.
    """
    began = time.monotonic()
    fps = check_env(config)
    folder = RunFolder.plan(run, config.env_id)
    with (
        closing(load_encoder(config.encoder, **config.encoder_options)) as encoder,
        closing(latent_envs(config, encoder, config.n_envs, config.seed)) as latents,
        StopSignal() as stop,
    ):
        return _Run(config, folder, encoder.describe(), latents, fps, reporter or Reporter(), stop, began).go()


class _Run:
    """The state of one run: what is known so far, and the files that show it."""

    def __init__(
        self,
        config: TrainingConfig,
        folder: RunFolder,
        encoder: dict[str, Any],
        latents: VecVPTLatent,
        fps: float,
        reporter: Reporter,
        stop: StopSignal,
        began: float,
    ) -> None:
        self.config, self.folder, self.encoder, self.fps = config, folder, encoder, fps
        self.reporter, self.stop, self.began = reporter, stop, began
        self.seed = config.seed + EVALUATION_SEED
        self.playing: dict[str, Any] = {"seed": self.seed, "reporter": reporter, "stop": stop}
        self.frames = latents.venv
        self.venv = normalized(config, latents)
        self.baseline: Score | None = None
        self.evaluation: Score | None = None
        self.video: Path | None = None
        self.callback = TrainingCallback(config.planned_steps, reporter, stop, lambda: self.save("running"))
        folder.make()
        self.model: BaseAlgorithm = build_model(config, self.venv)

    def go(self) -> TrainingResult:
        """Measure, train, measure again; whatever happens, save."""
        interrupted = False
        self.save("running")
        threads = torch.get_num_threads()
        self.reporter.starting(Facts(self.encoder["words"], self.encoder["untrained"], threads, self.folder.path))
        try:
            self.measure_random()
            self.learn()
            self.stop.check()
            self.save("evaluating")
            self.evaluate()
        except (Stopped, KeyboardInterrupt):
            interrupted = True
        except WorkerDiedError as error:
            # `timeout` and others send SIGTERM to the whole process group, workers included: they were told to end too.
            interrupted = self.stop.requested
            if not interrupted:
                self.save("failed")
                raise WorkerDiedError(
                    f"{error} The model after {self.model.num_timesteps:,} steps is saved in {self.folder.path}."
                ) from error
        self.save("interrupted" if interrupted else "finished")
        return TrainingResult(
            folder=self.folder.path,
            interrupted=interrupted,
            steps=self.model.num_timesteps,
            training_seconds=self.callback.seconds,
            total_seconds=time.monotonic() - self.began,
            baseline=self.baseline,
            evaluation=self.evaluation,
            video=self.video,
        )

    def measure_random(self) -> None:
        """The random policy's score on the same environments."""
        policy = RandomPolicy(self.frames, self.seed)
        self.baseline, _ = play(policy, self.frames, self.config.eval_episodes, **self.playing)
        self.reporter.baseline(self.baseline)
        self.venv.seed(self.config.seed)

    def learn(self) -> None:
        """Train until the steps are done or the user asks to stop."""
        logger = Logger(
            str(self.folder.path),
            [CSVOutputFormat(str(self.folder.progress)), TensorBoardOutputFormat(str(self.folder.tensorboard))],
        )
        self.model.set_logger(logger)
        try:
            log_interval = 1 if ALGORITHMS[self.config.algo].on_policy else 10
            self.model.learn(self.config.steps, callback=self.callback, log_interval=log_interval)
        finally:
            logger.close()

    def evaluate(self) -> None:
        """The trained policy's score, and a film of some of its episodes where the environment renders."""
        if isinstance(self.venv, VecNormalize):
            self.venv.training = False
        film = None if self.config.video == "none" else self.folder.video(self.config.video)
        self.evaluation, self.video = play(
            self.model, self.venv, self.config.eval_episodes, film=film, fps=self.fps, **self.playing
        )

    def save(self, status: str) -> None:
        """Bring every file of the run folder up to date; Ctrl-C waits meanwhile."""
        with self.stop.held():
            write_atomically(self.folder.model, self.model.save)
            if isinstance(self.venv, VecNormalize):
                statistics = self.venv
                write_atomically(self.folder.statistics, lambda path: statistics.save(str(path)))
            self.folder.write_episodes(self.callback.episodes)
            write_atomically(self.folder.curve, self.draw)
            self.folder.write_config(
                {
                    "status": status,
                    "training": self.config.to_dict(),
                    "encoder": self.encoder,
                    "versions": versions(),
                    "steps": self.model.num_timesteps,
                    "seconds": {
                        "training": round(self.callback.seconds, 1),
                        "total": round(time.monotonic() - self.began, 1),
                    },
                    "random_policy": self.baseline and self.baseline.to_dict(),
                    "evaluation": self.evaluation and {"deterministic": False, **self.evaluation.to_dict()},
                }
            )

    def draw(self, path: Path) -> None:
        """The learning curve of what is known so far."""
        figure = learning_curve(
            self.config,
            self.callback.episodes,
            steps=self.model.num_timesteps,
            untrained=self.encoder["untrained"],
            baseline=self.baseline,
            evaluation=self.evaluation,
        )
        figure.savefig(path)
