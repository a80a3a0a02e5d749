"""Every kernel between two convolutions against torch's own operators; run by test_cuda_triton.py in Triton's interpreter.

Float16 stands for the short precisions: the interpreter rounds it as a GPU does, while it cuts bfloat16 off, so that bfloat16
gets a tolerance of two of its last digits.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vpt_gym.nn.cuda import kernels

EPS = 1e-5
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2**-10, torch.bfloat16: 2**-6}
"""Of the largest number of a result: rounding, of one operation or, in float32, of long sums."""
# Channels of the published sizes (192 and 384 are no powers of two), of the tiny one, and frames of one tile and of several,
# the last of them incomplete where height x width is odd.
SHAPES = [(2, 9, 7, 16), (2, 16, 20, 32), (1, 11, 9, 192), (1, 6, 8, 384), (3, 5, 5, 48), (1, 33, 9, 256)]

dtypes = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def numbers(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Not centred on zero, so that a mean that is left out shows."""
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + 0.7).to(dtype)


def group_norm(x_nhwc: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """In float32 from the rounded input, rounded once."""
    y_nchw = F.group_norm(x_nhwc.permute(0, 3, 1, 2).float(), 1, scale.float(), shift.float(), EPS)
    return y_nchw.permute(0, 2, 3, 1).to(x_nhwc.dtype)


def close(found: Tensor, wanted: Tensor) -> None:
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    error = (found.float() - wanted.float()).abs().max() / wanted.float().abs().max()
    assert float(error) <= TOLERANCE[wanted.dtype]


def moments_of(x_nhwc: Tensor) -> Tensor:
    """The moments of a whole frame as one part, in float64."""
    flat = x_nhwc.double().flatten(1)
    return torch.stack(
        [torch.full((len(flat),), flat.shape[1]), flat.mean(1), flat.var(1, correction=0) * flat.shape[1]], 1
    )


def together(moments_nkt: Tensor) -> Tensor:
    """Parts put together by Chan's formula, in float64."""
    count, mean, squares = moments_nkt.double().unbind(1)
    total = count.sum(1)
    centre = (count * mean).sum(1) / total
    return torch.stack([total, centre, (squares + count * (mean - centre[:, None]) ** 2).sum(1)], 1)


def same_moments(moments_nkt: Tensor, x_nhwc: Tensor) -> None:
    assert moments_nkt.dtype == torch.float32
    torch.testing.assert_close(together(moments_nkt), moments_of(x_nhwc), rtol=1e-5, atol=1e-6)


@dtypes
@pytest.mark.parametrize("shape", [(2, 48, 40), (3, 17, 5)])
def test_frames(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Every value of a byte, divided exactly as on the CPU."""
    frames_nhwc = torch.arange(3 * torch.Size(shape).numel()).remainder(256).to(torch.uint8).view(*shape, 3)
    found = kernels.frames_to_nhwc(frames_nhwc, dtype)
    assert found.shape == (*shape, 16 // dtype.itemsize)
    wanted = (frames_nhwc.float() / 255).to(dtype)
    if dtype == torch.bfloat16:
        close(found[..., :3], wanted)
    else:
        assert torch.equal(found[..., :3], wanted)
    assert not found[..., 3:].any()


@dtypes
@shapes
@pytest.mark.parametrize("bias", [True, False])
def test_pool(dtype: torch.dtype, shape: tuple[int, ...], bias: bool) -> None:
    x_nhwc = numbers(*shape, dtype=dtype)
    bias_c = numbers(shape[3], dtype=dtype, seed=1) - 1 if bias else None
    found, moments_nkt = kernels.pool_relu(x_nhwc, bias_c)
    biased_nhwc = x_nhwc if bias_c is None else x_nhwc + bias_c
    wanted = F.max_pool2d(biased_nhwc.permute(0, 3, 1, 2), 3, 2, 1).relu().permute(0, 2, 3, 1)
    close(found, wanted)
    if not (bias and dtype == torch.bfloat16):
        assert torch.equal(found, wanted)
    same_moments(moments_nkt, found)


def test_a_pool_of_negative_numbers_is_zero_at_the_border_too() -> None:
    """Padding is minus infinity before the bias: a zero there would come out as the bias."""
    found, _ = kernels.pool_relu(torch.full((1, 4, 4, 16), -9.0), torch.full((16,), 5.0))
    assert not found.any()


@dtypes
@shapes
@pytest.mark.parametrize("relu", [True, False])
def test_norm(dtype: torch.dtype, shape: tuple[int, ...], relu: bool) -> None:
    x_nhwc = numbers(*shape, dtype=dtype)
    scale, shift = numbers(shape[3], dtype=dtype, seed=1), numbers(shape[3], dtype=dtype, seed=2)
    read_nhwc = x_nhwc.relu() if relu else x_nhwc
    moments_nkt = kernels.relu_moments(x_nhwc) if relu else moments_of(x_nhwc)[:, :, None].float()
    same_moments(moments_nkt, read_nhwc)
    found = kernels.normalise(x_nhwc, moments_nkt, scale, shift, eps=EPS, relu=relu)
    close(found, group_norm(read_nhwc, scale, shift))


@dtypes
@shapes
def test_norm_then_norm(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x_nhwc = numbers(*shape, dtype=dtype)
    scale, shift = numbers(shape[3], dtype=dtype, seed=1), numbers(shape[3], dtype=dtype, seed=2)
    moments_nkt = moments_of(x_nhwc)[:, :, None].float()
    found, new_nkt = kernels.normalise_with_moments(x_nhwc, moments_nkt, scale, shift, eps=EPS)
    close(found, group_norm(x_nhwc, scale, shift))
    same_moments(new_nkt, found)


@dtypes
def test_norm_of_a_flat_frame(dtype: torch.dtype) -> None:
    x_nhwc = numbers(2, 6, 10, 48, dtype=dtype)
    scale, shift = numbers(6 * 10 * 48, dtype=dtype, seed=1), numbers(6 * 10 * 48, dtype=dtype, seed=2)
    moments_nkt = moments_of(x_nhwc)[:, :, None].float()
    found = kernels.normalise(x_nhwc, moments_nkt, scale, shift, eps=EPS)
    wanted = F.layer_norm(x_nhwc.flatten(1).float(), scale.shape, scale.float(), shift.float(), EPS)
    close(found.flatten(1), wanted.to(dtype))


@dtypes
@shapes
def test_residual(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x_nhwc, y_nhwc = numbers(*shape, dtype=dtype), numbers(*shape, dtype=dtype, seed=1)
    wanted = x_nhwc + y_nhwc.relu()
    kept = y_nhwc.clone()
    moments_nkt = kernels.add_relu_(x_nhwc, y_nhwc)
    close(x_nhwc, wanted)
    assert torch.equal(y_nhwc, kept)
    same_moments(moments_nkt, x_nhwc)


def test_moments_do_not_cancel() -> None:
    """Far from zero a mean of squares less the square of the mean would have no digit left in float32."""
    x_nhwc = 3000 + 0.1 * torch.randn((1, 40, 40, 16), generator=torch.Generator().manual_seed(0))
    same = together(kernels.relu_moments(x_nhwc))
    torch.testing.assert_close(same, moments_of(x_nhwc), rtol=1e-3, atol=0)
    found = kernels.normalise(x_nhwc, kernels.relu_moments(x_nhwc), torch.ones(16), torch.zeros(16), eps=EPS)
    wanted = F.group_norm(x_nhwc.double().permute(0, 3, 1, 2), 1, eps=EPS).permute(0, 2, 3, 1)
    # The numbers themselves have a spacing of 2**-12 there, a four-hundredth of their deviation.
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=2e-2)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy's, in which the interpreter computes
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_broken_numbers_stay_visible(broken: float) -> None:
    """As with torch: a frame that overflows gives NaN, and does not pass for a dark one."""
    x_nhwc = numbers(2, 8, 8, 16, dtype=torch.float32)
    x_nhwc[1, 3, 3, 3] = broken
    pooled_nhwc, moments_nkt = kernels.pool_relu(x_nhwc, None)
    found = kernels.normalise(pooled_nhwc, moments_nkt, torch.ones(16), torch.zeros(16), eps=EPS)
    assert found[0].isfinite().all()
    assert found[1].isnan().all()


def test_a_frame_is_the_same_whatever_is_beside_it() -> None:
    """To the bit, in any batch and at any place of it."""
    x_nhwc = numbers(3, 16, 20, 192, dtype=torch.float16)
    scale, shift = numbers(192, dtype=torch.float16, seed=1), numbers(192, dtype=torch.float16, seed=2)

    def all_kernels(x_nhwc: Tensor) -> Tensor:
        pooled_nhwc, moments_nkt = kernels.pool_relu(x_nhwc, shift)
        z_nhwc, moments_nkt = kernels.normalise_with_moments(pooled_nhwc, moments_nkt, scale, shift, eps=EPS)
        y_nhwc = kernels.normalise(z_nhwc, kernels.relu_moments(z_nhwc), scale, shift, eps=EPS, relu=True)
        moments_nkt = kernels.add_relu_(z_nhwc, y_nhwc)
        return kernels.normalise(z_nhwc, moments_nkt, scale, shift, eps=EPS)

    together_nhwc = all_kernels(x_nhwc)
    assert together_nhwc.float().std() > 0.1
    alone_nhwc = torch.cat([all_kernels(x_nhwc[i : i + 1]) for i in range(3)])
    assert torch.equal(together_nhwc, alone_nhwc)
    assert torch.equal(all_kernels(x_nhwc[[2, 0]]), together_nhwc[[2, 0]])
