"""Winograd's convolution F(4x4, 3x3): a quarter of the multiplications of a direct 3x3 convolution, as matrix products.

Output tiles of 4x4 pixels come from input tiles of 6x6, which overlap. Tiles and kernels are transformed (B and G below), meet
in 36 products over channels, and the result is transformed back (A): Lavin & Gray 2015, arXiv 1509.09308. The transforms belong
to the interpolation points 0, +-5/8, +-3/2 and infinity. With the usual 0, +-1, +-2 the rounding error is larger; that it
depends on the points is the subject of Barabasz et al. 2018, arXiv 1803.10986.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor, nn

from vpt_gym.nn.cpu.norm import standardise
from vpt_gym.nn.cpu.onednn import PackedConv
from vpt_gym.nn.cpu.scratch import Scratch

__all__ = ["TILE", "WinogradConv", "tiles", "transforms"]

TILE = 4
"""Height and width of an output tile; a frame's must be multiples of it."""

_KERNEL = 3
_WINDOW = TILE + _KERNEL - 1
_POINTS = (Fraction(0), Fraction(5, 8), Fraction(-5, 8), Fraction(3, 2), Fraction(-3, 2))


def transforms() -> tuple[Tensor, Tensor, Tensor]:
    """The matrices A [4, 6], G [6, 3] and B [6, 6] of the one-dimensional algorithm, float64.

    y = A ((G g) * (B d)) is the correlation of six values d with three weights g, by Toom and Cook's interpolation: A evaluates
    and G divides by the differences of the points, B interpolates, and the last point is infinity. Rows are scaled by powers of
    two, which moves no rounding error and keeps the transformed values near the size of the given ones.
    """
    last = [Fraction(int(i == size - 1)) for size in (TILE, _KERNEL) for i in range(size)]
    evaluate = [[*(point**power for point in _POINTS), last[power]] for power in range(TILE)]
    kernel, data = [], []
    for i, point in enumerate(_POINTS):
        others = [other for j, other in enumerate(_POINTS) if j != i]
        divisor = Fraction(1)
        for other in others:
            divisor *= point - other
        kernel.append([point**power / divisor for power in range(_KERNEL)])
        data.append([*_polynomial(others), Fraction(0)])
    kernel.append(last[TILE:])
    data.append(_polynomial(list(_POINTS)))
    a, g, b = (
        torch.tensor([[float(x) for x in row] for row in matrix], dtype=torch.float64, device="cpu")
        for matrix in (evaluate, kernel, data)
    )
    data_scale = torch.exp2(torch.round(torch.log2(b.abs().sum(dim=1, keepdim=True) / 1.5)))
    b, g = b / data_scale, g * data_scale
    kernel_scale = torch.exp2(torch.round(torch.log2(g.norm(dim=1, keepdim=True))))
    return a * kernel_scale.T, g / kernel_scale, b


def _polynomial(roots: list[Fraction]) -> list[Fraction]:
    """Coefficients, lowest power first, of the polynomial with these roots and leading coefficient 1."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        coefficients = [high - root * low for high, low in zip(shifted, [*coefficients, Fraction(0)], strict=True)]
    return coefficients


def tiles(x_nhwc: Tensor) -> Tensor:
    """A view of [N, H, W, C] as [N, H/4, W/4, 4, 4, C]: the frame's tiles, then the pixels inside a tile."""
    return torch.unflatten(torch.unflatten(x_nhwc, 2, (-1, TILE)), 1, (-1, TILE)).transpose(2, 3)


class WinogradConv:
    """ReLU(conv(norm(x))) for a 3x3 convolution with zero padding and without bias behind a norm of one group."""

    def __init__(self, norm: nn.GroupNorm, weight_oihw: Tensor, size: int) -> None:
        """For frames of this height and width, a multiple of 4."""
        a, g, b = transforms()
        dtype = weight_oihw.dtype
        weight_xxoi = torch.einsum("xh,yw,oihw->xyoi", g, g, weight_oihw.double()).to(dtype)
        # The products over channels are 36 matrix products side by side: a 1x1 convolution in 36 groups.
        weight_oihw = weight_xxoi.flatten(0, 2)[:, :, None, None]
        self._products = PackedConv(weight_oihw, None, (1, size**2 // TILE**2, 1), groups=_WINDOW**2)
        self._norm = norm
        self._into_xx = torch.kron(b, b).to(dtype).contiguous()
        self._back_yx = torch.kron(a, a).to(dtype).contiguous()

    def __call__(self, x: Tensor, scratch: Scratch) -> Tensor:
        """N frames.

        Args:
            x: [N, H, W, C], contiguous; or [N, H/4, W/4, 4, 4, C], in tiles, as this call returns it.
            scratch: holds what is returned until the next call with it.

        Returns:
            [N, H/4, W/4, 4, 4, out], contiguous: see `tiles`.
        """
        standard = standardise(x, self._norm.eps)
        x_tiles = tiles(standard) if x.dim() == 4 else standard
        frames, rows, columns = x_tiles.shape[:3]
        channels = x.shape[-1]
        padded = scratch.padded(frames, TILE * rows, TILE * columns, channels, x.dtype)
        torch.addcmul(self._norm.bias, x_tiles, self._norm.weight, out=tiles(padded[:, 1:-1, 1:-1]))

        frame, row, pixel, _ = padded.stride()
        shape = (frames, rows, columns, _WINDOW, _WINDOW, channels)
        windows = padded.as_strided(shape, (frame, TILE * row, TILE * pixel, row, pixel, 1))
        count = rows * columns
        gathered = scratch.take("gathered", shape[1:], x.dtype)
        data = scratch.take("data", (count, _WINDOW**2, channels), x.dtype)
        result: Tensor | None = None
        # A frame at a time: what lies between the transforms stays in the cache. And oneDNN lays the weights out by the number
        # of tiles; were it another one now and then, it would lay them out anew in each such call, which takes 0.1 s.
        for i in range(frames):
            gathered.copy_(windows[i])
            torch.bmm(self._into_xx.expand(count, -1, -1), gathered.view(data.shape), out=data)
            products = self._products(data.view(1, count, 1, -1)).view(count, _WINDOW**2, -1)
            if result is None:
                result = scratch.take("result", (frames, count, TILE**2, products.shape[2]), x.dtype)
            torch.bmm(self._back_yx.expand(count, -1, -1), products, out=result[i])
        assert result is not None
        return result.relu_().view(frames, rows, columns, TILE, TILE, -1)
