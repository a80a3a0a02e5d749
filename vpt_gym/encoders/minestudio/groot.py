"""GROOT: told what to do by a reference video."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vpt_gym.encoders.inputs import check_frames
from vpt_gym.encoders.minestudio.forward import run
from vpt_gym.encoders.minestudio.kinds import IMAGE, Kind, timm_frame_size
from vpt_gym.errors import VPTGymError
from vpt_gym.resize import resize

__all__ = ["GrootKind"]

_REFERENCE_SIZE = 224
"""Side in pixels of a reference video's frames: the `resolution` that GROOT's `encode_video` has unless told otherwise."""


class GrootKind(Kind):
    """A condition is the path of a video, or its frames, uint8 [T, H, W, 3]; of either the first `timesteps` frames count."""

    needs_condition: ClassVar[bool] = True

    def __init__(self, policy: Any) -> None:
        super().__init__(policy)
        self.frame_size = timm_frame_size(policy.backbone)

    def prepare(self, condition: object) -> dict[str, Any]:
        """The embedded video, `z`: what the policy makes of the frames it is trained on, without a cache by path or prints."""
        frames_thwc = self._frames(condition)
        images = torch.from_numpy(np.ascontiguousarray(frames_thwc))[None].to(self.policy.device)
        # Without a reference the policy embeds the frames that it is given, as in its training: the same as encode_video.
        done = run(self.policy, {IMAGE: images}, None, self.latent_size)
        return {"z": done.outputs["posterior_dist"]["z"][0].clone()}

    def fits(self, entries: Mapping[str, Any]) -> bool:
        """See `Kind`."""
        z = entries.get("z")
        return isinstance(z, Tensor) and z.dtype == torch.float32 and z.dim() == 1

    def forward(self, seen: dict[str, Tensor], state: Any, rows: Sequence[Mapping[str, Any]]) -> tuple[Tensor, Any]:
        """As every kind, with the embedded videos of all rows under a key of their own in the policy's cache."""
        cache = self.policy.condition_cache
        z_bc = torch.stack([row["z"] for row in rows])
        key = object()
        cache[key] = {"posterior_dist": {"z": z_bc[:, None]}, "prior_dist": {}}
        try:
            return super().forward({**seen, "ref_video_path": key}, state, rows)  # type: ignore[dict-item]
        finally:
            del cache[key]

    def _frames(self, condition: object) -> npt.NDArray[np.uint8]:
        limit = int(self.policy.timesteps)
        if isinstance(condition, (str, os.PathLike)):
            return _decode(os.fspath(condition), limit)
        if not isinstance(condition, (np.ndarray, Tensor)):
            raise VPTGymError(
                f"A condition of {self.name} is the path of a reference video or its frames, uint8 [T, H, W, 3], but a "
                f"{type(condition).__name__} came."
            )
        frames = check_frames(condition, "condition", ("T",))[:limit]
        array = frames.cpu().numpy() if isinstance(frames, Tensor) else frames
        resized: npt.NDArray[np.uint8] = resize(array, _REFERENCE_SIZE)
        return resized


def _decode(given: str | bytes, limit: int) -> npt.NDArray[np.uint8]:
    """The first frames of a video, resized as GROOT's `encode_video` does: uint8 RGB [T, 224, 224, 3]."""
    av: Any = importlib.import_module("av")  # what GROOT itself decodes with
    frames: list[npt.NDArray[np.uint8]] = []
    side = {"width": _REFERENCE_SIZE, "height": _REFERENCE_SIZE}
    try:
        with av.open(os.fsdecode(given)) as container:
            for frame in container.decode(video=0):
                frames.append(frame.reformat(**side).to_ndarray(format="rgb24"))
                if len(frames) == limit:
                    break
    except (OSError, ValueError, av.error.FFmpegError, IndexError) as error:  # a NUL in it; it has no picture
        raise VPTGymError(f"The reference video {given!r} cannot be read ({error}); name a video file.") from error
    if not frames:
        raise VPTGymError(f"The reference video {given!r} has no frames; name another.")
    return np.stack(frames)
