"""One training run, from an environment's id to a run folder."""

from __future__ import annotations

import copy
import io
import time
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from vpt_gym.encoders import Encoder, as_encoder
from vpt_gym.errors import NonFiniteLatent, OptionError, VPTGymError
from vpt_gym.running.files import WriteError, write_atomically
from vpt_gym.running.stopping import Stopped, StopSignal
from vpt_gym.running.versions import versions
from vpt_gym.running.watching import wandb_run
from vpt_gym.training.algorithms import build_model, normalized
from vpt_gym.training.callback import Episode, TrainingCallback
from vpt_gym.training.checkpoints import SaveRun, load, newest
from vpt_gym.training.config import FleetConfig, TrainingConfig
from vpt_gym.training.environments import check_env, latent_envs
from vpt_gym.training.folder import STEPS, RunFolder
from vpt_gym.training.logs import open_logger
from vpt_gym.training.playing import RandomPolicy, play
from vpt_gym.training.plot import learning_curve
from vpt_gym.training.report import Facts, Reporter, Score
from vpt_gym.training.scaling import write_scaling
from vpt_gym.training.seeds import Purpose, seeds_of
from vpt_gym.training.soundness import NonFiniteRunError, is_sound
from vpt_gym.wrappers.sb3 import VecVPTLatent

__all__ = ["TrainingResult", "config_of", "resume", "train"]

CHECKPOINT_SECONDS: Final = 60.0
KEEP_SECONDS: Final = 2.0
"""Between two copies of a head that is sound, in memory, to go back to."""


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


def train(
    config: TrainingConfig,
    run: Path | None = None,
    reporter: Reporter | None = None,
    fleet: FleetConfig | None = None,
    save_every: float = CHECKPOINT_SECONDS,
    wandb: bool = False,
) -> TrainingResult:
    """Train a head on the latents of a frozen encoder, measure it, and leave a run folder.

    The random policy plays `eval_episodes` episodes first, without the encoder. After training the policy plays as
    many, with actions sampled from it, as in training; both open on the same seeds. The first Ctrl-C or SIGTERM ends
    the run at the next step, and what there is gets saved.

    Args:
        config: the run.
        run: the run folder, new or empty; None makes `runs/<env>-<time>` under the current directory.
        reporter: told how the run goes.
        fleet: where the environments are; processes of this machine by default.
        save_every: seconds between two checkpoints to resume from.
        wandb: log to Weights & Biases too.

    Returns:
        What was measured, and where it lies.

    Raises:
        VPTGymError: the environment, the encoder or the folder is not usable; or an environment failed too often in a row
            (EnvironmentFailedError), or a latent or a parameter is not finite, and then the last sound model is saved.
        KeyboardInterrupt: Ctrl-C before there was anything to save.
    """
    began = time.monotonic()
    folder = RunFolder.plan(run, config.env_id)
    # First of all: a folder that cannot be had costs no minute of loading.
    with folder.fresh():
        return _train(config, folder, reporter, fleet, save_every, wandb, began, None)


def resume(
    run: Path,
    steps: int | None = None,
    reporter: Reporter | None = None,
    fleet: FleetConfig | None = None,
    save_every: float = CHECKPOINT_SECONDS,
    wandb: bool = False,
) -> TrainingResult:
    """Go on with a run that was killed, interrupted or has failed, or is to be longer, from its newest checkpoint.

    Args:
        run: the run folder.
        steps: how many the run shall have in all; as many as it was begun with by default.
        reporter: as for `train`.
        fleet: as for `train`; the environments may be elsewhere than before.
        save_every: as for `train`.
        wandb: as for `train`; a run that was logged there goes on there.

    Returns:
        As `train` does.

    Raises:
        VPTGymError: the folder holds no whole checkpoint, or is another command's; the encoder is not what it was; the run has
            all its steps; or as for `train`.
    """
    began = time.monotonic()
    folder = RunFolder.open(run)
    with folder.held():
        recorded, config = folder.read_config(), config_of(run, steps)
        place, state = newest(folder.checkpoints)
        if state["steps"] >= config.planned_steps and recorded.get("status") == "finished":
            raise OptionError(
                f"{run} has finished its {state['steps']:,} steps; give more of them with --steps to go on."
            )
        return _train(config, folder, reporter, fleet, save_every, wandb, began, _Resumed(place, state, recorded))


def config_of(run: Path, steps: int | None = None) -> TrainingConfig:
    """What a run folder trains; with another number of steps, where one is given.

    Raises:
        VPTGymError: it is no run folder, or is damaged.
    """
    config = TrainingConfig.from_dict(RunFolder.open(run).read_config()["training"])
    return config if steps is None else replace(config, steps=steps)


class _Resumed(NamedTuple):
    """What a run goes on from: a checkpoint, what is in it, and the folder's config.json."""

    place: Path
    state: dict[str, Any]
    recorded: dict[str, Any]


def _train(
    config: TrainingConfig,
    folder: RunFolder,
    reporter: Reporter | None,
    fleet: FleetConfig | None,
    save_every: float,
    wandb: bool,
    began: float,
    resumed: _Resumed | None,
) -> TrainingResult:
    fps = check_env(config)
    with (
        closing(as_encoder(config.encoder, config.encoder_options)) as encoder,
        wandb_run(folder.path, config.to_dict(), STEPS) if wandb else nullcontext() as watched,
        closing(latent_envs(config, encoder, config.n_envs, fleet)) as latents,
        StopSignal() as stop,
    ):
        told = reporter or Reporter()
        return _Run(config, folder, encoder, latents, fps, told, stop, began, save_every, watched, resumed).go()


class _Run:
    """The state of one run: what is known so far, and the files that show it."""

    def __init__(
        self,
        config: TrainingConfig,
        folder: RunFolder,
        encoder: Encoder,
        latents: VecVPTLatent,
        fps: float,
        reporter: Reporter,
        stop: StopSignal,
        began: float,
        save_every: float,
        watched: Any,
        resumed: _Resumed | None,
    ) -> None:
        self.resumed, self.watched = resumed, watched
        self.earlier_seconds = 0.0
        self.config, self.folder, self.encoder, self.fps = config, folder, encoder.describe(), fps
        self.reporter, self.stop, self.began = reporter, stop, began
        self.seeds = seeds_of(config.seed, Purpose.EVALUATION, config.n_envs)
        self.playing: dict[str, Any] = {"seeds": self.seeds, "reporter": reporter, "stop": stop}
        self.workers: Any = latents.unwrapped
        self.frames = latents.venv
        self.venv = normalized(config, latents)
        self.baseline: Score | None = None
        self.evaluation: Score | None = None
        self.video: Path | None = None
        self.callback = TrainingCallback(config.planned_steps, reporter, stop, self.between_updates, latents)
        self.model: BaseAlgorithm = build_model(config, self.venv, encoder)
        self.saver = SaveRun(folder.checkpoints, save_every, extra=self.extra)
        if resumed is not None:
            self.go_on(resumed)
        self.kept_at = self.saved_at = time.monotonic()
        self.kept = self.parameters()

    def go_on(self, resumed: _Resumed) -> None:
        """Take up what the checkpoint and the folder know of the run."""
        extra = load(self.model, resumed.place, resumed.state)
        if self.model._last_obs is None:
            seeds = seeds_of(self.config.seed, Purpose.RESUMED, self.config.n_envs, self.model.num_timesteps)
            self.workers.seed_each(seeds.envs)
        self.callback.episodes = [Episode(int(s), float(r), int(n)) for s, r, n in extra["episodes"]]
        self.earlier_seconds = extra["seconds"]
        self.began -= extra.get("total", self.earlier_seconds)
        random = resumed.recorded.get("random_policy")
        self.baseline = Score.of(random["returns"]) if random else None

    def extra(self) -> dict[str, Any]:
        """What a checkpoint holds of the run beside the model."""
        episodes = [tuple(episode) for episode in self.callback.episodes]
        return {
            "episodes": np.array(episodes, np.float64).reshape(-1, 3),
            "seconds": self.training_seconds,
            "total": time.monotonic() - self.began,
        }

    @property
    def training_seconds(self) -> float:
        """Of the training alone, before the run was resumed and since."""
        return self.earlier_seconds + self.callback.seconds

    def go(self) -> TrainingResult:
        """Measure, train, measure again; whatever happens, save, and say in the folder what happened."""
        try:
            # Before the first model, so that a folder which holds anything says what it is.
            self.folder.write_config(self.record("running"))
            self.save("running")
            interrupted = self.work()
            self.save("interrupted" if interrupted else "finished")
        except BaseException as error:
            saved = self.save_failed(f"{type(error).__name__}: {error}")
            if isinstance(error, NonFiniteLatent) and error.frames is not None:
                frames = error.frames
                write_atomically(self.folder.bad_frames, lambda path: np.savez_compressed(path, frames=frames))
                saved = f"{saved} Its frames are in {self.folder.bad_frames}."
            if isinstance(error, VPTGymError):
                error.args = (f"{error} {saved}", *error.args[1:])
            raise
        return TrainingResult(
            folder=self.folder.path,
            interrupted=interrupted,
            steps=self.model.num_timesteps,
            training_seconds=self.training_seconds,
            total_seconds=time.monotonic() - self.began,
            baseline=self.baseline,
            evaluation=self.evaluation,
            video=self.video,
        )

    def work(self) -> bool:
        """All that takes time; returns whether the user has ended it early."""
        facts = Facts(self.encoder["words"], self.encoder["untrained"], torch.get_num_threads(), self.folder.path)
        try:
            self.reporter.starting(facts)
            if self.resumed is None:
                self.measure_random()
            elif self.baseline is not None:
                self.reporter.baseline(self.baseline)
            self.learn()
            self.stop.check()
            self.save("evaluating")
            self.evaluate()
        except (Stopped, KeyboardInterrupt):
            return True
        return False

    def measure_random(self) -> None:
        """The random policy's score on the same environments."""
        policy = RandomPolicy(self.frames, self.seeds.actions)
        self.baseline, _ = play(policy, self.frames, self.config.eval_episodes, **self.playing)
        # Whoever goes on after a power cut does not measure it again.
        self.folder.write_config(self.record("running"))
        self.reporter.baseline(self.baseline)
        self.workers.seed_each(seeds_of(self.config.seed, Purpose.TRAINING, self.config.n_envs).envs)

    def learn(self) -> None:
        """Train until the steps are done or the user asks to stop.

        Raises:
            NonFiniteRunError: a reward, an observation or a parameter is not finite.
            WriteError: a log cannot be written.
        """
        try:
            logger = open_logger(self.folder, self.model.num_timesteps if self.resumed else None, self.watched)
            self.model.set_logger(logger)
            try:
                self.model.learn(
                    max(self.config.steps - self.model.num_timesteps, 0),
                    callback=[self.callback, self.saver],
                    log_interval=1 if self.config.algorithm.on_policy else 10,
                    reset_num_timesteps=self.resumed is None,
                )
                self.saver.save()
            finally:
                logger.close()
        except WriteError:
            raise
        except OSError as error:
            # Environments are in other processes, so what the system refuses here is the logs.
            raise WriteError.of(self.folder.path, error) from error
        except (RuntimeError, ValueError) as error:
            # In the middle of an update: torch's distributions refuse what parameters that are NaN have made.
            if isinstance(error, VPTGymError) or is_sound(self.model):
                raise
            raise self.unsound() from error

    def between_updates(self) -> None:
        """Look whether the head is sound, keep it now and then, and save it about once a minute.

        Raises:
            NonFiniteRunError: it is not.
        """
        if not is_sound(self.model):
            raise self.unsound()
        now = time.monotonic()
        if now - self.kept_at > KEEP_SECONDS:
            self.kept, self.kept_at = self.parameters(), now
        if now - self.saved_at > CHECKPOINT_SECONDS:
            self.save("running")
            self.saved_at = time.monotonic()

    def parameters(self) -> tuple[int, dict[str, Any]]:
        """The steps so far and a copy of what has been learnt."""
        return self.model.num_timesteps, copy.deepcopy(self.model.get_parameters())

    def unsound(self) -> NonFiniteRunError:
        """The sentence for a head that an update has broken."""
        return NonFiniteRunError(
            f"{self.config.env_id}: a parameter of the {self.config.algo.upper()} head is not finite after the update at "
            f"step {self.model.num_timesteps:,}, or too large for finite products; lower learning_rate, or scale rewards "
            "that are far from 1."
        )

    def evaluate(self) -> None:
        """The trained policy's score, and a film of some of its episodes where the environment renders."""
        if isinstance(self.venv, VecNormalize):
            self.venv.training = False
        film = None if self.config.video == "none" else self.folder.video(self.config.video)
        self.evaluation, self.video = play(
            self.model, self.venv, self.config.eval_episodes, film=film, fps=self.fps, **self.playing
        )

    def save(self, status: str, error: str | None = None) -> None:
        """Bring every file of the run folder up to date; Ctrl-C waits meanwhile.

        Raises:
            WriteError: the system refused.
        """
        with self.stop.held():
            write_atomically(self.folder.model, self.write_model)
            if isinstance(self.venv, VecNormalize):
                write_scaling(self.venv, self.folder.scaling)
            self.folder.write_episodes(self.callback.episodes)
            write_atomically(self.folder.curve, self.draw)
            self.folder.write_config(self.record(status, error))

    def save_failed(self, error: str) -> str:
        """The last word of a run that broke: the last sound model and why, or, where there is no room for both, why."""
        if not is_sound(self.model):
            steps, parameters = self.kept
            self.model.set_parameters(parameters)
            self.model.num_timesteps = steps
        try:
            self.save("failed", error)
        except WriteError:
            with suppress(WriteError):
                self.folder.write_config(self.record("failed", error))
            return f"What {self.folder.path} holds is of the last time that it could be written."
        return f"The model after {self.model.num_timesteps:,} steps is saved in {self.folder.path}."

    def write_model(self, path: Path) -> None:
        """Write model.zip in one piece: what the system refuses in the middle of an archive, torch calls something else."""
        buffer = io.BytesIO()
        self.model.save(buffer)
        path.write_bytes(buffer.getbuffer())

    def record(self, status: str, error: str | None = None) -> dict[str, Any]:
        """config.json of what is known so far."""
        return {
            "status": status,
            **({"error": error} if error else {}),
            "training": self.config.to_dict(),
            "encoder": self.encoder,
            "versions": versions(),
            "steps": self.model.num_timesteps,
            "seconds": {
                "training": round(self.training_seconds, 1),
                "total": round(time.monotonic() - self.began, 1),
            },
            "random_policy": self.baseline and self.baseline.to_dict(),
            "evaluation": self.evaluation and {"deterministic": False, **self.evaluation.to_dict()},
        }

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
