"""The convolutional half on an NVIDIA GPU: cuDNN's convolutions, and Triton for all that lies between them."""

from __future__ import annotations

from typing import Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpt_gym.nn.cnn import FrameEncoder, ResidualBlock, Stack
from vpt_gym.nn.cuda import kernels

__all__ = ["TritonFrameEncoder"]

_FRAMES_PER_PASS: Final = 256
"""As many as `FrameEncoder` takes at once on a GPU: they bound the activations, to 1.4 GB for the 2x network in 16 bits."""


class TritonFrameEncoder(nn.Module):
    """A `FrameEncoder` whose activations stay NHWC from the pixels to the dense layer; the same numbers up to rounding.

    Its weights are the encoder's, except for what is laid out anew, once: the first convolution's weights, with zeros for
    the channels that fill up a pixel, and the dense layer's columns with the norm before it, because the checkpoint orders
    them by channel first and NHWC activations are flattened by pixel first.

    Args:
        encoder: stays as it is and usable; whoever lets go of it frees its own dense layer.
    """

    opening: Tensor
    dense_scale: Tensor
    dense_shift: Tensor
    dense: Tensor

    def __init__(self, encoder: FrameEncoder) -> None:
        super().__init__()
        self.stacks = encoder.stacks
        for module in self.stacks.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
        first = cast(Stack, self.stacks[0]).first.weight.data
        padding = 16 // first.dtype.itemsize - first.shape[1]
        opening = F.pad(first, (0, 0, 0, 0, 0, padding)).contiguous(memory_format=torch.channels_last)
        self.register_buffer("opening", opening, persistent=False)

        channels = cast(Stack, self.stacks[-1]).pool_norm.num_channels
        self.eps = encoder.dense_norm.eps
        self.register_buffer("dense_scale", _pixel_major(encoder.dense_norm.weight.data, channels), persistent=False)
        self.register_buffer("dense_shift", _pixel_major(encoder.dense_norm.bias.data, channels), persistent=False)
        self.register_buffer("dense", _pixel_major(encoder.dense.weight.data, channels), persistent=False)
        self.linear_norm, self.linear = encoder.linear_norm, encoder.linear

    def forward(self, frames_nhwc: Tensor) -> Tensor:
        """uint8 [N, frame_size, frame_size, 3] -> [N, hidden_size] in the weights' precision."""
        pieces = [self._pass(piece_nhwc) for piece_nhwc in torch.split(frames_nhwc, _FRAMES_PER_PASS)]
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0]

    def _pass(self, frames_nhwc: Tensor) -> Tensor:
        x_nhwc = kernels.frames_to_nhwc(frames_nhwc.contiguous(), self.dense.dtype)
        moments_nkt: Tensor | None = None
        for module in self.stacks:
            x_nhwc, moments_nkt = self._stack(cast(Stack, module), x_nhwc, moments_nkt)
        assert moments_nkt is not None
        # A LayerNorm of the flattened frame is a one-group norm whose scale and shift differ from pixel to pixel.
        x_nhwc = kernels.normalise(x_nhwc, moments_nkt, self.dense_scale, self.dense_shift, eps=self.eps)
        x_nf = F.relu(F.linear(x_nhwc.flatten(1), self.dense))
        out: Tensor = F.relu(self.linear(self.linear_norm(x_nf)))
        return out

    def _stack(self, stack: Stack, x_nhwc: Tensor, moments_nkt: Tensor | None) -> tuple[Tensor, Tensor]:
        """The stack's output and its moments; `moments_nkt` are those of its input, None where no norm reads it."""
        if moments_nkt is None:
            x_nhwc = _conv(x_nhwc, self.opening)
        else:
            x_nhwc = _conv(_norm(cast(nn.GroupNorm, stack.first_norm), x_nhwc, moments_nkt), stack.first.weight)
        x_nhwc, moments_nkt = kernels.pool_relu(x_nhwc, stack.first.bias)
        norm = stack.pool_norm
        x_nhwc, moments_nkt = kernels.normalise_with_moments(x_nhwc, moments_nkt, norm.weight, norm.bias, eps=norm.eps)
        for module in stack.blocks:
            block = cast(ResidualBlock, module)
            y_nhwc = _conv(_norm(block.norm0, x_nhwc, moments_nkt), block.conv0.weight)
            y_nhwc = _norm(block.norm1, y_nhwc, kernels.relu_moments(y_nhwc), relu=True)
            moments_nkt = kernels.add_relu_(x_nhwc, _conv(y_nhwc, block.conv1.weight))
        return x_nhwc, moments_nkt


def _norm(norm: nn.GroupNorm, x_nhwc: Tensor, moments_nkt: Tensor, *, relu: bool = False) -> Tensor:
    return kernels.normalise(x_nhwc, moments_nkt, norm.weight, norm.bias, eps=norm.eps, relu=relu)


def _conv(x_nhwc: Tensor, weight_oihw: Tensor) -> Tensor:
    """3x3 with zero padding. Memory stays where it is: NCHW is only what PyTorch calls the axes."""
    y_nchw = F.conv2d(x_nhwc.permute(0, 3, 1, 2), weight_oihw, padding=1)
    # cuDNN answers in the layout that it was given, so this copies nothing; a backend that does not is still right.
    return y_nchw.permute(0, 2, 3, 1).contiguous()


def _pixel_major(x_cf: Tensor, channels: int) -> Tensor:
    """[..., channels x pixels] -> [..., pixels x channels]."""
    return x_cf.reshape(*x_cf.shape[:-1], channels, -1).transpose(-1, -2).flatten(-2).contiguous()
