"""N rows of a video encoder, each told what shall happen: frames are looked at one by one, and only texts are remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vpt_gym.checks import check_count
from vpt_gym.encoders.forked import refuse_lost_cuda
from vpt_gym.encoders.inputs import as_tensor, check_flags, check_frames, check_rows, count_of
from vpt_gym.encoders.network import check_finite
from vpt_gym.encoders.protocol import Flags, Rows
from vpt_gym.encoders.text import check_text
from vpt_gym.errors import ObservationError, VPTGymError

if TYPE_CHECKING:
    from vpt_gym.encoders.video.encoder import VideoEncoder

__all__ = ["VideoStream"]

IMAGE = "image"
"""Key of the frames, where texts come with them."""

Text = str | None


class VideoStream:
    """N rows of a video diffusion model, stepped in one call; each under a text of its own.

    Attributes:
        encoder: what it was made by.
        num_envs: N.
        fingerprint: of the encoder.
    """

    def __init__(self, encoder: VideoEncoder, num_envs: int) -> None:
        refuse_lost_cuda(encoder.device)
        self.encoder = encoder
        self.num_envs = check_count("num_envs", num_envs)
        self.fingerprint = encoder.fingerprint
        self._running: list[Text] = [encoder.text] * self.num_envs
        self._wanted: list[Text] = [encoder.text] * self.num_envs

    def set_condition(self, condition: Any, rows: Rows = None) -> None:
        """Says what rows are told from their next episode on; the running one ends as it began.

        Args:
            condition: a text, or None for none.
            rows: which rows; None for all.

        Raises:
            OptionError: it is no text, or the encoder has no text encoder, or reads texts from the observation.
            ObservationError: `rows` are not distinct rows of the N.
        """
        chosen = range(self.num_envs) if rows is None else check_rows(rows, self.num_envs, "set_condition").tolist()
        text = self.encoder.prepare_condition(condition)
        for row in chosen:
            self._wanted[row] = text

    def step(self, frames: Any, first: Flags, rows: Rows = None) -> Tensor:
        """Encodes one frame of each row; see `vpt_gym.encoders.Stream`."""
        return self._run(frames, first, rows, "step", ("n",))[:, 0]

    def encode(self, frames: Any, first: Flags, rows: Rows = None) -> Tensor:
        """Encodes T frames of each row; see `vpt_gym.encoders.Stream`."""
        return self._run(frames, first, rows, "encode", ("n", "T"))

    def state_dict(self) -> dict[str, Any]:
        """The encoder's fingerprint, and what the rows are told: there is nothing else to remember."""
        return {"fingerprint": self.fingerprint, "running": list(self._running), "wanted": list(self._wanted)}

    def load_state_dict(self, state: object) -> None:
        """Takes over what `state_dict` gave.

        Raises:
            VPTGymError: it was saved by another encoder, or of another number of rows.
        """
        if not isinstance(state, Mapping) or state.get("fingerprint") != self.fingerprint:
            raise VPTGymError("The state was saved by another encoder; load it with the weights that it came from.")
        texts = [state.get("running"), state.get("wanted")]
        for each in texts:
            if (
                not isinstance(each, list)
                or len(each) != self.num_envs
                or not all(text is None or isinstance(text, str) for text in each)
            ):
                raise VPTGymError(
                    f"The state must hold what {self.num_envs} rows are told, as state_dict gives it; load it into a stream of "
                    "as many rows."
                )
        self._running, self._wanted = (list(each) for each in texts if each is not None)

    def _run(self, frames: Any, first: Flags, rows: Rows, call: str, leading: tuple[str, ...]) -> Tensor:
        rows_b = None if rows is None else check_rows(rows, self.num_envs, call)
        key = self.encoder.text_key
        given = frames if isinstance(frames, Mapping) else {IMAGE: frames}
        if (key is None) == isinstance(frames, Mapping) or (key is not None and {IMAGE, key} - set(given)):
            wanted = "the frames alone" if key is None else f"a dict of {IMAGE!r} and {key!r}"
            came = f"a dict of {', '.join(map(repr, given))}" if isinstance(frames, Mapping) else "the frames alone"
            raise ObservationError(f"{call}: the video encoder reads {wanted}, but {came} came.")
        images = check_frames(given[IMAGE], call, leading)
        batch = count_of(images, rows_b, self.num_envs, call)
        first_bt = check_flags(first, call, tuple(images.shape[: len(leading)]))
        if call == "step":
            images, first_bt = images[:, None], first_bt[:, None]
        chosen: Sequence[int] = range(self.num_envs) if rows_b is None else rows_b.tolist()
        if key is None:
            texts_bt, running = self._told(first_bt.numpy(), chosen)
        else:
            texts_bt, running = _texts_of(given[key], tuple(first_bt.shape), call, key), list(self._running)
        latents_btd = torch.stack([self._row(images[place : place + 1], texts_bt[place]) for place in range(batch)])
        check_finite(latents_btd, rows_b, self.encoder.precision)
        self._running = running
        return latents_btd

    def _row(self, images_bthwc: Any, texts: Sequence[Text]) -> Tensor:
        """The frames of one row, one after another."""
        latents = []
        for place, text in enumerate(texts):
            frame_hwc = as_tensor(images_bthwc[:, place : place + 1], self.encoder.frame_size)[0, 0]
            latents.append(self.encoder.latent_of(frame_hwc, text))
        return torch.stack(latents)

    def _told(self, first_bt: npt.NDArray[np.bool_], rows: Sequence[int]) -> tuple[list[list[Text]], list[Text]]:
        """What each frame's row is told at that frame, and what the rows are told afterwards."""
        running = list(self._running)
        texts_bt: list[list[Text]] = []
        for row, opens_t in zip(rows, first_bt.tolist(), strict=True):
            told = []
            for opens in opens_t:
                if opens:
                    running[row] = self._wanted[row]
                told.append(running[row])
            texts_bt.append(told)
        return texts_bt, running


def _texts_of(values: Any, shape: tuple[int, ...], call: str, key: str) -> list[list[Text]]:
    array = np.asarray(values)
    if array.dtype.kind not in "UO" or array.size != np.prod(shape) or array.shape[:1] != shape[:1]:
        raise ObservationError(
            f"{call}: {key!r} must hold a text for each frame, an array of them of shape {shape}, but {array.dtype} of shape "
            f"{array.shape} came."
        )
    return [[check_text(text, f"{call}: {key!r}") for text in row] for row in array.reshape(shape).tolist()]
