"""From a source of VPT weights to a frozen network, shared inside a process; and to one that is its owner's, to be trained."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Final

import torch

from vpt_gym.encoders.forked import refuse_lost_cuda
from vpt_gym.errors import OptionError, WeightsError
from vpt_gym.nn import VPTNet, accelerate
from vpt_gym.precision import DTYPES, arithmetic, choose_precision, computing_dtype
from vpt_gym.weights import LoadReport, VPTHeads, load_checkpoint, load_heads, resolve

__all__ = ["LoadedWeights", "choose_device", "load_network", "shared_weights"]

logger = logging.getLogger("vpt_gym")

_DEVICES: Final = ("cpu", "cuda")


@dataclass(frozen=True, eq=False)
class LoadedWeights:
    """What encoders of one source share inside a process, whichever layer they take."""

    net: VPTNet
    digest: str
    report: LoadReport
    precision: str
    backend: str
    load_heads: Callable[[], VPTHeads] | None = None

    @cached_property
    def heads(self) -> VPTHeads:
        """VPT's heads from where the network came from, loaded once."""
        if self.load_heads is None:
            raise WeightsError(
                "This encoder was made around a network without heads: take one that load_encoder gives."
            )
        return self.load_heads()


_loaded: weakref.WeakValueDictionary[Hashable, LoadedWeights] = weakref.WeakValueDictionary()
_loading = threading.Lock()


def shared_weights(source: str, device: str | torch.device, precision: str, backend: str = "auto") -> LoadedWeights:
    """The frozen network of a source, computed as fast as this machine can; the same object for the same question.

    Raises:
        WeightsError: the weights cannot be found, trusted, or are not a whole VPT network.
        OptionError: there is no such device, precision or backend, or not here.
    """
    place = choose_device(device)
    precision = choose_precision(precision, place)
    resolved = resolve(source)
    # As text, since what is no backend need not be hashable; it is refused below.
    key = (resolved.identity, str(place), precision, str(backend))
    with _loading:
        weights = _loaded.get(key)
        if weights is None:
            checkpoint = load_checkpoint(resolved, dtype=DTYPES[precision], device=place)
            net = VPTNet.from_tensors(checkpoint.config, checkpoint.tensors)
            name, digest, report = checkpoint.source, checkpoint.digest, checkpoint.report
            # What replaces a tensor is made beside it: with the last name of the tensors gone, one at a time is there twice.
            del checkpoint
            # Where the CPU has no bfloat16, the weights are rounded to it and held in float32.
            net.to(computing_dtype(precision, place))
            with arithmetic(place, precision):
                words = accelerate(net, precision, backend)
            heads = partial(load_heads, resolved, net.config.hidden_size)
            weights = _loaded[key] = LoadedWeights(net, digest, report, precision, words, heads)
            logger.info("%s: %s; %s in %s", name, report.summary(), words, precision)
    return weights


def load_network(source: str, *, trainable: bool = False, device: str | torch.device = "auto") -> VPTNet:
    """Loads the network alone, as it is defined, in float32: the caller's own, shared with nobody and replaced by nothing.

    With gradients on, `net(frames, first, memory, layers=("final",))` gives outputs and a memory that gradients go through;
    `memory.detach()` between two calls cuts them there, which is truncated backpropagation through time.

    Args:
        source: of VPT weights, as for `load_encoder`.
        trainable: parameters get gradients.
        device: `auto`, `cpu`, `cuda` or `cuda:<index>`.

    Raises:
        WeightsError: the weights cannot be found, trusted, or are not a whole VPT network.
        OptionError: there is no such device.
    """
    checkpoint = load_checkpoint(resolve(source), dtype=torch.float32, device=choose_device(device))
    net = VPTNet.from_tensors(checkpoint.config, checkpoint.tensors)
    net.requires_grad_(requires_grad=trainable)
    return net.train(mode=trainable)


def choose_device(name: str | torch.device) -> torch.device:
    """The device that a name stands for; `auto` is a CUDA GPU if there is one, else the CPU.

    Raises:
        OptionError: there is no such device.
        VPTGymError: it is a GPU, and this process was forked from one that had used CUDA.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    wanted = f"device must be auto, cpu, cuda or cuda:<index>, not {str(name)!r}."
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise OptionError(wanted) from error
    if device.type not in _DEVICES:
        raise OptionError(wanted)
    if device.type == "cuda":
        refuse_lost_cuda(device)
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise OptionError(
                f"device={str(name)!r} was asked for, but torch sees {count} CUDA devices; use device='auto'."
            )
        if device.index is None:
            # With its number, because the current device is another one tomorrow.
            device = torch.device("cuda", torch.cuda.current_device())
    return device
