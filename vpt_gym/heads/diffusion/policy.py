"""The policy: chunks of actions, denoised from noise; it plays like a model of Stable-Baselines3."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vpt_gym.checks import check_count
from vpt_gym.errors import ObservationError, OptionError, WeightsError
from vpt_gym.heads.diffusion.actions import ActionCode, facts_of_space, space_of_facts
from vpt_gym.heads.diffusion.karras import Karras
from vpt_gym.heads.diffusion.network import ContextEncoder, Decoder
from vpt_gym.latents import latent_box
from vpt_gym.running.files import write_atomically

__all__ = ["DiffusionPolicy"]

LATENT, GOAL = "latent", "goal"
"""Keys of a Dict observation."""

METADATA: Final = "vpt_gym.diffusion"

Array = npt.NDArray[Any]
State = tuple[Array, ...]


class DiffusionPolicy(nn.Module):
    """Acts by diffusion: a chunk of `horizon` actions is denoised from noise, and its first `replan` are played.

    Where demonstrators do now this and now that, it does one of the two, and not what lies in the middle.

    Source: Video Prediction Policy (arXiv 2412.14803), with the diffusion of Karras et al. (arXiv 2206.00364).

    Args:
        observation_space: Box [stack * latent], or a Dict of it as `latent` and of `goal`, Box [G].
        action_space: Box, Discrete, MultiDiscrete or MultiBinary.
        horizon: actions of a chunk.
        replan: of which so many are played; None for half of them, rounded up.
        stack: latents side by side in an observation, the newest last, as VecFrameStack has them.
        grid: of a latent that is a grid, the video encoder's `grid`: a VideoFormer reads it.
        width: of the network's tokens.
        encoder_layers: of the transformer that reads latents and goals.
        decoder_layers: of the one that denoises.
        heads: of their attention.
        steps: of the sampler.
        device: where it runs.

    Attributes:
        latents: fingerprint of the encoder that it was trained on; None before.
        latents_from: its `source` and `options`, with which `load_encoder` has it again; None before.

    Raises:
        OptionError: spaces or sizes do not fit together.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        *,
        horizon: int = 10,
        replan: int | None = None,
        stack: int = 1,
        grid: tuple[int, int, int, int] | None = None,
        width: int = 384,
        encoder_layers: int = 4,
        decoder_layers: int = 4,
        heads: int = 8,
        steps: int = 10,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__()
        given = {"horizon": horizon, "stack": stack, "width": width, "heads": heads, "steps": steps}
        given |= {"encoder_layers": encoder_layers, "decoder_layers": decoder_layers}
        for name, value in given.items():
            check_count(f"DiffusionPolicy: {name}", value)
        self.replan = check_count("DiffusionPolicy: replan", -(-horizon // 2) if replan is None else replan)
        if self.replan > horizon or width % heads or width % 2:
            raise OptionError(
                f"DiffusionPolicy: replan={self.replan} must be horizon={horizon} at most, and heads={heads} must divide "
                f"width={width}, an even number."
            )
        self.observation_space, self.action_space = observation_space, action_space
        size, self.goal_size = _sizes(observation_space)
        if size % stack:
            raise OptionError(f"DiffusionPolicy: an observation of {size} numbers is no stack of {stack} latents.")
        self.latent_size, self.horizon, self.stack = size // stack, horizon, stack
        self.settings = {**given, "replan": self.replan, "grid": None if grid is None else list(grid)}
        self.latents: str | None = None
        self.latents_from: dict[str, Any] | None = None
        self.code = ActionCode(action_space)
        self.karras = Karras(steps)
        self.encoder = ContextEncoder(self.latent_size, stack, self.goal_size, grid, width, encoder_layers, heads)
        self.decoder = Decoder(self.code.size, horizon, width, decoder_layers, heads)
        self.generator = torch.Generator("cpu")
        self.set_random_seed(0)
        self.to(device)

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.code.low.device

    def set_random_seed(self, seed: int) -> None:
        """The same seed gives the same actions."""
        self.generator.manual_seed(seed)

    def loss(self, latents_bd: Tensor, goals_bg: Tensor | None, actions_bh: Tensor, valid_bh: Tensor) -> Tensor:
        """What training makes small.

        Args:
            latents_bd: [B, stack * latent].
            goals_bg: [B, G], where there are goals.
            actions_bh: [B, horizon, ...], of the action space.
            valid_bh: bool [B, horizon], False behind an episode's end.

        Returns:
            A scalar.
        """
        clean = self.code.encode(actions_bh)
        sigma_b = self.karras.draw(len(clean), self.generator).to(clean.device)
        noise = torch.randn(clean.shape, generator=self.generator).to(clean.device)
        errors_bha = self.karras.loss(self._network(latents_bd, goals_bg), clean, sigma_b, noise)
        weights_bh1 = valid_bh[:, :, None].float()
        return (errors_bha * weights_bh1).sum() / (weights_bh1.sum() * self.code.size)

    @torch.no_grad()
    def chunk(self, latents_bd: Tensor, goals_bg: Tensor | None = None, *, deterministic: bool = False) -> Array:
        """Chunks of actions [B, horizon, ...] at latents [B, stack * latent]; all from one noise where `deterministic`."""
        shape = (self.horizon, self.code.size)
        if deterministic:
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).expand(len(latents_bd), *shape)
        else:
            noise = torch.randn(len(latents_bd), *shape, generator=self.generator)
        codes = self.karras.sample(self._network(latents_bd, goals_bg), noise.to(self.device))
        return self.code.decode(codes)

    def _network(self, latents_bd: Tensor, goals_bg: Tensor | None) -> Any:
        context_bsw, none_bs = self.encoder(latents_bd, goals_bg)
        return lambda noisy, noise: self.decoder(noisy, noise, context_bsw, none_bs)

    def predict(
        self,
        observation: Any,
        state: State | None = None,
        episode_start: Array | None = None,
        deterministic: bool = False,
    ) -> tuple[Array, State]:
        """Actions of N environments, as a model of Stable-Baselines3 gives them.

        Args:
            observation: float32 [N, stack * latent], or a dict of it and the goal; or one without the N.
            state: what it handed out at the step before: the chunks, and how much of each was played. None at first.
            episode_start: bool [N], where an episode opens: there a new chunk begins.
            deterministic: begin every chunk at the same noise.

        Returns:
            Actions [N, ...], and the state.

        Raises:
            ObservationError: the observation is not as the policy's space has it, or the state or `episode_start` is of another
                number of rows.
        """
        latents, goals, one = self._observed(observation)
        count = len(latents)
        given = {"the state": None if state is None else len(state[1])}
        given["episode_start"] = None if episode_start is None else np.size(episode_start)
        for name, rows in given.items():
            if rows not in (None, count):
                raise ObservationError(
                    f"DiffusionPolicy: observations of {count} rows came, but {name} is of {rows}: hand in what belongs to "
                    "these rows, and state=None where others begin."
                )
        if state is None:
            shape = (count, self.horizon, *(self.action_space.shape or ()))
            chunks, places = np.zeros(shape, self.action_space.dtype), np.full(count, self.replan)
        else:
            chunks, places = state[0].copy(), state[1].copy()
        fresh = places >= self.replan
        if episode_start is not None:
            fresh |= np.asarray(episode_start, bool).reshape(count)
        if fresh.any():
            wanted = torch.from_numpy(fresh)
            told = None if goals is None else goals[wanted].to(self.device)
            chunks[fresh] = self.chunk(latents[wanted].to(self.device), told, deterministic=deterministic)
            places[fresh] = 0
        actions = chunks[np.arange(count), places]
        return actions[0] if one else actions, (chunks, places + 1)

    def _observed(self, observation: Any) -> tuple[Tensor, Tensor | None, bool]:
        keyed = isinstance(self.observation_space, gym.spaces.Dict)
        wanted = {LATENT, GOAL} if self.goal_size else {LATENT}
        if keyed != isinstance(observation, Mapping) or (keyed and wanted - set(observation)):
            came = f"a dict of {', '.join(observation)}" if isinstance(observation, Mapping) else f"{observation!r:.60}"
            raise ObservationError(f"DiffusionPolicy observes {self.observation_space}, but {came} came.")
        # Copies: what comes may be read-only, which torch does not know.
        latents = torch.as_tensor(np.array(observation[LATENT] if keyed else observation, np.float32))
        one = latents.ndim == 1
        latents = latents[None] if one else latents
        goals = None
        if self.goal_size:
            goals = torch.as_tensor(np.array(observation[GOAL], np.float32)).reshape(len(latents), -1)
        if latents.shape[1:] != (self.latent_size * self.stack,) or (
            goals is not None and goals.shape[1] != self.goal_size
        ):
            raise ObservationError(
                f"DiffusionPolicy reads latents of {self.latent_size * self.stack} numbers and goals of {self.goal_size}, but "
                f"{tuple(latents.shape)} and {None if goals is None else tuple(goals.shape)} came."
            )
        return latents, goals, one

    def save(self, path: Path | str) -> None:
        """Writes the policy, .safetensors, whole or not at all."""
        facts = {
            "latents": self.latents,
            "latents_from": self.latents_from,
            "latent_size": self.latent_size,
            "goal_size": self.goal_size,
            "keyed": isinstance(self.observation_space, gym.spaces.Dict),
            "action_space": facts_of_space(self.action_space),
            "settings": self.settings,
        }
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        write_atomically(Path(path), lambda place: save_file(state, place, {METADATA: json.dumps(facts)}))

    @classmethod
    def load(cls, path: Path | str, device: str | torch.device = "cpu") -> DiffusionPolicy:
        """Reads what `save` wrote.

        Raises:
            WeightsError: there is no such file, it is no policy, or it is damaged.
        """
        with _reading(path):
            with safe_open(path, "pt") as file:
                facts = json.loads((file.metadata() or {})[METADATA])
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
            latent = latent_box(facts["latent_size"] * facts["settings"]["stack"])
            space: gym.Space[Any] = latent
            if facts.get("keyed", facts["goal_size"] > 0):
                goal = {GOAL: latent_box(facts["goal_size"])} if facts["goal_size"] else {}
                space = gym.spaces.Dict({LATENT: latent, **goal})
            policy = cls(space, space_of_facts(facts["action_space"]), **facts["settings"])
            policy.load_state_dict(state)
            policy.latents, policy.latents_from = facts["latents"], facts.get("latents_from")
        return policy.to(device).eval()

    @staticmethod
    def encoder_of(path: Path | str) -> dict[str, Any]:
        """The `source` and `options` of the encoder that a saved policy was trained on, without its weights.

        Raises:
            WeightsError: there is no such file, it is no policy, or it does not say.
        """
        with _reading(path), safe_open(path, "pt") as file:
            known = json.loads((file.metadata() or {})[METADATA]).get("latents_from") or {}
        if "source" not in known:
            raise WeightsError(
                f"{path} does not say which encoder it was trained on, as policies of vpt-gym diffuse do: train it again."
            )
        return {"source": known["source"], "options": known.get("options", {})}


@contextmanager
def _reading(path: Path | str) -> Iterator[None]:
    """Inside, what a file that is no policy makes fail becomes a WeightsError."""
    try:
        yield
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OptionError) as error:
        said = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"{path} is no policy that DiffusionPolicy.save wrote ({said}); name another file, or train again."
        ) from error


def _sizes(space: gym.Space[Any]) -> tuple[int, int]:
    entries = space.spaces if isinstance(space, gym.spaces.Dict) else {LATENT: space}
    if LATENT not in entries or set(entries) - {LATENT, GOAL}:
        raise OptionError(
            f"DiffusionPolicy observes a latent, or a Dict of {LATENT!r} and {GOAL!r}, but the space is {space}."
        )
    for entry in entries.values():
        if not isinstance(entry, gym.spaces.Box) or len(entry.shape) != 1:
            raise OptionError(f"DiffusionPolicy observes vectors, Box [n], but the space is {space}.")
    sizes = [0 if entry is None else gym.spaces.flatdim(entry) for entry in (entries[LATENT], entries.get(GOAL))]
    return sizes[0], sizes[1]
