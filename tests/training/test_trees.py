"""What a checkpoint is made of comes back as it was: values, types and shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vpt_gym.errors import VPTGymError
from vpt_gym.training.trees import read_tree, write_tree

TYPES = (
    "bool",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "float32",
    "float64",
)


@pytest.mark.parametrize("name", TYPES)
def test_arrays_of_every_type(name: str, tmp_path: Path) -> None:
    """Also the largest numbers, and one alone; whatever the installed safetensors can hold."""
    largest = True if name == "bool" else (np.finfo if name.startswith("float") else np.iinfo)(name).max
    array = np.full((2, 3), largest, name)
    array[1, 2] = 1
    write_tree(tmp_path, {"array": array, "one": array[0, 0], "turned": array.T})
    found: Any = read_tree(tmp_path)
    for key, expected in (("array", array), ("one", array[0, 0]), ("turned", array.T)):
        assert type(found[key]) is type(expected)
        assert found[key].dtype == expected.dtype
        np.testing.assert_array_equal(found[key], expected)


def test_generators_go_on(tmp_path: Path) -> None:
    old, new = np.random.RandomState(3), np.random.default_rng(4)
    write_tree(tmp_path, {"old": old.get_state(), "new": new.bit_generator.state, "torch": torch.get_rng_state()})
    found = read_tree(tmp_path)
    again, other = np.random.RandomState(), np.random.default_rng()
    again.set_state(found["old"])
    other.bit_generator.state = found["new"]
    assert (again.randint(10**6), other.integers(10**6)) == (old.randint(10**6), new.integers(10**6))
    assert torch.equal(found["torch"], torch.get_rng_state())


@pytest.mark.parametrize("value", [object(), np.array(["word"]), {1, 2}, {"a": [b"bytes"]}])
def test_what_cannot_be_held(value: Any, tmp_path: Path) -> None:
    with pytest.raises(VPTGymError, match="A checkpoint cannot hold the state"):
        write_tree(tmp_path, value)
