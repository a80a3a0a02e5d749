"""Any policy of MineStudio as an encoder: its latents are what enters its `pi_head`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Final

import torch

from vpt_gym.checks import check_count
from vpt_gym.encoders.base import EncoderBase, digest_of, fingerprint_of
from vpt_gym.encoders.minestudio.conditions import Condition
from vpt_gym.encoders.minestudio.forward import computing
from vpt_gym.encoders.minestudio.kinds import Kind
from vpt_gym.encoders.minestudio.memories import PolicyMemory, RowMemory
from vpt_gym.encoders.minestudio.stream import PolicyStream
from vpt_gym.encoders.minestudio.template import kind_of_policy
from vpt_gym.encoders.minestudio.trunk import on_vpt_gym
from vpt_gym.errors import VPTGymError
from vpt_gym.frames import preprocessing
from vpt_gym.weights import VPTHeads

__all__ = ["PolicyEncoder", "encoder_from_policy"]

logger = logging.getLogger("vpt_gym")

_NETWORKS: Final = ("auto", "vpt_gym", "policy")


def encoder_from_policy(
    policy: Any,
    condition: Any = None,
    *,
    network: str = "auto",
    frame_size: int | None = None,
    also_reads: Sequence[str] = (),
) -> PolicyEncoder:
    """Makes an encoder of a loaded policy of MineStudio: VPT, STEVE-1, GROOT, ROCKET-1 or one derived from `MinePolicy`.

    Args:
        policy: a MinePolicy in eval mode and float32, on the device where it shall run. It is used as it is and never changed;
            leave its weights as they are for as long as the encoder is in use.
        condition: what every row is told to do until `set_condition` says otherwise. For SteveOnePolicy a dict as its
            `prepare_condition` takes it, `{"text": ..., "cond_scale": ...}`, with `video` (uint8 [T, H, W, 3]) or
            `mineclip_embeds` (float [512]) in place of `text`; a text is embedded by the mean of STEVE-1's prior, or with a
            `seed` beside it by one draw. For GrootPolicy the path of a reference video, or its frames, uint8 [T, H, W, 3]. For
            a policy of your own a dict of entries of its `input`, each of one row and one frame: an array of shape [...]
            arrives as [rows, 1, ...], a string as a list of lists. VPTPolicy and RocketPolicy take none.
        network: `policy` calls the policy's own forward; `vpt_gym` steps a copy of its weights on vpt_gym's network, faster and
            with the same latents but for rounding, which only a VPTPolicy or SteveOnePolicy of VPT's architecture can; `auto`
            does that where it can, and the log `vpt_gym` says which at INFO.
        frame_size: side in pixels of the frames that the policy reads. Known for MineStudio's own (VPT and STEVE-1 what their
            layers are made for, 128 in what is published; GROOT and ROCKET-1 what their backbone was trained on, 224); needed
            for a policy of your own.
        also_reads: for a policy of your own, entries of every observation that its `input` needs beside the image; an entry of
            shape [...] arrives as [rows, 1, ...]. RocketPolicy reads `obj_mask` and `obj_id` without being asked to.

    Raises:
        VPTGymError: MineStudio is not installed, `policy` is no MinePolicy, has no `pi_head`, is in training mode or not
            float32, or holds NaN or infinity; the policy takes no such condition; or an option does not fit it.
    """
    kind = kind_of_policy(policy, also_reads)
    if frame_size is not None:
        check_count("frame_size", frame_size)
        if kind.only_size and frame_size != kind.frame_size:
            raise VPTGymError(
                f"{kind.name} reads frames of {kind.frame_size}x{kind.frame_size} pixels and no others, but frame_size is "
                f"{frame_size}; leave it out, and frames of any size are resized."
            )
        kind.frame_size = int(frame_size)
    if kind.frame_size is None:
        raise VPTGymError(
            f"{kind.name} is a policy of your own, and only you know which frames it reads: pass frame_size=, their side in "
            "pixels."
        )
    if network not in _NETWORKS:
        raise VPTGymError(f"network must be one of {', '.join(_NETWORKS)}, not {network!r}.")
    device: torch.device = policy.device
    made = "network='policy' was asked for" if network == "policy" else on_vpt_gym(kind, device)
    if isinstance(made, str):
        if network == "vpt_gym":
            raise VPTGymError(f"{kind.name} cannot run on vpt_gym's network: {made}. Use network='policy'.")
        encoder = PolicyEncoder(kind, "policy", "the policy's own forward", lambda n: PolicyMemory(kind, device, n))
        logger.info("%s: computed by the policy's own forward: %s", kind.name, made)
    else:
        open_memory, backend = made
        encoder = PolicyEncoder(kind, "vpt_gym", f"vpt_gym's network, {backend}", open_memory)
        logger.info("%s: computed by vpt_gym's network, %s", kind.name, backend)
    if condition is not None or not kind.needs_condition:
        encoder.condition = encoder.prepare_condition(condition)
    return encoder


class PolicyEncoder(EncoderBase):
    """A policy of MineStudio, frozen: frames in, latents out. Holds no memory, so any number of users and threads may share it.

    Made by `encoder_from_policy`. Every wrapper takes it. It cannot be pickled, because
    it stands for a live policy: keep it in the main process, where `vpt_gym.sb3.VecVPTLatent` and `vpt_gym.vector` use it.

    Attributes:
        policy: the policy.
        name: of the policy's class.
        device: where it runs.
        network: `vpt_gym` or `policy`: whose network computes the latents.
        backend: how it is computed, in words.
        precision: `float32`.
        condition: what rows are told to do unless told otherwise, made ready; None when the policy needs one and has none.
        frame_size: side in pixels of the square frames that the policy reads; others are resized to it, bilinearly.
        also_reads: keys of the Dict observation, besides the image, that a step needs.
        goal_tower: MineCLIP's text tower where the policy is STEVE-1: it embeds the wrappers' goals in words. None elsewhere.
        latent_size: length of one latent, which is what enters the policy's `pi_head`.
        fingerprint: sha256, in hex, over the policy's tensors and class and the preprocessing; not over conditions or network.
    """

    kind = "minestudio"

    def __init__(self, kind: Kind, network: str, backend: str, memory: Callable[[int], RowMemory]) -> None:
        assert kind.frame_size is not None
        self._kind = kind
        self._memory = memory
        self.policy = kind.policy
        self.name = kind.name
        self.device: torch.device = kind.policy.device
        self.network = network
        self.backend = backend
        self.source = f"a live {kind.name}"
        self.options: dict[str, Any] = {}
        self.condition: Condition | None = None
        self.frame_size: int = kind.frame_size
        self.also_reads = kind.also_reads
        self.goal_tower = kind.goal_tower()
        self.latent_size = kind.latent_size
        self.fingerprint = _fingerprint(kind)

    def __repr__(self) -> str:
        return f"<PolicyEncoder of {self.name}, {self.latent_size} numbers, on {self.device}: {self.backend}>"

    def __reduce__(self) -> tuple[Any, ...]:
        raise VPTGymError(
            f"An encoder made from a {self.name} cannot be pickled, because it stands for a live policy: wrap the environments "
            "in the main process (VecVPTLatent, vpt_gym.vector), not inside their workers."
        )

    @property
    def recorded(self) -> dict[str, Any]:
        """The encoder itself: a live policy cannot be loaded again from a source."""
        return {"encoder": self, "encoder_options": None}

    @cached_property
    def heads(self) -> VPTHeads:
        """The policy's `pi_head` and `value_head` for `PretrainedHeadPolicy`, with its temperature (not its nucleus sampling).

        On STEVE-1's guided latents `pi_head` gives exactly the guided distribution; `value_head` gives (1+s) V(z) - s V(z'),
        where the policy itself says V(z), of the latent under the condition alone.

        Raises:
            VPTGymError: the action space is not VPT's buttons and camera.
        """
        state = self.policy.state_dict()
        wanted = {
            f"pi_head.{part}.linear_layer.{kind}" for part in ("buttons", "camera") for kind in ("weight", "bias")
        }
        found = {name for name in state if name.startswith("pi_head.")}
        if found != wanted:
            raise VPTGymError(
                f"{self.name}'s action space is not VPT's, buttons and camera: its pi_head holds {', '.join(sorted(found))}. "
                "Train with a head of Stable-Baselines3's own; the latents are good for that."
            )
        temperature = float(self.policy.pi_head["buttons"].temperature)
        return VPTHeads.from_state_dict(state, temperature, latents=self.fingerprint, origin=self.name)

    def prepare_condition(self, condition: Any) -> Condition:
        """Embeds a text or video once, to be set for rows and streams as often as wanted.

        Args:
            condition: as for `encoder_from_policy`; one that is ready already is handed back.

        Raises:
            VPTGymError: the policy takes no such condition, or it was made ready for another policy.
        """
        if isinstance(condition, Condition):
            if condition.fingerprint != self.fingerprint:
                raise VPTGymError(
                    f"The condition was prepared for another policy than this {self.name}; prepare it with this encoder."
                )
            return condition
        self._check_unchanged()
        with computing(self.policy, self.device):
            return Condition(self.fingerprint, self._kind.prepare(condition))

    def stream(self, num_envs: int) -> PolicyStream:
        """Memory for `num_envs` episodes that step one frame at a time.

        Raises:
            VPTGymError: `num_envs` is not a positive whole number.
        """
        return PolicyStream(self, num_envs)

    def _check_unchanged(self) -> None:
        """Raises VPTGymError if the policy was moved or set to training mode since."""
        if self.policy.training:
            raise VPTGymError(f"{self.name} was set to training mode, in which latents are random; call policy.eval().")
        if self.policy.device != self.device:
            raise VPTGymError(
                f"{self.name} was moved from {self.device} to {self.policy.device}; make an encoder of it anew."
            )


def _fingerprint(kind: Kind) -> str:
    own = type(kind.policy)
    subject = {
        "class": f"{own.__module__}.{own.__qualname__}",
        "tensors": digest_of(kind.policy.state_dict()),
        "preprocessing": preprocessing(kind.frame_size or 0),
        "also_reads": kind.also_reads,
    }
    return fingerprint_of(subject)
