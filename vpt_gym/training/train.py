"""One training run, from an environment's id to a run folder."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import CSVOutputFormat, Logger, TensorBoardOutputFormat
from stable_baselines3.common.vec_env import VecNormalize

from vpt_gym.encoders import load_encoder
from vpt_gym.encoders.vpt import VPTEncoder
from vpt_gym.rollout.make import make_latent_vec_env
from vpt_gym.rollout.workers import WorkerDiedError, WorkerVecEnv
from vpt_gym.running.files import write_atomically
from vpt_gym.running.stopping import Stopped, StopSignal
from vpt_gym.running.versions import versions
from vpt_gym.training.algorithms import build_model, normalized
from vpt_gym.training.callback import TrainingCallback
from vpt_gym.training.config import ALGORITHMS, EVALUATION_SEED, TrainingConfig
from vpt_gym.training.environments import EnvFacts, check_env
from vpt_gym.training.folder import RunFolder
from vpt_gym.training.playing import play_model, play_random
from vpt_gym.training.plot import learning_curve
from vpt_gym.training.report import Facts, Reporter, Score
from vpt_gym.training.video import EpisodeRecorder
from vpt_gym.wrappers.sb3 import VecVPTLatent

__all__ = ["TrainingResult", "describe_encoder", "encoder_words", "train"]


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
    env_facts = check_env(config)
    folder = RunFolder.plan(run, config.env_id)
    encoder = load_encoder(config.encoder, device=config.device, precision=config.precision, layer=config.layer)
    venv = make_latent_vec_env(
        env_facts.qualified_id,
        config.n_envs,
        encoder=encoder,
        seed=config.seed,
        env_kwargs=config.env_kwargs,
        image_key=config.image_key,
        keep=config.keep,
        vec_env_cls=WorkerVecEnv,
    )
    try:
        with StopSignal() as stop:
            run_state = _Run(
                config=config,
                folder=folder,
                encoder=encoder,
                env_facts=env_facts,
                venv=venv,
                reporter=reporter or Reporter(),
                stop=stop,
                began=began,
            )
            return run_state.go()
    finally:
        venv.close()


def describe_encoder(encoder: VPTEncoder) -> dict[str, Any]:
    """What config.json records about an encoder: enough to rebuild it, and to refuse another one."""
    return {
        "source": encoder.source,
        "fingerprint": encoder.fingerprint,
        "untrained": encoder.report.untrained,
        "report": encoder.report.summary(),
        "architecture": asdict(encoder.config),
        "latent_size": encoder.latent_size,
        "device": str(encoder.device),
        "precision": encoder.precision,
    }


class _Run:
    """The state of one run: what is known so far, and the files that show it."""

    def __init__(
        self,
        *,
        config: TrainingConfig,
        folder: RunFolder,
        encoder: VPTEncoder,
        env_facts: EnvFacts,
        venv: VecVPTLatent,
        reporter: Reporter,
        stop: StopSignal,
        began: float,
    ) -> None:
        self.config = config
        self.folder = folder
        self.env_facts = env_facts
        self.frames = venv.venv
        self.venv = normalized(config, venv)
        self.reporter = reporter
        self.stop = stop
        self.began = began
        self.encoder_record = describe_encoder(encoder)
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
        self.reporter.starting(
            Facts(
                encoder_words(self.encoder_record),
                self.encoder_record["untrained"],
                torch.get_num_threads(),
                self.folder.path,
            )
        )
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
        seed = self.config.seed + EVALUATION_SEED
        self.baseline = play_random(
            self.frames, self.config.eval_episodes, seed=seed, reporter=self.reporter, stop=self.stop
        )
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
        watcher = None
        if self.config.video != "none" and self.venv.render_mode == "rgb_array":
            # `evaluate_policy` gives the last environments the larger share of the episodes.
            watcher = EpisodeRecorder(self.venv, self.config.n_envs - 1, self.env_facts.video_fps)
        self.evaluation = play_model(
            self.model,
            self.venv,
            self.config.eval_episodes,
            seed=self.config.seed + EVALUATION_SEED,
            deterministic=False,
            reporter=self.reporter,
            stop=self.stop,
            watcher=watcher,
        )
        if watcher is not None:
            self.video = self.folder.video(self.config.video)
            watcher.save(self.video)

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
                    "encoder": self.encoder_record,
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
            untrained=self.encoder_record["untrained"],
            baseline=self.baseline,
            evaluation=self.evaluation,
        )
        figure.savefig(path)


def encoder_words(record: dict[str, Any]) -> str:
    """The encoder in one line, for people."""
    shape = record["architecture"]
    return (
        f"{record['source']}: {shape['blocks']} blocks, {record['latent_size']} numbers a frame, "
        f"{record['device']}, {record['precision']}"
    )
