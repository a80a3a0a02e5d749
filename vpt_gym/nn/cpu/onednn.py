"""oneDNN's convolutions and matrix products with weights laid out for it once, instead of at every call.

PyTorch's own CPU operators hand oneDNN plain weights, which it reorders each time, or go to another library whose matrix
products of few rows stay far below the memory's speed. The operators used here are those of TorchInductor (namespace
`mkldnn`), which every x86 build of torch carries; `unavailable` says when they are not there.
"""

from __future__ import annotations

import functools
import platform

import torch
from torch import Tensor, nn

__all__ = ["PackedConv", "PackedLinear", "unavailable"]

_ROWS_HINT = 8
"""Rows that a matrix is laid out for. A stream of a few environments has about as many; other numbers are computed too."""


@functools.cache
def unavailable(dtype: torch.dtype) -> str | None:
    """Why these operators cannot be used in this precision, or None when they can: they are tried once."""
    if platform.machine().lower() not in {"x86_64", "amd64"}:
        return f"oneDNN is used on x86 alone, and this is {platform.machine()}"
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return "this build of torch has no oneDNN"
    try:
        if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return "oneDNN computes bfloat16 on CPUs with AVX-512 alone"
        ones = torch.ones(32, 16, dtype=dtype, device="cpu")
        found = [
            PackedLinear(ones, None)(ones[:1]),
            PackedConv(ones[:, :, None, None], None, (1, 4, 4), groups=1)(ones[:16].view(1, 4, 4, 16)),
            PackedConv(ones[:, :, None, None], None, (1, 16, 1), groups=2)(ones.view(1, 16, 1, 32)),
        ]
    except (RuntimeError, AttributeError, TypeError) as error:
        return f"this build of torch lacks an operator of oneDNN: {str(error).splitlines()[0]}"
    if not all(bool((result == 16).all()) for result in found):
        return "oneDNN's operators give wrong numbers here"
    return None


class PackedLinear(nn.Module):
    """A frozen `nn.Linear` whose matrix is laid out for oneDNN."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        # Not a parameter: the layout is oneDNN's own, and nothing but its operators can read it.
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS_HINT)
        self._bias = bias

    @classmethod
    def of(cls, linear: nn.Linear) -> PackedLinear:
        """The same function as a linear layer."""
        return cls(linear.weight, linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")
        return out


class PackedConv:
    """A frozen convolution of stride 1 that keeps height and width, with weights laid out for oneDNN."""

    def __init__(
        self, weight_oihw: Tensor, bias: Tensor | None, example_nhw: tuple[int, int, int], *, groups: int
    ) -> None:
        """Lays the weights out for inputs of about the size `example_nhw`; others are computed too."""
        padding = weight_oihw.shape[2] // 2
        self._geometry = ([padding, padding], [1, 1], [1, 1], groups)
        frames, height, width = example_nhw
        example_nchw = [frames, weight_oihw.shape[1] * groups, height, width]
        self._packed = torch.ops.mkldnn._reorder_convolution_weight(
            weight_oihw.contiguous(), *self._geometry, example_nchw
        )
        self._bias = bias

    def __call__(self, x_nhwc: Tensor) -> Tensor:
        """[N, H, W, in] -> [N, H, W, out]."""
        out_nchw: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x_nhwc.permute(0, 3, 1, 2), self._packed, self._bias, *self._geometry, "none", [], ""
        )
        return out_nchw.permute(0, 2, 3, 1)
