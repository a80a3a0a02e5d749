"""Policies of Stable-Baselines3 as what cloning sees: distributions of actions at latents."""

from __future__ import annotations

from typing import Any, Final

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Normal

from vpt_gym.errors import OptionError
from vpt_gym.offline.batches import Frames
from vpt_gym.offline.dataset import LatentDataset
from vpt_gym.offline.recordings import GOAL, Array
from vpt_gym.weights.heads import VPTHeads

__all__ = ["Student", "student_of"]

FRAMES_PER_SUM: Final = 4096


class Student:
    """A policy that can be cloned into.

    Args:
        policy: of Stable-Baselines3, that acts on latents, or on a Dict of `latent` and `goal`.
        stack: how many latents lie side by side in an observation of it.
        goal_size: numbers in a goal; 0 for a policy that is told none.

    Attributes:
        space: of its actions.
    """

    def __init__(self, policy: Any, stack: int = 1, goal_size: int = 0) -> None:
        self.policy = policy
        self.stack = stack
        self.goal_size = goal_size
        self.space: gym.Space[Any] = policy.action_space

    def observations(self, batch: dict[str, Array], goal: Array | None) -> Any:
        """What the policy observes at the latents of a batch: [N, D], or a Dict with their goals, or with the one of all."""
        latents_nd = torch.from_numpy(batch["latents"]).to(self.policy.device)
        if not self.goal_size:
            return latents_nd
        told = batch[GOAL].reshape(len(latents_nd), -1) if goal is None else goal
        goals_ng = torch.as_tensor(told, dtype=torch.float32, device=self.policy.device)
        return {"latent": latents_nd, GOAL: goals_ng.expand(len(latents_nd), self.goal_size)}

    def parts(self, observations: Any) -> list[Distribution]:
        """The policy's distribution at its observations, part by part.

        Actor-critics (PPO, A2C, TRPO) have one. An actor that gives an action (SAC, TD3) is taken as the middle of a normal
        one of width 1, in which the likelihood is a squared error; Q-values (DQN) as logits.
        """
        policy = self.policy
        if hasattr(policy, "get_distribution"):
            inner = policy.get_distribution(observations).distribution
            return list(inner) if isinstance(inner, list) else [inner]
        if hasattr(policy, "q_net"):
            return [Categorical(logits=policy.q_net(observations))]
        action = policy.actor(observations)
        return [Normal(action, torch.ones_like(action))]

    def fit_scaling(self, frames: Frames) -> None:
        """Gives features extractors that scale latents, and have no statistics yet, those of these frames."""
        found = [
            each for each in self.policy.modules() if callable(getattr(each, "fit", None)) and hasattr(each, "fitted")
        ]
        if all(bool(each.fitted) for each in found):
            return
        count = 0
        mean_d: Any = 0.0
        square_d: Any = 0.0
        for batch in frames.batches(FRAMES_PER_SUM):
            latents_nd = batch["latents"].astype(np.float64)
            mean_d = mean_d + latents_nd.sum(axis=0)
            square_d = square_d + np.square(latents_nd).sum(axis=0)
            count += len(latents_nd)
        mean_d = mean_d / count
        variance_d = np.maximum(square_d / count - np.square(mean_d), 0.0)
        for each in found:
            if not bool(each.fitted):
                each.fit(torch.as_tensor(mean_d), torch.as_tensor(variance_d))

    def targets(self, actions: Array) -> Tensor:
        """A dataset's actions [N, ...] as the policy's distributions count them, [N, A]."""
        array = np.asarray(actions)
        if isinstance(self.space, gym.spaces.Box) and not hasattr(self.policy, "get_distribution"):
            array = self.policy.scale_action(array)
        whole = isinstance(self.space, (gym.spaces.Discrete, gym.spaces.MultiDiscrete))
        dtype = torch.int64 if whole else torch.float32
        flat = torch.as_tensor(np.ascontiguousarray(array), dtype=dtype).reshape(len(array), -1)
        return flat.to(self.policy.device)


def student_of(model: Any, dataset: LatentDataset, goal: Array | None = None) -> Student:
    """The policy of a model, or the policy that was given, if it can be cloned on this dataset.

    Raises:
        OptionError: it is none of Stable-Baselines3's, or keeps states between steps; its observations are not these latents;
            its actions are not the dataset's; or the dataset has none; or its goals are neither `goal` nor the dataset's.
    """
    policy = getattr(model, "policy", model)
    if not any(hasattr(policy, part) for part in ("get_distribution", "q_net", "actor")):
        raise OptionError(
            f"clone trains a policy of Stable-Baselines3, or a model with one, but a {type(model).__name__} came: write "
            'clone(PPO("MlpPolicy", venv), dataset).'
        )
    if hasattr(policy, "lstm_actor"):
        raise OptionError(
            f"{type(policy).__name__} keeps states between steps, and cloning takes frames in any order: use a policy "
            "without them; the latents remember."
        )
    if dataset.action_space is None:
        raise OptionError(
            f"{dataset.path} has no actions to clone: encode recordings that have them, such as Minari datasets."
        )
    _check_latents(model, policy, dataset)
    space = policy.observation_space
    size = dataset.latent_size
    if isinstance(space, gym.spaces.Dict):
        goal_size = _goal_size(space, dataset, goal)
        space = space["latent"]
    elif goal is None:
        goal_size = 0
    else:
        raise OptionError(
            f"A goal is given, but the policy observes {space}: make it for a Dict of 'latent' and {GOAL!r}, which a "
            "MultiInputPolicy reads."
        )
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1 or space.shape[0] % size:
        words = f"a Box of shape {space.shape}" if isinstance(space, gym.spaces.Box) else str(space)
        raise OptionError(
            f"The policy observes {words}, but {dataset.path} holds latents of {size} numbers: make it for them, with the "
            f"encoder {dataset.encoder['source']}."
        )
    _check_actions(policy.action_space, dataset)
    stack = space.shape[0] // size
    if goal_size and stack > 1:
        raise OptionError(
            f"The policy observes {stack} latents at once and a goal; cloning tells goals to policies of one."
        )
    return Student(policy, stack, goal_size)


def _goal_size(space: gym.spaces.Dict, dataset: LatentDataset, goal: Array | None) -> int:
    """Numbers in a goal of a policy that observes a Dict, if these goals have as many."""
    if set(space) != {"latent", GOAL}:
        raise OptionError(
            f"The policy observes {', '.join(space)}, but a dataset has latents and, as its label, goals: make it for a Dict "
            f"of 'latent' and {GOAL!r}."
        )
    size = gym.spaces.flatdim(space[GOAL])
    given, where = (dataset.goal_size, str(dataset.path)) if goal is None else (goal.size, "goal=")
    if not given:
        raise OptionError(
            f"The policy is told goals, but {dataset.path} has no label {GOAL!r}: give one goal of all with goal=."
        )
    if given != size:
        raise OptionError(f"The policy is told goals of {size} numbers, but those of {where} have {given}.")
    return size


def _check_latents(model: Any, policy: Any, dataset: LatentDataset) -> None:
    """Raises OptionError if what the policy knows of its latents says that these are others."""
    heads = policy._get_constructor_parameters().get("heads")  # what Stable-Baselines3 saves a policy with
    known = [heads.latents] if isinstance(heads, VPTHeads) else []
    env = getattr(model, "env", None)
    while env is not None:
        if getattr(env, "norm_obs", False):
            raise OptionError(
                "The model's environment scales latents with VecNormalize, but a dataset holds them as they are: give it "
                "norm_obs=False, and the policy vpt_gym.heads.ScaledLatents, which scales them inside the policy."
            )
        known.append(getattr(getattr(env, "encoder", None), "fingerprint", None))
        env = vars(env).get("venv")
    for fingerprint in known:
        if fingerprint is not None and fingerprint != dataset.fingerprint:
            raise OptionError(
                f"The policy is for other latents (fingerprint {fingerprint[:12]}) than {dataset.path} holds "
                f"({dataset.fingerprint[:12]}, of {dataset.encoder['source']}): encode the recordings with its encoder, or "
                "make the policy for this one's."
            )


def _check_actions(space: gym.Space[Any], dataset: LatentDataset) -> None:
    """Raises OptionError unless every action of the dataset's space is one of the policy's."""
    theirs = dataset.action_space
    fits = False
    if isinstance(space, gym.spaces.Discrete) and isinstance(theirs, gym.spaces.Discrete):
        fits = bool(space.start == theirs.start == 0 and theirs.n <= space.n)
    elif isinstance(space, gym.spaces.MultiDiscrete) and isinstance(theirs, gym.spaces.MultiDiscrete):
        fits = space.shape == theirs.shape and bool((theirs.nvec <= space.nvec).all())
    elif type(space) is type(theirs) and theirs is not None:
        fits = space.shape == theirs.shape
    if not fits:
        raise OptionError(
            f"The policy acts in {space}, but the actions of {dataset.path} are in {theirs}: make the policy for the actions "
            "that were recorded, or convert the recordings."
        )
