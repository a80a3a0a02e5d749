"""A contestant that is not trained: a saved policy plays the evaluation's episodes, and leaves a record like a run's."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from vpt_gym.encoders import load_encoder
from vpt_gym.offline.recordings import digest_of_file
from vpt_gym.running.stopping import Stopped, StopSignal
from vpt_gym.running.versions import versions
from vpt_gym.training import EvaluationConfig, Facts, FleetConfig, Reporter, TrainingConfig
from vpt_gym.training.chunks import load_diffusion
from vpt_gym.training.environments import check_env, latent_envs
from vpt_gym.training.folder import RunFolder
from vpt_gym.training.playing import RandomPolicy, play
from vpt_gym.training.seeds import Purpose, seeds_of

__all__ = ["play_policy"]


def play_policy(policy: Path, config: TrainingConfig, run: Path, reporter: Reporter, fleet: FleetConfig) -> None:
    """Play what a training of this config plays before and after: the random policy, and then this one, on the same episodes.

    Args:
        policy: as `DiffusionPolicy.save` wrote it.
        config: the environments, the policy's encoder, the seed and the number of episodes.
        run: gets a config.json like that of a finished run.
        reporter: told how it goes.
        fleet: where the environments are.

    Raises:
        VPTGymError: the policy, its encoder or the environment cannot be had, or they do not fit together.
        KeyboardInterrupt: Ctrl-C or SIGTERM came; nothing is left then.
    """
    began = time.monotonic()
    folder = RunFolder(run)
    check_env(config)
    with (
        folder.fresh(),
        closing(load_encoder(config.encoder, **config.encoder_options)) as encoder,
        closing(latent_envs(config, encoder, config.n_envs, fleet)) as latents,
        StopSignal() as stop,
    ):
        facts = encoder.describe()
        model: Any = load_diffusion(EvaluationConfig(run, policy=policy), latents, encoder)
        reporter.starting(Facts(facts["words"], facts["untrained"], torch.get_num_threads(), run))
        seeds = seeds_of(config.seed, Purpose.EVALUATION, config.n_envs)
        model.set_random_seed(seeds.actions)
        try:
            random, evaluation = (
                play(player, venv, config.eval_episodes, seeds=seeds, reporter=reporter, stop=stop)[0]
                for player, venv in ((RandomPolicy(latents.venv, seeds.actions), latents.venv), (model, latents))
            )
        except Stopped:
            raise KeyboardInterrupt from None
        folder.write_config(
            {
                "status": "finished",
                "policy": {"source": str(policy), "fingerprint": digest_of_file(policy)},
                "training": config.to_dict(),
                "encoder": facts,
                "versions": versions(),
                "steps": 0,
                "seconds": {"total": round(time.monotonic() - began, 1)},
                "random_policy": random.to_dict(),
                "evaluation": {"deterministic": False, **evaluation.to_dict()},
            }
        )
