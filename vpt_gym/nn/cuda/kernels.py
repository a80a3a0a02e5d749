"""What lies between two convolutions, on NHWC tensors: norm, ReLU, pool and residual in as few passes as there can be.

cuDNN's convolutions are fastest on NHWC. PyTorch's CUDA GroupNorm answers in NCHW, so that every convolution after one begins
with a copy; these kernels keep the layout, and they take a norm's mean and variance along with the pass that writes its
input. All of them are bound by memory, so what counts is how often a tensor is read and written.

A one-group norm needs the mean and variance of a frame, which many programs share. Each writes count, mean and summed squared
deviation of its own tile, all in float32 (`moments_nkt`: [frames, 3, tiles]); whoever needs the frame's puts them together by
Chan's formula. No sum of squares is ever subtracted from another, which would cancel, and no atomic addition makes the result
depend on who came first: a frame's numbers are the same to the bit, whatever other frames are in the batch.
"""

# ruff: noqa: N803 - the names of compile-time constants of a kernel are in capitals

from __future__ import annotations

import torch
from torch import Tensor

from vpt_gym.nn.cuda.language import jit, launch, power_of_two, tl

__all__ = ["add_relu_", "frames_to_nhwc", "normalise", "normalise_with_moments", "pool_relu", "relu_moments"]

TILE = 4096
"""Elements of one program. A frame of the 2x network's first pool is 128 of them, as many as an H200 has multiprocessors, so
that a single frame fills the GPU, while each program still moves 8 KiB."""

WARPS = 8
"""256 threads, each with 16 elements of a tile: two independent accesses of 16 bytes in a 16-bit precision."""


def frames_to_nhwc(frames_nhwc: Tensor, dtype: torch.dtype) -> Tensor:
    """Pixels as numbers from 0 to 1, with as many zero channels appended as make one pixel 16 bytes.

    The convolution's tensor-core kernels read 16 bytes at once; three channels of any precision are none.

    Args:
        frames_nhwc: uint8 [N, height, width, C], contiguous, C at most 16 bytes over the size of `dtype`.
        dtype: float32, bfloat16 or float16.

    Returns:
        [N, height, width, 16 / bytes of dtype], divided in float32 and rounded once.
    """
    count, height, width, channels = frames_nhwc.shape
    padded = 16 // dtype.itemsize
    assert channels <= padded, channels
    assert frames_nhwc.is_contiguous(), frames_nhwc.stride()
    x_nhwc = torch.empty((count, height, width, padded), device=frames_nhwc.device, dtype=dtype)
    total = x_nhwc.numel()
    programs = -(-total // TILE)
    launch(_frames, programs, x_nhwc, frames_nhwc, x_nhwc, total, C=channels, PADDED=padded, TILE=TILE, warps=WARPS)
    return x_nhwc


def pool_relu(x_nhwc: Tensor, bias_c: Tensor | None) -> tuple[Tensor, Tensor]:
    """ReLU(max pool(x + bias)), the pool 3x3 of stride 2 with padding, and the moments of it.

    Args:
        x_nhwc: [N, height, width, C], contiguous.
        bias_c: [C] or None. Added after the maximum, which it commutes with; PyTorch's convolution adds it in a pass of its
            own over four times as many numbers.

    Returns:
        [N, (height + 1) // 2, (width + 1) // 2, C] and its `moments_nkt`.
    """
    count, height, width, channels = x_nhwc.shape
    out_height, out_width = (height + 1) // 2, (width + 1) // 2
    y_nhwc = torch.empty((count, out_height, out_width, channels), device=x_nhwc.device, dtype=x_nhwc.dtype)
    block, tiles = _tiling(y_nhwc)
    moments_nkt = _moments(y_nhwc, tiles)
    # Without a bias the kernel never looks at the third pointer.
    launch(
        _pool_relu, count * tiles, x_nhwc, _nhwc(x_nhwc), y_nhwc, y_nhwc if bias_c is None else bias_c, moments_nkt,
        height, width, out_height, out_width, tiles, BIAS=bias_c is not None, **block, warps=WARPS,
    )  # fmt: skip
    return y_nhwc, moments_nkt


def normalise(
    x_nhwc: Tensor, moments_nkt: Tensor, scale: Tensor, shift: Tensor, *, eps: float, relu: bool = False
) -> Tensor:
    """The one-group norm of x, or of ReLU(x).

    Args:
        x_nhwc: [N, height, width, C], contiguous.
        moments_nkt: what some kernel of this module said of x, or of ReLU(x) if `relu`; in tiles of any size.
        scale: [C], or [height * width * C] for one per element in NHWC order (a LayerNorm of the flattened frame).
        shift: the same for shifts.
        eps: added to the variance.
        relu: whether x passes a ReLU first, which nobody has written down yet.

    Returns:
        The shape and dtype of x.
    """
    return _normalise(x_nhwc, moments_nkt, scale, shift, eps, relu=relu, moments=False)[0]


def normalise_with_moments(
    x_nhwc: Tensor, moments_nkt: Tensor, scale: Tensor, shift: Tensor, *, eps: float
) -> tuple[Tensor, Tensor]:
    """As `normalise`, with the moments of what it returns: for a norm whose output is the next norm's input too."""
    return _normalise(x_nhwc, moments_nkt, scale, shift, eps, relu=False, moments=True)


def relu_moments(x_nhwc: Tensor) -> Tensor:
    """Moments of ReLU(x), which is not written: `normalise(..., relu=True)` takes it again on its way."""
    block, tiles = _tiling(x_nhwc)
    moments_nkt = _moments(x_nhwc, tiles)
    pixels = x_nhwc.shape[1] * x_nhwc.shape[2]
    programs = len(x_nhwc) * tiles
    launch(_relu, programs, x_nhwc, _nhwc(x_nhwc), x_nhwc, moments_nkt, pixels, tiles, ADD=False, **block, warps=WARPS)
    return moments_nkt


def add_relu_(x_nhwc: Tensor, y_nhwc: Tensor) -> Tensor:
    """x += ReLU(y), in place; returns the moments of the new x."""
    assert x_nhwc.shape == y_nhwc.shape, (x_nhwc.shape, y_nhwc.shape)
    block, tiles = _tiling(x_nhwc)
    moments_nkt = _moments(x_nhwc, tiles)
    pixels = x_nhwc.shape[1] * x_nhwc.shape[2]
    programs = len(x_nhwc) * tiles
    launch(
        _relu, programs, x_nhwc, _nhwc(y_nhwc), _nhwc(x_nhwc), moments_nkt, pixels, tiles, ADD=True, **block, warps=WARPS
    )  # fmt: skip
    return moments_nkt


def _normalise(
    x_nhwc: Tensor, moments_nkt: Tensor, scale: Tensor, shift: Tensor, eps: float, *, relu: bool, moments: bool
) -> tuple[Tensor, Tensor]:
    count, height, width, channels = x_nhwc.shape
    per_pixel = len(scale) != channels
    assert len(scale) == len(shift) == (height * width * channels if per_pixel else channels), len(scale)
    block, tiles = _tiling(x_nhwc)
    y_nhwc = torch.empty_like(x_nhwc)
    new_nkt = _moments(x_nhwc, tiles) if moments else moments_nkt
    launch(
        _norm, count * tiles, x_nhwc, _nhwc(x_nhwc), moments_nkt, scale, shift, y_nhwc, new_nkt,
        eps, height * width, tiles, moments_nkt.shape[2], BLOCK_T=power_of_two(moments_nkt.shape[2]),
        RELU=relu, PER_PIXEL=per_pixel, MOMENTS=moments, **block, warps=WARPS,
    )  # fmt: skip
    return y_nhwc, new_nkt


def _nhwc(x_nhwc: Tensor) -> Tensor:
    assert x_nhwc.is_contiguous(), x_nhwc.stride()
    return x_nhwc


def _tiling(x_nhwc: Tensor) -> tuple[dict[str, int], int]:
    """The constants that say which part of a frame a program has, and how many programs a frame needs.

    A function of the frame's shape alone: were it tuned at run time, or by the batch, sums would be taken in another order.
    """
    _, height, width, channels = x_nhwc.shape
    # Triton's blocks are powers of two. The largest that divides the channels (192 = 3 x 64, 384 = 3 x 128) leaves no thread
    # idle, where the next larger one would waste a quarter of them, and a row of 64 16-bit channels is still a whole
    # 128-byte line of the cache.
    block_c = min(channels & -channels, 256)
    block_pixels = min(TILE // block_c, power_of_two(height * width))
    tiles = -(-height * width // block_pixels) * (channels // block_c)
    return {"C": channels, "BLOCK_C": block_c, "BLOCK_PIXELS": block_pixels}, tiles


def _moments(x_nhwc: Tensor, tiles: int) -> Tensor:
    return torch.empty((len(x_nhwc), 3, tiles), device=x_nhwc.device, dtype=torch.float32)


@jit
def _relu_of(x: tl.tensor) -> tl.tensor:
    # As torch's: a NaN stays one, so that a network that overflows is seen to.
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)


@jit
def _tile(
    tiles: tl.tensor, pixels: tl.tensor, C: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_PIXELS: tl.constexpr
) -> tuple[tl.tensor, ...]:
    """Frame, number of the tile, its pixels and channels, and how many of its elements there are."""
    frame = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    start = tile // (C // BLOCK_C) * BLOCK_PIXELS
    pixel = start + tl.arange(0, BLOCK_PIXELS)
    channel = tile % (C // BLOCK_C) * BLOCK_C + tl.arange(0, BLOCK_C)
    number = tl.minimum(pixels - start, BLOCK_PIXELS) * BLOCK_C
    # A batch of large frames has more than 2^31 elements, a frame never.
    return frame.to(tl.int64), tile, pixel, channel, number


@jit
def _write_moments(
    moments_ptr: tl.tensor,
    frame: tl.tensor,
    tile: tl.tensor,
    tiles: tl.tensor,
    x: tl.tensor,
    inside: tl.tensor,
    number: tl.tensor,
) -> None:
    """x is a float32 tile that is 0 outside of `inside`. Two passes, but over registers."""
    mean = tl.sum(x) / number
    deviation = tl.where(inside, x - mean, 0.0)
    into = moments_ptr + frame * 3 * tiles + tile
    tl.store(into, number.to(tl.float32))
    tl.store(into + tiles, mean)
    tl.store(into + 2 * tiles, tl.sum(deviation * deviation))


@jit
def _frames(
    frames_ptr: tl.tensor, x_ptr: tl.tensor, total: tl.tensor, C: tl.constexpr, PADDED: tl.constexpr, TILE: tl.constexpr
) -> None:
    index = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    channel = index % PADDED
    byte = tl.load(frames_ptr + index // PADDED * C + channel, (channel < C) & (index < total), other=0)
    # IEEE division, as on the CPU: Triton's `/` is an approximation.
    tl.store(x_ptr + index, tl.div_rn(byte.to(tl.float32), 255.0).to(x_ptr.dtype.element_ty), index < total)


@jit
def _pool_relu(
    x_ptr: tl.tensor, y_ptr: tl.tensor, bias_ptr: tl.tensor, moments_ptr: tl.tensor,
    height: tl.tensor, width: tl.tensor, out_height: tl.tensor, out_width: tl.tensor, tiles: tl.tensor,
    BIAS: tl.constexpr, C: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
) -> None:  # fmt: skip
    pixels = out_height * out_width
    frame, tile, pixel, channel, number = _tile(tiles, pixels, C, BLOCK_C, BLOCK_PIXELS)
    inside = pixel < pixels
    frame_ptr = x_ptr + frame * (height * width * C)
    best = tl.full((BLOCK_PIXELS, BLOCK_C), float("-inf"), tl.float32)
    # Nine taps overlap, so a number is read 2.25 times, but by programs that run side by side: the caches answer.
    for dy in tl.static_range(3):
        for dx in tl.static_range(3):
            row = pixel // out_width * 2 + dy - 1
            column = pixel % out_width * 2 + dx - 1
            there = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            offset = (row * width + column)[:, None] * C + channel[None, :]
            tap = tl.load(frame_ptr + offset, there[:, None], other=float("-inf")).to(tl.float32)
            best = tl.maximum(best, tap, propagate_nan=tl.PropagateNan.ALL)
    if BIAS:
        # Rounded here, because a convolution's bias is added to numbers of its own precision.
        best += tl.load(bias_ptr + channel).to(tl.float32)[None, :]
        best = best.to(y_ptr.dtype.element_ty).to(tl.float32)
    best = _relu_of(best)  # which makes 0, as the moments want it, of the minus infinity of pixels outside
    into = y_ptr + frame * (pixels * C) + pixel[:, None] * C + channel[None, :]
    tl.store(into, best.to(y_ptr.dtype.element_ty), inside[:, None])
    _write_moments(moments_ptr, frame, tile, tiles, best, inside[:, None], number)


@jit
def _relu(
    y_ptr: tl.tensor, x_ptr: tl.tensor, moments_ptr: tl.tensor, pixels: tl.tensor, tiles: tl.tensor,
    ADD: tl.constexpr, C: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
) -> None:  # fmt: skip
    frame, tile, pixel, channel, number = _tile(tiles, pixels, C, BLOCK_C, BLOCK_PIXELS)
    inside = (pixel < pixels)[:, None]
    offset = frame * (pixels * C) + pixel[:, None] * C + channel[None, :]
    value = _relu_of(tl.load(y_ptr + offset, inside, other=0.0).to(tl.float32))
    if ADD:
        # The moments are those of the rounded sum, which is what the next norm reads.
        value = (tl.load(x_ptr + offset, inside, other=0.0).to(tl.float32) + value).to(x_ptr.dtype.element_ty)
        tl.store(x_ptr + offset, value, inside)
        value = value.to(tl.float32)
    _write_moments(moments_ptr, frame, tile, tiles, value, inside, number)


@jit
def _norm(
    x_ptr: tl.tensor, moments_ptr: tl.tensor, scale_ptr: tl.tensor, shift_ptr: tl.tensor, y_ptr: tl.tensor, new_ptr: tl.tensor,
    eps: tl.tensor, pixels: tl.tensor, tiles: tl.tensor, parts: tl.tensor,
    BLOCK_T: tl.constexpr, RELU: tl.constexpr, PER_PIXEL: tl.constexpr, MOMENTS: tl.constexpr,
    C: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
) -> None:  # fmt: skip
    frame, tile, pixel, channel, number = _tile(tiles, pixels, C, BLOCK_C, BLOCK_PIXELS)
    inside = (pixel < pixels)[:, None]
    within = pixel[:, None] * C + channel[None, :]
    offset = frame * (pixels * C) + within
    x = tl.load(x_ptr + offset, inside, other=0.0).to(tl.float32)

    # Every program puts the frame's parts together by itself: a kilobyte or two from the cache, against one more kernel.
    part = tl.arange(0, BLOCK_T)
    part_ptr = moments_ptr + frame * 3 * parts + part
    count = tl.load(part_ptr, part < parts, other=0.0)
    part_mean = tl.load(part_ptr + parts, part < parts, other=0.0)
    squares = tl.load(part_ptr + 2 * parts, part < parts, other=0.0)
    elements = pixels * C
    mean = tl.sum(count * part_mean) / elements
    between = part_mean - mean
    variance = tl.sum(squares + count * between * between) / elements

    if RELU:
        x = _relu_of(x)
    if PER_PIXEL:
        scale = tl.load(scale_ptr + within, inside, other=0.0).to(tl.float32)
        shift = tl.load(shift_ptr + within, inside, other=0.0).to(tl.float32)
    else:
        scale = tl.load(scale_ptr + channel).to(tl.float32)[None, :]
        shift = tl.load(shift_ptr + channel).to(tl.float32)[None, :]
    y = ((x - mean) * (tl.rsqrt(variance + eps) * scale) + shift).to(y_ptr.dtype.element_ty)
    tl.store(y_ptr + offset, y, inside)
    if MOMENTS:
        _write_moments(new_ptr, frame, tile, tiles, tl.where(inside, y.to(tl.float32), 0.0), inside, number)
