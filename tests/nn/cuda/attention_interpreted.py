"""The fused single step against `attend_single` of torch's operators; run by test_cuda_triton.py in Triton's interpreter."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.support.network import random_net
from vpt_gym.config import VPTConfig
from vpt_gym.nn import Memory, VPTNet, attention, trial
from vpt_gym.nn.attention import Attention, Block, SingleStep
from vpt_gym.nn.cuda import attend_single
from vpt_gym.nn.state import Window

ROWS = 3
# Neither the ring nor a head has a power of two: 13 slots go round three times in 40 steps.
CONFIG = VPTConfig(hidden_size=24, heads=2, impala_width=1, dense_size=8, blocks=1, memory=13)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


def attention_of(config: VPTConfig, dtype: torch.dtype, *, fused: bool) -> Attention:
    layer = random_net(config).blocks[0].attention.to(dtype)
    assert isinstance(layer, Attention)
    if fused:
        layer.fuse()
    return layer


def memory_of(config: VPTConfig, dtype: torch.dtype, rows: int = ROWS) -> Memory:
    return Memory.empty(config, rows, blocks=1, device=torch.device("cpu"), dtype=dtype)


class Stepper:
    """A memory and one way to step it."""

    def __init__(self, layer: Attention, memory: Memory, how: SingleStep) -> None:
        self.layer, self.memory, self.how = layer, memory, how

    def __call__(self, x_bc: Tensor, first_b: Tensor, rows_b: Tensor | None) -> Tensor:
        memory = self.memory
        window = Window.of(memory, first_b[:, None], rows_b, written_first=True)
        self.layer.single_step = self.how
        out_btc, _, _ = self.layer(x_bc[:, None], memory.keys_lbhmd[0], memory.values_lbhmd[0], window)
        self.memory = window.after(memory, memory.keys_lbhmd, memory.values_lbhmd)
        return out_btc[:, 0]


@pytest.mark.parametrize("fused", [True, False], ids=["one projection", "four projections"])
def test_more_steps_than_the_ring_has_slots(fused: bool) -> None:
    """Random subsets of the rows in random orders, or all without naming them, with resets."""
    layer = attention_of(CONFIG, torch.float32, fused=fused)
    plain = Stepper(layer, memory_of(CONFIG, torch.float32), attention.attend_single)
    kernel = Stepper(layer, memory_of(CONFIG, torch.float32), attend_single)
    generator = torch.Generator().manual_seed(0)
    for step in range(40 if fused else 20):
        rows_b = None
        if step % 3:
            count = int(torch.randint(1, ROWS + 1, (), generator=generator))
            rows_b = torch.randperm(ROWS, generator=generator)[:count]
        count = ROWS if rows_b is None else len(rows_b)
        x_bc = 2 * torch.randn((count, CONFIG.hidden_size), generator=generator)
        first_b = torch.rand(count, generator=generator) < 0.05
        wanted = plain(x_bc, first_b, rows_b)
        torch.testing.assert_close(kernel(x_bc, first_b, rows_b), wanted, rtol=0, atol=1e-5)
        # Keys and values come from the same matrix product: the rings agree to the bit, and so in every other row.
        for name, tensor in kernel.memory.tensors().items():
            assert torch.equal(tensor, plain.memory.tensors()[name])
        assert float(wanted.std()) > 0.1


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_the_published_size(dtype: torch.dtype, tolerance: float) -> None:
    """Two of 128 channels a head and 128 slots, full and partly seen; in float32 arithmetic whatever is stored."""
    config = VPTConfig(hidden_size=256, heads=2, impala_width=1, dense_size=8, blocks=1)
    layer = attention_of(config, dtype, fused=True)
    generator = torch.Generator().manual_seed(1)
    memory = memory_of(config, dtype)
    for ring in (memory.keys_lbhmd, memory.values_lbhmd):
        ring.copy_(torch.randn(ring.shape, generator=generator))
    memory.slot_b.copy_(torch.tensor([127, 5, 77]))
    memory.seen_b.copy_(torch.tensor([128, 40, 127]))
    exact = attention_of(config, dtype, fused=True).float()
    reference = Memory(**{
        name: tensor.float() if tensor.is_floating_point() else tensor.clone()
        for name, tensor in memory.tensors().items()
    })  # fmt: skip
    x_bc = torch.randn((ROWS, 256), generator=generator).to(dtype)
    first_b = torch.tensor([False, False, False])
    wanted = Stepper(exact, reference, attention.attend_single)(x_bc.float(), first_b, None)
    found = Stepper(layer, memory, attend_single)(x_bc, first_b, None)
    assert found.dtype == dtype
    assert float((found.float() - wanted).abs().max() / wanted.abs().max()) <= tolerance


def test_rows_never_touch() -> None:
    """Other inputs, resets and company change a row by not one bit."""
    layer = attention_of(CONFIG, torch.float32, fused=True)
    generator = torch.Generator().manual_seed(2)
    together = Stepper(layer, memory_of(CONFIG, torch.float32), attend_single)
    changed = Stepper(layer, memory_of(CONFIG, torch.float32), attend_single)
    for step in range(2 * CONFIG.memory):
        x_bc = torch.randn((ROWS, CONFIG.hidden_size), generator=generator)
        first_b = torch.rand(ROWS, generator=generator) < 0.1
        other_x_bc, other_first_b = x_bc.clone(), first_b.clone()
        other_x_bc[1] = -x_bc[1]
        other_first_b[1] = ~first_b[1]
        a_bc, b_bc = together(x_bc, first_b, None), changed(other_x_bc, other_first_b, None)
        assert torch.equal(a_bc[[0, 2]], b_bc[[0, 2]]), step
        assert not torch.equal(a_bc[1], b_bc[1])


def test_what_a_row_may_not_see_has_no_part_in_it() -> None:
    """Not even where it is no number: nothing is multiplied by a weight of zero."""
    layer = attention_of(CONFIG, torch.float32, fused=True)
    memory = memory_of(CONFIG, torch.float32)
    for ring in (memory.keys_lbhmd, memory.values_lbhmd):
        ring.fill_(float("nan"))
    stepper = Stepper(layer, memory, attend_single)
    generator = torch.Generator().manual_seed(3)
    for _ in range(2 * CONFIG.memory):
        out_bc = stepper(torch.randn((ROWS, CONFIG.hidden_size), generator=generator), torch.zeros(ROWS).bool(), None)
        assert out_bc.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_it_passes_the_proof_that_it_meets_on_a_gpu(dtype: torch.dtype) -> None:
    """With its matrix of four in one, over a memory with resets and NaN; and one that reads too old a frame does not."""
    net = VPTNet.from_tensors(
        CONFIG, {name: value.to(dtype) for name, value in random_net(CONFIG).state_dict().items()}
    )
    block = random_net(CONFIG).blocks[0].to(dtype)
    assert isinstance(block, Block)
    block.attention.fuse()
    block.attention.single_step = attend_single
    precision = str(dtype).removeprefix("torch.")
    assert trial.of_blocks(net, precision, {"triton": lambda: block}, quick=True).refused == {}

    def too_old(*given: object) -> Tensor:
        *rest, window = given
        assert isinstance(window, Window)
        return attend_single(*rest, dataclasses.replace(window, seen_b=window.seen_b + 1))

    block.attention.single_step = too_old
    assert "differs" in trial.of_blocks(net, precision, {"triton": lambda: block}, quick=True).refused["triton"]
