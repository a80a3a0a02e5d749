"""`vpt-gym clone`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from vpt_gym.cli.arguments import add_command, ending_in, record_of
from vpt_gym.cli.terminal import duration, say
from vpt_gym.offline.plan import CloningConfig
from vpt_gym.offline.report import CloneReporter, CloneResult, Epoch
from vpt_gym.running.options import WIDTHS, Option

if TYPE_CHECKING:
    from vpt_gym.offline.dataset import LatentDataset

__all__ = ["add_parser"]

DESCRIPTION = """\
Behaviour cloning: train a policy to act as in the demonstrations of a dataset
of latents, and save it as a PPO model that Stable-Baselines3 loads, so that
reinforcement learning can go on from it: PPO.load(MODEL, env=venv). Beside the
model it leaves a picture of its curves."""

EXAMPLES = """\
examples:
  vpt-gym clone latents --out clone.zip
  vpt-gym clone latents --out clone.zip --net-arch 256,256 --epochs 50
  vpt-gym clone latents --out clone.zip --goal 'open the door'
  vpt-gym clone latents --out clone.zip \\
    --heads CraftJarvis/MineStudio_VPT.rl_from_early_game_2x"""


@dataclass(frozen=True, kw_only=True)
class Cloning(CloningConfig):
    """What `vpt-gym clone` is asked."""

    dataset: Annotated[Path, Option("a dataset of vpt-gym encode, with actions", flag="DATASET")]
    out: Annotated[Path, Option("the model's file, .zip", group="output")]
    net_arch: Annotated[
        tuple[int, ...],
        Option(
            "hidden layers of the policy: 64, or 64,64; none puts a linear one on the latent", WIDTHS, group="policy"
        ),
    ] = ()
    heads: Annotated[
        str | None,
        Option("begin with VPT's own heads, of these weights; for VPT's actions", group="policy", metavar="SOURCE"),
    ] = None
    goal: Annotated[
        str | None,
        Option("what all episodes do, in words (default: the dataset's label goal, if there is one)", group="policy"),
    ] = None
    clip: Annotated[
        str | None,
        Option("a folder or hub repository with CLIP, which embeds the goal", metavar="PLACE", group="policy"),
    ] = None


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `clone` to the commands."""
    add_command(
        commands,
        "clone",
        Cloning,
        run,
        summary="train a policy on demonstrations",
        description=DESCRIPTION,
        examples=EXAMPLES,
    )


def run(arguments: argparse.Namespace) -> int:
    """Clone, and print how it went."""
    asked = record_of(Cloning, arguments)
    from vpt_gym.encoders.text import asked_goal
    from vpt_gym.offline import LatentDataset, clone
    from vpt_gym.offline.curves import draw_cloning
    from vpt_gym.running.files import claimed_place, write_atomically

    model_path = ending_in(".zip", asked.out)
    config = record_of(CloningConfig, arguments)
    with claimed_place(model_path), LatentDataset(asked.dataset) as dataset:
        say(f"{asked.dataset}: {len(dataset)} episodes, {dataset.frames:,} latents of {dataset.latent_size} numbers")
        goal = asked_goal(asked.goal, asked.clip)
        model = _model(asked, dataset, dataset.goal_size if goal is None else len(goal))
        result = clone(model, dataset, config, goal=goal, reporter=_LineReporter())
        if not result.epochs:
            say("vpt-gym: stopped before the first epoch was over; nothing is saved.")
            return 130
        picture = model_path.with_suffix(".png")
        write_atomically(model_path, model.save)
        draw_cloning(result, picture)
    _print_result(result, model_path, picture)
    return 130 if result.stopped else 0


def _model(asked: Cloning, dataset: LatentDataset, goal_size: int) -> Any:
    """A PPO for the dataset's latents, goals and actions, without an environment."""
    import gymnasium as gym
    from stable_baselines3 import PPO

    from vpt_gym.errors import OptionError
    from vpt_gym.latents import latent_box

    if dataset.action_space is None:
        raise OptionError(f"{asked.dataset} has no actions to clone: encode recordings that have them.")
    from vpt_gym.heads import ScaledLatents

    space: gym.Space[Any] = latent_box(dataset.latent_size)
    policy: Any = "MlpPolicy"
    if goal_size and asked.heads is None:
        policy, space = "MultiInputPolicy", gym.spaces.Dict({"latent": space, "goal": latent_box(goal_size)})
    kwargs: dict[str, Any] = {"net_arch": list(asked.net_arch), "features_extractor_class": ScaledLatents}
    if asked.heads is not None:
        from vpt_gym.encoders import load_encoder
        from vpt_gym.heads import PretrainedHeadPolicy

        if asked.net_arch or asked.goal is not None:
            raise OptionError(
                "--heads brings a policy of its own, which is told no goal: leave --net-arch and --goal out."
            )
        encoder: Any = load_encoder(asked.heads)
        policy, kwargs = PretrainedHeadPolicy, {"heads": encoder.heads}
    model = PPO(policy, env=None, _init_setup_model=False, seed=asked.seed, device="cpu", policy_kwargs=kwargs)  # type: ignore[arg-type]
    # As PPO.load does it: a model is made of spaces, and its environment may come later.
    model.observation_space = space
    model.action_space = dataset.action_space
    model.n_envs = 1
    model._setup_model()
    return model


def _print_result(result: CloneResult, model: Path, picture: Path) -> None:
    best = result.best
    say(
        f"  best         epoch {best.number}, loss {best.validation_loss:.4f} on {result.validation_frames:,} held-out frames"
    )
    for name, value in best.measures.items():
        say(f"               {name:<24} {value:.4f}")
    say(f"  time         {duration(result.seconds)}, {result.frames:,} frames an epoch")
    say(f"Saved in {model}, the curves in {picture}. Next: PPO.load({str(model)!r}, env=venv).learn(...)")


class _LineReporter(CloneReporter):
    def epoch(self, epoch: Epoch, *, better: bool) -> None:
        """A line an epoch."""
        words = "".join(
            f", {name} {epoch.measures[name]:.3f}" for name in ("accuracy", "error") if name in epoch.measures
        )
        mark = "  best so far" if better else ""
        say(f"  epoch {epoch.number:<6} loss {epoch.loss:.4f}, held out {epoch.validation_loss:.4f}{words}{mark}")
