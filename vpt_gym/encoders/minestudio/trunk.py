"""The memory of N rows of VPTPolicy and SteveOnePolicy on vpt_gym's network, where theirs is the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vpt_gym.encoders.minestudio.architecture import unlike_vpt
from vpt_gym.encoders.minestudio.kinds import IMAGE, Kind, class_of
from vpt_gym.encoders.minestudio.memories import Entries, RowMemory, check_tensors
from vpt_gym.encoders.minestudio.steve import SteveKind, guided_latents
from vpt_gym.encoders.network import LatentNetwork
from vpt_gym.encoders.stream import LatentStream, check_places
from vpt_gym.errors import VPTGymError, WeightsError
from vpt_gym.latents import LatentChoice
from vpt_gym.nn import VPTNet, accelerate
from vpt_gym.precision import arithmetic
from vpt_gym.weights import take_checkpoint
from vpt_gym.weights.architecture import config_from_shapes

__all__ = ["on_vpt_gym"]


class VPTMemory:
    """Rows of VPTPolicy on vpt_gym's network, as `VPTEncoder` steps them."""

    def __init__(self, network: LatentNetwork, num_envs: int) -> None:
        self._stream = LatentStream(network, num_envs, "")

    def step(self, seen: dict[str, Tensor], opens_b: Tensor, rows: Sequence[int], entries: Sequence[Entries]) -> Tensor:
        """See `RowMemory`."""
        del entries
        every = len(rows) == self._stream.num_envs and list(rows) == list(range(len(rows)))
        return self._stream.step(seen[IMAGE][:, 0], opens_b, rows=None if every else list(rows))

    def state_dict(self) -> dict[str, Any]:
        """See `RowMemory`."""
        return self._stream.state_dict()

    def load_state_dict(self, state: object, running: Sequence[Entries | None]) -> None:
        """See `RowMemory`."""
        del running
        mine = self._stream.state_dict()
        label = mine.pop("fingerprint")
        self._stream.load_state_dict({"fingerprint": label, **check_tensors(state, mine)})


class SteveMemory:
    """Rows of SteveOnePolicy on vpt_gym's network: two memories each, the second for the frames seen without condition."""

    def __init__(self, network: LatentNetwork, embed: nn.Linear, num_envs: int) -> None:
        self._network, self._embed = network, embed
        self._memory = network.memory(2 * num_envs)

    def step(self, seen: dict[str, Tensor], opens_b: Tensor, rows: Sequence[int], entries: Sequence[Entries]) -> Tensor:
        """See `RowMemory`. One call of the network for all rows, each frame convolved once."""
        # A row without guidance that is stepped beside one with it gets a second memory too, which nothing reads.
        width = 2 if any(entry["cond_scale"] != 0 for entry in entries) else 1
        slots = [2 * row + goal for row in rows for goal in range(width)]
        every = slots == list(range(len(self._memory.slot_b)))
        with self._network.arithmetic():
            goals_bc = self._embed(torch.stack([entry["mineclip_embeds"] for entry in entries]))
            # Without a condition the embedding is zero, and what the linear layer makes of it is its bias.
            goals_bgc = torch.stack([goals_bc, self._embed.bias.expand_as(goals_bc)], dim=1)[:, :width]
        latents_btc, after = self._network.run(
            seen[IMAGE],
            opens_b.repeat_interleave(width)[:, None],
            self._memory,
            rows_b=None if every else torch.tensor(slots, device="cpu"),
            goals_bgc=goals_bgc,
        )
        with self._network.arithmetic():
            self._memory.move_to(after)
            return guided_latents(latents_btc.view(len(rows), width, -1), entries)

    def state_dict(self) -> dict[str, Any]:
        """See `RowMemory`."""
        with self._network.arithmetic():
            return {name: tensor.clone() for name, tensor in self._memory.tensors().items()}

    def load_state_dict(self, state: object, running: Sequence[Entries | None]) -> None:
        """See `RowMemory`."""
        del running
        mine = self._memory.tensors()
        tensors = check_tensors(state, mine)
        check_places(tensors)
        with self._network.arithmetic():
            for name, tensor in mine.items():
                tensor.copy_(tensors[name])


def on_vpt_gym(kind: Kind, device: torch.device) -> tuple[Callable[[int], RowMemory], str] | str:
    """Puts a copy of a policy's weights into vpt_gym's network, where that is the same network.

    Returns:
        What makes a memory for a number of rows, and how the network is computed, in words; or why it is another network.

    Raises:
        WeightsError: the weights are damaged.
        VPTGymError: `pi_head` reads latents of another size than the network gives.
    """
    reason = _another(kind, device)
    if reason is not None:
        return reason
    policy = kind.policy
    # STEVE-1's one layer more lies inside `net`, where VPT has none of that name.
    extra = "net.mineclip_embed_linear."
    tensors = {name: tensor for name, tensor in policy.state_dict().items() if not name.startswith(extra)}
    try:
        config = config_from_shapes(Path(kind.name), {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    except WeightsError as error:
        return str(error)
    if config.hidden_size != kind.latent_size:
        raise VPTGymError(
            f"{kind.name}.pi_head reads latents of {kind.latent_size} numbers, but its net gives {config.hidden_size}; "
            "give the policy a pi_head for the latents that it makes."
        )
    checkpoint = take_checkpoint(kind.name, tensors, device=device)
    net = VPTNet.from_tensors(config, checkpoint.tensors)
    del checkpoint, tensors  # what replaces a tensor is made beside it
    network = LatentNetwork(net, LatentChoice(config, "final"), "float32")
    with arithmetic(device, "float32"):
        backend = accelerate(net, "float32")
        if isinstance(kind, SteveKind):
            theirs = policy.net.mineclip_embed_linear
            embed = nn.Linear(theirs.in_features, theirs.out_features, device=device)
            embed.load_state_dict(theirs.state_dict())
            return lambda num_envs: SteveMemory(network, embed, num_envs), backend
    return lambda num_envs: VPTMemory(network, num_envs), backend


def _another(kind: Kind, device: torch.device) -> str | None:
    body, name = "vpt.body", "VPTPolicy"
    if isinstance(kind, SteveKind):
        body, name = "steve_one.body", "SteveOnePolicy"
    base: Any = class_of(f"minestudio.models.{body}", name)
    trunk = class_of(f"minestudio.models.{body}", "MinecraftPolicy")
    if base is None or not isinstance(kind.policy, base):
        return f"{kind.name} is neither a VPTPolicy nor a SteveOnePolicy"
    own = type(kind.policy)
    if own.forward is not base.forward or own.initial_state is not base.initial_state:
        return f"{kind.name} has a forward or initial_state of its own"
    if type(kind.policy.net) is not trunk:
        return f"its net is a {type(kind.policy.net).__name__}, not MineStudio's MinecraftPolicy"
    if device.type not in {"cpu", "cuda"}:
        return f"vpt_gym's network runs on CPUs and CUDA GPUs, not on {device}"
    return unlike_vpt(kind.policy.net)
