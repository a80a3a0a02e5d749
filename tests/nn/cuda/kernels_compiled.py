"""Every kernel, as the published networks launch it, through Triton's compiler; run by test_cuda_triton.py.

What the interpreter cannot tell: that the kernels compile at all, that memory is accessed 16 bytes at a time, and that what a
program holds fits into its registers.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import triton

from tests.nn.cuda.compiled import compiling_for
from vpt_gym.config import PRESETS
from vpt_gym.nn.cuda import attention, kernels

FEW_BYTES = 64
"""A few bytes of stack are nothing, and differ between releases of Triton; a tile that does not fit would be hundreds."""

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def spilled(kernel: Any, folder: Path) -> int:
    """Bytes of a thread's own that lie in memory because there are not registers enough."""
    file = folder / "kernel.cubin"
    file.write_bytes(kernel.asm["cubin"])
    said = subprocess.run([CUOBJDUMP, "-res-usage", file], capture_output=True, text=True, check=True).stdout
    stack, local = re.search(r"STACK:(\d+)", said), re.search(r"LOCAL:(\d+)", said)
    assert stack, said
    assert local, said
    return int(stack[1]) + int(local[1])


def widths(kernel: Any, what: str) -> set[int]:
    """Bits of each access to global memory: `ld` or `st`."""
    accesses = re.findall(rf"{what}\.global(?:\.\w+)*?(?:\.v(\d))?\.b(\d+)", kernel.asm["ptx"])
    return {int(count or 1) * int(bits) for count, bits in accesses}


@pytest.mark.parametrize(
    ("preset", "dtype", "capability"),
    [
        ("2x", torch.bfloat16, 80),
        ("2x", torch.bfloat16, 90),
        ("3x", torch.float16, 90),
        ("1x", torch.float32, 80),
    ],
    ids=str,
)
def test_convolutions(preset: str, dtype: torch.dtype, capability: int, tmp_path: Path) -> None:
    with compiling_for(capability) as compiled:
        kernels.frames_to_nhwc(torch.empty((1, 128, 128, 3), dtype=torch.uint8), dtype)
        for side, channels in zip((64, 32, 16), PRESETS[preset].channels, strict=True):
            x_nhwc = torch.empty((1, 2 * side, 2 * side, channels), dtype=dtype)
            per_channel = torch.empty(channels, dtype=dtype)
            z_nhwc, moments_nkt = kernels.pool_relu(x_nhwc, per_channel if side == 64 else None)
            kernels.normalise_with_moments(z_nhwc, moments_nkt, per_channel, per_channel, eps=1e-5)
            kernels.normalise(z_nhwc, moments_nkt, per_channel, per_channel, eps=1e-5)
            moments_nkt = kernels.relu_moments(z_nhwc)
            kernels.normalise(z_nhwc, moments_nkt, per_channel, per_channel, eps=1e-5, relu=True)
            moments_nkt = kernels.add_relu_(z_nhwc, z_nhwc.clone())
        per_element = torch.empty(z_nhwc[0].numel(), dtype=dtype)
        kernels.normalise(z_nhwc, moments_nkt, per_element, per_element, eps=1e-5)
    assert len(compiled) == 1 + 3 * 6 + 1
    for kernel in compiled:
        assert spilled(kernel, tmp_path) <= FEW_BYTES, kernel.metadata.name
        assert 128 in widths(kernel, "ld") or kernel.metadata.name == "_frames"
        assert 128 in widths(kernel, "st") or kernel.metadata.name == "_relu"


@pytest.mark.parametrize(
    ("dtype", "capability", "named"),
    [(torch.bfloat16, 90, True), (torch.bfloat16, 80, False), (torch.float32, 90, True)],
    ids=str,
)
def test_attention(dtype: torch.dtype, capability: int, named: bool, tmp_path: Path) -> None:
    """The 2x network's, on parts of one projection."""
    size, heads, batch = 2048, 16, 3
    parts = torch.empty((batch, 3 * size + 10 * heads), dtype=dtype).split([size, size, size, 10 * heads], dim=1)
    query_bhd, key_bhd, value_bhd, mix_bhn = (part.unflatten(1, (heads, -1)) for part in parts)
    ring_rhmd = torch.empty((5, heads, 128, 128), dtype=dtype)
    indices_b = torch.zeros(batch, dtype=torch.int64)
    rows_b = indices_b if named else None
    with compiling_for(capability) as compiled:
        attention.attend_ring(
            query_bhd, key_bhd, value_bhd, mix_bhn, torch.empty((10, 128), dtype=dtype), ring_rhmd, ring_rhmd.clone(),
            indices_b, indices_b, rows_b,
        )  # fmt: skip
    (kernel,) = compiled
    assert spilled(kernel, tmp_path) <= FEW_BYTES
    assert 128 in widths(kernel, "ld")
