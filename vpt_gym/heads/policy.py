"""An actor-critic policy of Stable-Baselines3 that starts as VPT: its action net is `pi_head`, its value net `value_head`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution, Distribution, MultiCategoricalDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor

from vpt_gym.checks import check_count
from vpt_gym.errors import VPTGymError
from vpt_gym.heads.modules import ActionHead, Adapters, ValueHead
from vpt_gym.weights.heads import VPTHeads

__all__ = ["EntropyTerm", "PretrainedHeadPolicy"]

EntropyTerm = Callable[[PyTorchObs, CategoricalDistribution | MultiCategoricalDistribution, Tensor], Tensor]
"""Observations [B, latent], the policy's distribution for them and its entropy [B] -> what training takes as the entropy."""

_LATENT = "latent"
_ONE_LINE = 'PPO(PretrainedHeadPolicy, venv, policy_kwargs={"heads": encoder.heads})'


class PretrainedHeadPolicy(ActorCriticPolicy):
    """VPT's heads on latents: untrained, it is VPT.

        model = PPO(PretrainedHeadPolicy, venv, policy_kwargs={"heads": encoder.heads})

    Observations are the final latents, float32 [latent]; actions are MultiDiscrete [buttons, camera], or what other parts the
    heads have, in the order of `heads.actions`; Discrete where there is one part. For PPO, A2C and `vpt_gym.heads.KLPPO`.
    It is saved and loaded as every policy is, and loading needs no VPT weights.

    A policy sees the latents' length, not the encoder behind them. `KLPPO` looks and refuses latents of other weights or of
    another layer; under PPO and A2C it is yours to take the heads from the environment's own encoder.

    Args:
        observation_space: Box [latent], as VecVPTLatent gives it.
        action_space: MultiDiscrete [buttons, camera], as vpt_gym/Minecraft-v0 has it.
        lr_schedule: from Stable-Baselines3.
        heads: `encoder.heads`, or `VPTHeads.from_state_dict`.
        adapters: hidden width of the residual MLPs before the action head and before the value head, which start as the
            identity; None for none.
        use_sde: from Stable-Baselines3; always False, since such noise is for continuous actions.
        normalize_images: has no effect on latents; Stable-Baselines3 names it when it loads a policy.
        optimizer_class: Adam unless the algorithm has another.
        optimizer_kwargs: its keyword arguments but the learning rate.

    Raises:
        VPTGymError: there are no heads, or they do not fit the observations or the actions; or `adapters` is no positive whole
            number; or, once it is used, the heads came out of a pickle and no saved state has been loaded.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *,
        heads: VPTHeads | None = None,
        adapters: int | None = None,
        use_sde: bool = False,
        normalize_images: bool = True,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        self._check(heads, adapters, observation_space, action_space)
        assert heads is not None
        self._given = (heads, adapters)
        self._awaits_state = heads.is_empty
        self._entropy_term: EntropyTerm | None = None
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=[],
            ortho_init=False,
            use_sde=use_sde,
            normalize_images=normalize_images,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )

    @staticmethod
    def _check(
        heads: object, adapters: object, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
    ) -> None:
        if not isinstance(heads, VPTHeads):
            came = "none came" if heads is None else f"a {type(heads).__name__} came"
            raise VPTGymError(f"PretrainedHeadPolicy needs VPT's heads, but {came}: write {_ONE_LINE}.")
        if adapters is not None:
            check_count("adapters", adapters)
        if isinstance(observation_space, spaces.Dict) and _LATENT in observation_space.spaces:
            entries = ", ".join(map(repr, observation_space.spaces))
            raise VPTGymError(
                f"PretrainedHeadPolicy: VPT's heads read the latent alone, but the observation is a Dict of {entries}: leave "
                "keep= out, or train a MultiInputPolicy."
            )
        if not isinstance(observation_space, spaces.Box) or observation_space.shape != (heads.latent_size,):
            raise VPTGymError(
                f"PretrainedHeadPolicy: the heads read latents of {heads.latent_size} numbers, but the observation space is "
                f"{_named(observation_space)}: wrap the environment with the encoder that the heads come from."
            )
        wanted = list(heads.actions.values())
        counts = [action_space.n] if isinstance(action_space, spaces.Discrete) else getattr(action_space, "nvec", [])
        if (
            not isinstance(action_space, (spaces.Discrete, spaces.MultiDiscrete))
            or (len(wanted) == 1) != isinstance(action_space, spaces.Discrete)
            or list(counts) != wanted
            or np.any(action_space.start)  # Stable-Baselines3 counts actions from 0, wherever the space starts
        ):
            parts = " and ".join(f"{count} {name or 'actions'}" for name, count in heads.actions.items())
            raise VPTGymError(
                f"PretrainedHeadPolicy: the heads have {parts}, in this order, but the action space is {_named(action_space)}: "
                "use vpt_gym/Minecraft-v0 or FlattenDictAction for VPT's own, or an environment with the actions of the heads."
            )

    def _build_mlp_extractor(self) -> None:
        heads, adapters = self._given
        # Stable-Baselines3 declares its own class here, and asks no more of it than Adapters offers.
        self.mlp_extractor = Adapters(heads.latent_size, adapters)  # type: ignore[assignment]

    def _build(self, lr_schedule: Schedule) -> None:
        # Not super()'s, which would draw a layer of the size of VPT's from torch's generator, and initialise it twice.
        heads, _ = self._given
        self._build_mlp_extractor()
        self.action_net = ActionHead(heads)
        self.value_net = ValueHead(heads)  # type: ignore[assignment]
        # torch's base class has no lr in its signature, though every optimizer does.
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        heads, adapters = self._given
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "lr_schedule": self._dummy_schedule,  # as Stable-Baselines3 does: a policy by itself is not trained
            "heads": heads,
            "adapters": adapters,
            "use_sde": self.use_sde,
            "normalize_images": self.normalize_images,
            "optimizer_class": self.optimizer_class,
            "optimizer_kwargs": self.optimizer_kwargs,
        }

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> Distribution:
        self._check_state()
        return super()._get_action_dist_from_latent(latent_pi)

    def predict_values(self, obs: PyTorchObs) -> Tensor:
        """Values [B, 1] of observations [B, latent], in the units of the rewards."""
        self._check_state()
        return super().predict_values(obs)

    def _check_state(self) -> None:
        if self._awaits_state:
            raise VPTGymError(
                "PretrainedHeadPolicy was built from heads that came out of a pickle, which has no tensors, and no saved state "
                f"was loaded into it: load a saved model, or take the heads from an encoder, {_ONE_LINE}."
            )

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Takes over a state, as every torch module does; a whole one stands in for tensors that the heads did not have."""
        result = super().load_state_dict(state_dict, strict, assign)
        self._awaits_state = self._awaits_state and bool(result.missing_keys)
        return result

    def evaluate_actions(self, obs: PyTorchObs, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values [B, 1], log-probabilities [B] and entropies [B] of actions [B, 2] at observations [B, latent].

        Inside `entropy_replaced`, what that makes of the entropies stands in their place.
        """
        values, log_prob, entropy = super().evaluate_actions(obs, actions)
        if self._entropy_term is not None:
            assert entropy is not None
            assert isinstance(self.action_dist, (CategoricalDistribution, MultiCategoricalDistribution))
            # The distribution is the one that super() has just made: it need not be computed again.
            entropy = self._entropy_term(obs, self.action_dist, entropy)
        return values, log_prob, entropy

    @contextmanager
    def entropy_replaced(self, term: EntropyTerm) -> Iterator[None]:
        """While it lasts, `evaluate_actions` hands back what `term` makes of the entropy; for an algorithm's own loss."""
        self._entropy_term = term
        try:
            yield
        finally:
            self._entropy_term = None


def _named(space: spaces.Space[Any]) -> str:
    """A space in a few words: a Box of latents prints two thousand bounds otherwise."""
    if isinstance(space, spaces.Box):
        return f"a Box of shape {space.shape}"
    return str(space)
