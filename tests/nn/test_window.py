"""The window against the naive definition: what a frame may see, whatever `first`, chunks, rows and wrap-around."""

from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vpt_gym.config import VPTConfig
from vpt_gym.nn.attention import write_ring
from vpt_gym.nn.state import Memory, Window

MEMORY = 5
CONFIG = VPTConfig(hidden_size=1, heads=1, impala_width=1, blocks=1, memory=MEMORY)


def seen_naively(first: list[bool], now: int) -> dict[int, int]:
    """Frame to its age: those of the running episode, the frame itself first, at most MEMORY of them."""
    opened = max((t for t in range(now + 1) if first[t]), default=0)
    return {t: now - t for t in range(max(opened, now - MEMORY + 1), now + 1)}


def empty(rows: int) -> Memory:
    return Memory.empty(CONFIG, rows, blocks=1, device=torch.device("cpu"), dtype=torch.float32)


def moved(memory: Memory, start: int, first_bt: torch.Tensor, rows: list[int] | None, *, written_first: bool) -> tuple:
    """The memory behind new frames, whose key is their own number, and what each of them saw: {frame: age} a row and frame."""
    rows_b = None if rows is None else torch.tensor(rows)
    window = Window.of(memory, first_bt, rows_b, written_first=written_first)
    batch, count = first_bt.shape
    new_bthd = torch.arange(start, start + count).float().view(1, count, 1, 1).expand(batch, -1, -1, -1)
    keys_rhmd = memory.keys_lbhmd[0].clone()
    if written_first:
        write_ring(keys_rhmd, new_bthd, window)
    ring = keys_rhmd if rows is None else keys_rhmd[rows_b]
    frames_bk = ring[:, 0, :, 0]
    if not written_first:
        frames_bk = torch.cat([frames_bk, new_bthd[:, :, 0, 0]], dim=1)
        write_ring(keys_rhmd, new_bthd, window)
    saw = []
    for b in range(batch):
        for t in range(count):
            visible = window.visible_btk[b, t]
            pairs = zip(frames_bk[b][visible].tolist(), window.age_btk[b, t][visible].tolist(), strict=True)
            saw.append({int(frame): age for frame, age in pairs})
    return window.after(memory, keys_rhmd[None], memory.values_lbhmd), saw


@settings(max_examples=150, deadline=None)
@given(first=st.lists(st.booleans(), min_size=1, max_size=24), data=st.data())
def test_any_chunks_see_what_the_definition_says(first: list[bool], data: st.DataObject) -> None:
    """Pieces of any sizes up to the memory's, single frames written first or not."""
    cuts = sorted(data.draw(st.sets(st.integers(1, len(first)))) | {0, len(first)})
    cuts = sorted({*cuts, *range(0, len(first), MEMORY)})
    memory = empty(1)
    for start, stop in pairwise(cuts):
        written_first = stop - start == 1 and data.draw(st.booleans())
        memory, saw = moved(memory, start, torch.tensor([first[start:stop]]), None, written_first=written_first)
        assert saw == [seen_naively(first, now) for now in range(start, stop)]
        assert int(memory.seen_b[0]) == len(saw[-1])


@settings(max_examples=100, deadline=None)
@given(steps=st.lists(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=3), max_size=30))
def test_any_rows_see_their_own_frames(steps: list[list[tuple[int, bool]]]) -> None:
    """Any subsets of three rows in any order: each sees its own episode, and who is not stepped does not move."""
    memory = empty(3)
    history: list[list[tuple[int, bool]]] = [[], [], []]
    for number, step in enumerate(steps):
        chosen = dict(step)
        rows = list(chosen)
        flags = torch.tensor([[chosen[row]] for row in rows])
        before = memory
        memory, saw = moved(memory, number, flags, rows, written_first=True)
        for row, seen in zip(rows, saw, strict=True):
            history[row].append((number, chosen[row]))
            numbers, first = zip(*history[row], strict=True)
            wanted = seen_naively(list(first), len(first) - 1)
            assert seen == {numbers[t]: age for t, age in wanted.items()}
        for row in set(range(3)) - set(rows):
            assert (memory.slot_b[row], memory.seen_b[row]) == (before.slot_b[row], before.seen_b[row])
            assert torch.equal(memory.keys_lbhmd[:, row], before.keys_lbhmd[:, row])
