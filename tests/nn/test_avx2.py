"""What `make test-avx2` rests on: its variables hide a CPU's wider instructions from everything that computes."""

from __future__ import annotations

import os

import pytest
import torch


@pytest.mark.skipif(os.environ.get("VPT_GYM_EXPECT_AVX2") != "1", reason="a run of `make test-avx2` alone")
def test_wider_instructions_are_hidden() -> None:
    assert torch.backends.cpu.get_cpu_capability() == "AVX2"
    # oneDNN computes bfloat16 with AVX-512 or more alone, and refuses where it sees none.
    assert not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    with pytest.raises(RuntimeError, match="bf16"):
        torch.ops.mkldnn._linear_pointwise(
            torch.ones(1, 16, dtype=torch.bfloat16),
            torch.ops.mkldnn._reorder_linear_weight(torch.ones(32, 16, dtype=torch.bfloat16), 1),
            None, "none", [], "",
        )  # fmt: skip
