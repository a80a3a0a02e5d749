"""Pictures from disk as the frames that a dataset's own encoder looks at."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from vpt_gym.encoders import as_encoder
from vpt_gym.errors import OptionError
from vpt_gym.offline.dataset import LatentDataset

__all__ = ["latent_of_pictures", "read_picture"]


def read_picture(path: Path | str) -> npt.NDArray[np.uint8]:
    """A picture, .png, .jpg or what else Pillow reads, as uint8 [H, W, 3], RGB.

    Raises:
        OptionError: there is no such file, or it is no whole picture.
    """
    if not Path(path).is_file():
        raise OptionError(f"{path} is not there, or is no file: name a picture, such as frame.png.")
    try:
        with Image.open(path) as picture:
            return np.array(picture.convert("RGB"), np.uint8)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # What Pillow raises of what is none, of one that is cut off or damaged, and of one that is too large.
        what = str(error).strip().rstrip(".") or type(error).__name__
        raise OptionError(f"{path} is not a picture that can be read ({what}): name a .png or .jpg.") from error


def latent_of_pictures(
    dataset: LatentDataset, pictures: Sequence[npt.NDArray[np.uint8]], encoder: str | None = None
) -> npt.NDArray[np.float32]:
    """The latent of the last of some pictures, the others being the history that it is seen with.

    Args:
        dataset: whose encoder looks at them.
        pictures: uint8 [H, W, 3] each, of one size or of several, in order; the first opens an episode.
        encoder: source of that encoder's weights, where they are no longer where the dataset says.

    Returns:
        float32 [latent_size].

    Raises:
        OptionError: there are no pictures, or the encoder has another fingerprint than the dataset's.
        WeightsError: the encoder cannot be had.
    """
    if not len(pictures):
        raise OptionError("latent_of_pictures looks at one picture or more, but none came.")
    source = encoder or str(dataset.encoder["source"])
    with closing(as_encoder(source, dataset.encoder["options"])) as opened:
        if opened.fingerprint != dataset.fingerprint:
            raise OptionError(
                f"{source} is not the encoder that {dataset.path} was made with: its fingerprint begins "
                f"{opened.fingerprint[:12]}, the dataset's {dataset.fingerprint[:12]}; name where the weights of "
                f"{dataset.encoder['source']} are now with --encoder."
            )
        stream = opened.stream(1)
        # Step by step, since pictures of a history may be of several sizes.
        for place, picture in enumerate(pictures):
            latent_1d = stream.step(picture[None], [place == 0])
    latent: npt.NDArray[np.float32] = latent_1d[0].float().cpu().numpy()
    return latent
