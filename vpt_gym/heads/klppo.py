"""PPO with VPT's loss for fine-tuning: what it learns stays close to what it knew."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.distributions import CategoricalDistribution, MultiCategoricalDistribution
from stable_baselines3.common.type_aliases import GymEnv, PyTorchObs
from stable_baselines3.common.vec_env import VecEnvWrapper, VecNormalize
from torch import Tensor

from vpt_gym.checks import is_between
from vpt_gym.errors import OptionError, VPTGymError
from vpt_gym.heads.modules import ActionHead
from vpt_gym.heads.policy import PretrainedHeadPolicy
from vpt_gym.weights.heads import VPTHeads
from vpt_gym.wrappers.sb3 import VecVPTLatent

__all__ = ["KLPPO"]


class KLPPO(PPO):
    """PPO whose loss has `kl_coef * KL(teacher, policy)` added, the teacher being the heads that the policy began as.

    Source: VPT (arXiv 2206.11795), appendix on RL fine-tuning, where it stands in place of an entropy bonus. The divergence is
    that of buttons plus that of camera, averaged over a minibatch. The teacher reads the latents that are in the rollout
    buffer already, so it costs one matrix product. After each iteration, a rollout and the training on it, the coefficient is
    multiplied with `kl_decay`. Logged are `train/kl_coef`, which the iteration had, and `train/kl_to_teacher`. With `kl_coef=0`
    it is Stable-Baselines3's PPO, bit for bit, which logs the divergence besides.

    A saved model holds the teacher and the coefficient as it was, so that training goes on where it stopped.

    Args:
        policy: PretrainedHeadPolicy, or a class derived from it.
        env: of latents, as VecVPTLatent makes it.
        *args: PPO's others, in its order.
        kl_coef: weight of the divergence in the first iteration; VPT began with 0.2.
        kl_decay: what it is multiplied with after each iteration; VPT took 0.9995.
        **kwargs: PPO's others by name, among them `policy_kwargs={"heads": encoder.heads}`.

    Attributes:
        kl_coef: weight of the divergence in the next iteration.
        kl_decay: as given.
        teacher: the frozen action head, latents [B, latent] -> logits [B, buttons + camera].

    Raises:
        OptionError: `kl_coef` is negative, or `kl_decay` not above 0 and at most 1.
        VPTGymError: the policy is another; or the environment, here, in `load` or in `set_env`, scales latents with
            VecNormalize, or has them from a VecVPTLatent whose encoder is of other weights or another layer than the one that
            the heads come from.
    """

    teacher: ActionHead

    def __init__(
        self,
        policy: type[PretrainedHeadPolicy],
        env: GymEnv | str,
        *args: Any,
        kl_coef: float = 0.2,
        kl_decay: float = 0.9995,
        **kwargs: Any,
    ) -> None:
        # Before super(), which ends in _setup_model.
        self.kl_coef = kl_coef
        self.kl_decay = kl_decay
        super().__init__(policy, env, *args, **kwargs)

    def _setup_model(self) -> None:
        # Here and not in the constructor, because `load` sets attributes between the two.
        if not issubclass(self.policy_class, PretrainedHeadPolicy):
            raise VPTGymError(
                f"KLPPO trains a PretrainedHeadPolicy, not {self.policy_class.__name__}, which has no teacher to stay near: "
                'write KLPPO(PretrainedHeadPolicy, venv, policy_kwargs={"heads": encoder.heads}), or use PPO.'
            )
        self._check_coefficients()
        super()._setup_model()
        self._check_env(self.env)
        self.teacher = ActionHead(self.policy_kwargs["heads"]).requires_grad_(False).to(self.device)

    def _check_coefficients(self) -> None:
        """Makes plain floats of them; raises OptionError if they are none that training can take."""
        if not is_between(self.kl_coef, 0):
            raise OptionError(f"KLPPO: kl_coef must be a number from 0 on, not {self.kl_coef!r}; VPT began with 0.2.")
        if not is_between(self.kl_decay, 0, 1) or not self.kl_decay:
            raise OptionError(f"KLPPO: kl_decay must be above 0 and at most 1, not {self.kl_decay!r}; VPT took 0.9995.")
        self.kl_coef, self.kl_decay = float(self.kl_coef), float(self.kl_decay)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """Takes another environment, as PPO does; raises VPTGymError if the heads are not for its latents."""
        self._check_env(env)
        super().set_env(env, force_reset)

    def _check_env(self, env: GymEnv | None) -> None:
        """Raises VPTGymError if latents are scaled, or are known to be others than the heads read."""
        heads: VPTHeads = self.policy_kwargs["heads"]
        # What lies below a VecVPTLatent gives frames.
        while isinstance(env, VecEnvWrapper) and not isinstance(env, VecVPTLatent):
            if isinstance(env, VecNormalize) and env.norm_obs:
                raise VPTGymError(
                    "KLPPO: VPT's heads read latents as they are, but VecNormalize scales them; give it norm_obs=False."
                )
            env = env.venv
        if not isinstance(env, VecVPTLatent):
            return
        if heads.latents is not None and env.encoder.fingerprint != heads.latents:
            raise VPTGymError(
                f"KLPPO: the heads read other latents than {env.encoder!r} gives, whose weights or layer are not those of the "
                "encoder that they come from: wrap the environment with that encoder, or begin a model with this one's heads."
            )

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, variables = super()._get_torch_save_params()
        return [*names, "teacher"], variables

    def set_parameters(
        self,
        load_path_or_dict: str | dict[str, Any],
        exact_match: bool = True,
        device: torch.device | str = "auto",
    ) -> None:
        """Takes over saved parameters, as PPO does; raises VPTGymError if they are a dict that lacks the teacher's."""
        if exact_match and isinstance(load_path_or_dict, dict) and "teacher" not in load_path_or_dict:
            raise VPTGymError(
                "KLPPO: the parameters hold no teacher, so PPO or another algorithm saved them, not KLPPO: build a KLPPO from "
                "the encoder's heads, then model.policy.load_state_dict(PPO.load(path).policy.state_dict())."
            )
        super().set_parameters(load_path_or_dict, exact_match, device)

    def train(self) -> None:
        """Trains on the rollout buffer, then lets the coefficient decay."""
        assert isinstance(self.policy, PretrainedHeadPolicy)
        self._check_coefficients()  # they may have been set since
        entropies: list[Tensor] = []
        divergences: list[Tensor] = []
        entropy_coef, kl_coef = self.ent_coef, self.kl_coef

        def term(
            obs: PyTorchObs, student: CategoricalDistribution | MultiCategoricalDistribution, entropy: Tensor
        ) -> Tensor:
            with torch.set_grad_enabled(kl_coef > 0):
                divergence = self._divergence(obs, student)
            entropies.append(entropy.detach().mean())
            divergences.append(divergence.detach().mean())
            return entropy_coef * entropy - kl_coef * divergence if kl_coef > 0 else entropy

        # PPO's loss holds -ent_coef * mean(entropy). With a coefficient of one and ent_coef * entropy - kl_coef * divergence in
        # the entropy's place that is PPO's own term, plus the divergence's.
        try:
            if kl_coef > 0:
                self.ent_coef = 1.0
            with self.policy.entropy_replaced(term):
                super().train()
        finally:
            self.ent_coef = entropy_coef
        if kl_coef > 0:
            self.logger.record("train/entropy_loss", -_mean(entropies))
        self.logger.record("train/kl_to_teacher", _mean(divergences))
        self.logger.record("train/kl_coef", kl_coef)
        self.kl_coef = kl_coef * self.kl_decay

    def _divergence(self, obs: PyTorchObs, student: CategoricalDistribution | MultiCategoricalDistribution) -> Tensor:
        """KL(teacher, student) [B] at the observations that the student's distribution is for."""
        assert isinstance(obs, Tensor)
        with torch.no_grad():
            logits_bn = self.teacher(obs.float())
        total_b = torch.zeros(len(obs), device=obs.device)
        own = [student.distribution] if isinstance(student, CategoricalDistribution) else student.distribution
        parts = logits_bn.split([part.logits.shape[1] for part in own], dim=1)
        for logits_bm, part in zip(parts, own, strict=True):
            # torch's own kl_divergence is infinite where the student's probability is too small for a float32, which among
            # thousands of buttons some are. Logarithms are not: a Categorical's logits are its log-probabilities.
            teacher_bm = logits_bm.log_softmax(dim=1)
            total_b = total_b + (teacher_bm.exp() * (teacher_bm - part.logits)).sum(dim=1)
        return total_b


def _mean(values: list[Tensor]) -> float:
    return float(np.mean([float(value) for value in values]))
