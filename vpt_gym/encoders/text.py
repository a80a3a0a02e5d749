"""CLIP's text tower: a text as a sequence of tokens, for what attends to it, or as one vector, a goal."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vpt_gym.encoders.base import digest_of
from vpt_gym.encoders.pretrained import folder_of, load_model, package, read_json
from vpt_gym.errors import OptionError, WeightsError
from vpt_gym.precision import arithmetic

__all__ = ["CLIP", "GOALS_KEPT", "TextTower", "asked_goal", "check_text", "embed_goal", "text_tower"]

CLIP: Final = "openai/clip-vit-base-patch32@refs/pr/15"
"""The text tower of Video Prediction Policy: CLIP's ViT-B/32, of which a text is 512 numbers.

At the hub's own conversion: the repository's main branch holds a pickle alone, and only safetensors are read."""

GOALS_KEPT: Final = 4096
"""Goals whose vectors are kept, so that equal ones are embedded once."""


def check_text(text: object, owner: str) -> str:
    """Hands back a text.

    Raises:
        OptionError: it is none, or an empty one.
    """
    if not isinstance(text, str) or not text.strip():
        raise OptionError(f"{owner} must be words, such as 'open the door', not {text!r:.60}.")
    return str(text)


class TextTower:
    """CLIP's text tower, float32 on the CPU: a text is embedded once, and cheap beside what looks at it.

    Attributes:
        model: CLIPTextModel, or CLIPTextModelWithProjection.
        tokenizer: its CLIPTokenizer.
        source: what messages call it.
        longest: tokens that it has positions for.
        width: numbers of a token that comes out.
        goal_size: numbers of a goal.
        digest: sha256, in hex, of its tensors.
    """

    def __init__(self, model_folder: Path, tokenizer_folder: Path, source: str) -> None:
        transformers = package("transformers", source)
        names = [tokenizer_folder / name for name in ("tokenizer.json", "vocab.json")]
        if not any(name.is_file() for name in names):
            raise WeightsError(
                f"{source!r}: {tokenizer_folder} holds no tokenizer.json and no vocab.json, without which no text can be read; "
                "name a folder that a CLIP tokenizer was saved in."
            )
        declared = read_json(model_folder / "config.json", source).get("architectures")
        # A text encoder of Stable Diffusion's kind has no projection; CLIP's own folders hold both towers and theirs.
        name = "CLIPTextModel" if declared == ["CLIPTextModel"] else "CLIPTextModelWithProjection"
        model: Any = load_model(transformers, name, model_folder, source)
        self.model = model
        self.source = source
        self.tokenizer: Any = transformers.CLIPTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
        self.longest = int(model.config.max_position_embeddings)
        self.width = int(model.config.hidden_size)
        self.goal_size = int(model.config.projection_dim)
        self.digest = digest_of(self.model.state_dict())
        self._embedded = lru_cache(maxsize=GOALS_KEPT)(self._embed)

    def tokens(self, text: str, length: int, *, masked: bool) -> Tensor:
        """float32 [1, L, width], the last hidden states.

        Args:
            text: a longer one is cut, a shorter one padded.
            length: L, at most `longest`.
            masked: whether tokens may not look at padding.
        """
        hidden_bld: Tensor = self._run(text, min(length, self.longest), masked=masked).last_hidden_state
        return hidden_bld

    def goal(self, text: str) -> npt.NDArray[np.float32]:
        """float32 [goal_size]: the text where CLIP compares it with pictures; equal texts are embedded once.

        Raises:
            OptionError: the tower has no projection to there, or the text is longer than it reads.
        """
        goal: npt.NDArray[np.float32] = self._embedded(text)
        copied: npt.NDArray[np.float32] = goal.copy()
        return copied

    def _embed(self, text: str) -> npt.NDArray[np.float32]:
        count = len(self.tokenizer(text)["input_ids"])
        if count > self.longest:
            raise OptionError(
                f"A goal of {count} tokens is longer than the {self.longest} that {self.source!r} reads, and would be cut off: "
                f"say {text!r:.60} in fewer words."
            )
        out = self._run(text, self.longest, masked=True)
        if "text_embeds" not in out:
            raise OptionError(
                f"{self.source!r} is a text encoder without CLIP's projection, and has no vector for a whole text: embed goals "
                f"with a whole CLIP, such as {CLIP}."
            )
        vector: npt.NDArray[np.float32] = out.text_embeds[0].numpy()
        return vector

    @torch.no_grad()
    def _run(self, text: str, length: int, *, masked: bool) -> Any:
        ids: Mapping[str, Tensor] = self.tokenizer(
            [text], padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        mask = ids["attention_mask"] if masked else None
        with arithmetic(torch.device("cpu"), "float32"):
            return self.model(input_ids=ids["input_ids"], attention_mask=mask)


_towers = threading.Lock()


def text_tower(place: str) -> TextTower:
    """CLIP's text tower of a folder or a hub repository, loaded once in a process.

    Raises:
        WeightsError: there is none, or it is not whole.
        VPTGymError: transformers is not installed.
    """
    with _towers:
        return _tower(place)


@lru_cache(maxsize=4)
def _tower(place: str) -> TextTower:
    folder = folder_of(place, ("",), place)
    return TextTower(folder, folder, place)


def asked_goal(goal: str | None, clip: str | None) -> npt.NDArray[np.float32] | None:
    """The goal of a command's options `goal` and `clip`, as `embed_goal` gives it; None where none is told.

    Raises:
        OptionError: a CLIP is named and no goal.
    """
    if clip is not None and goal is None:
        raise OptionError("clip is given, and is of use with goal alone; give that too, or leave it out.")
    return None if goal is None else embed_goal(goal, clip or CLIP)


def embed_goal(text: str, clip: str = CLIP) -> npt.NDArray[np.float32]:
    """A goal in words as a vector, float32 [D], 512 of CLIP's ViT-B/32.

    Args:
        text: the goal.
        clip: a folder or hub repository (owner/name, perhaps with @revision) with CLIP, its weights as safetensors.

    Raises:
        OptionError: there are no words.
        WeightsError: CLIP cannot be had.
    """
    return text_tower(clip).goal(check_text(text, "goal"))
