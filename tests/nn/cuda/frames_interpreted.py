"""`TritonFrameEncoder` against `FrameEncoder`; run by test_cuda_triton.py in Triton's interpreter."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch.nn.functional import cosine_similarity

from tests.support.network import SMALL, random_net
from vpt_gym.nn import VPTNet, trial
from vpt_gym.nn.cuda import TritonFrameEncoder

# The interpreter takes its time by the pixel; 24 of them leave an odd side behind: 12, 6 and 3.
CONFIG = dataclasses.replace(SMALL, frame_size=24)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


def frames(count: int) -> torch.Tensor:
    return torch.randint(
        0,
        256,
        (count, CONFIG.frame_size, CONFIG.frame_size, 3),
        generator=torch.Generator().manual_seed(0),
        dtype=torch.uint8,
    )


def net_in(dtype: torch.dtype) -> VPTNet:
    """A network none of whose parameters, norms and the first bias included, is at its default."""
    return VPTNet.from_tensors(
        CONFIG, {name: value.to(dtype) for name, value in random_net(CONFIG).state_dict().items()}
    )


def test_float32() -> None:
    encoder = net_in(torch.float32).cnn
    wanted = encoder(frames(2))
    triton = TritonFrameEncoder(encoder)
    found = triton(frames(2))
    assert float((found - wanted).abs().max()) <= 1e-4 * float(wanted.abs().max())
    assert float((wanted[0] - wanted[1]).abs().max()) > 0.1
    # The encoder that it was made from stays as it was, and a frame's vector does not depend on its neighbour by one bit.
    assert torch.equal(encoder(frames(2)), wanted)
    beside = frames(2)
    beside[0] = 255 - beside[0]
    assert torch.equal(triton(beside)[1], found[1])


@pytest.mark.parametrize(("dtype", "cosine"), [(torch.float16, 0.9999), (torch.bfloat16, 0.995)])
def test_short_precisions(dtype: torch.dtype, cosine: float) -> None:
    """Against float32. The interpreter cuts bfloat16 off where a GPU rounds it, which costs most of what is missing there."""
    exact = net_in(torch.float32).cnn(frames(1))
    found = TritonFrameEncoder(net_in(dtype).cnn)(frames(1))
    assert found.dtype == dtype
    assert float(cosine_similarity(exact, found.float()).min()) > cosine


def test_it_passes_the_proof_that_it_meets_on_a_gpu() -> None:
    net = net_in(torch.float32)
    assert trial.of_frames(net, "float32", {"triton": lambda: TritonFrameEncoder(net.cnn)}, quick=True).refused == {}
