from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.support.network import encoder_of, random_net
from vpt_gym.bench.accuracy import ROWS, compare
from vpt_gym.bench.pictures import Pictures
from vpt_gym.errors import VPTGymError

Frames = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]

PICTURES = Pictures((np.zeros((2, 128, 128, 3), np.uint8),), "black")


class Planted:
    """Latents that are the same in every candidate, plus an error of a given length at a given step and age."""

    def __init__(self, error: Callable[[int, npt.NDArray[np.int64]], npt.NDArray[np.float64]]) -> None:
        self.random = np.random.default_rng(0)
        self.noise = np.random.default_rng(1)
        self.error = error
        self.steps = 0
        self.age = np.zeros(ROWS, np.int64)
        self.seen: list[Flags] = []

    def step(self, frames: Frames, first: Flags) -> torch.Tensor:
        self.age = np.where(first, 1, self.age + 1)
        self.seen.append(first)
        latents = self.random.normal(size=(ROWS, 512))
        noise = self.noise.normal(size=latents.shape)
        noise *= np.linalg.norm(latents, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True)
        latents += self.error(self.steps, self.age)[:, None] * noise
        self.steps += 1
        return torch.from_numpy(latents.astype(np.float32))


def none(step: int, age: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return np.zeros(ROWS)


def measured(
    error: Callable[[int, npt.NDArray[np.int64]], npt.NDArray[np.float64]], steps: int = 600
) -> dict[str, Any]:
    return compare(Planted(none), {"other": Planted(error)}, PICTURES, steps)["other"]


def test_a_constant_error_is_seen_and_does_not_grow() -> None:
    def error(step: int, age: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        return np.full(ROWS, 0.01)

    found = measured(error)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["error_median"] == pytest.approx(0.01, rel=1e-3)
    assert found["growth_over_time"] == pytest.approx(1, abs=0.01)
    assert found["growth_since_reset"] == pytest.approx(1, abs=0.01)
    assert found["cosine_min"] == pytest.approx(1 - 0.01**2 / 2, abs=2e-5)


def test_growth_over_time_is_seen() -> None:
    def error(step: int, age: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        return np.full(ROWS, 0.001 * (1 + step / 100))

    found = measured(error)
    assert found["growth_over_time"] == pytest.approx(6.25 / 1.75, rel=0.02)
    assert list(found["quarters"]) == sorted(found["quarters"])


def test_growth_since_the_reset_is_seen() -> None:
    def error(step: int, age: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        return 0.0001 * age

    found = measured(error)
    assert found["growth_since_reset"] > 50
    assert list(found["by_age"]) == ["1-8", "9-32", "33-128", "129-512", "513+"]


def test_one_bad_step_of_one_row_is_seen() -> None:
    def error(step: int, age: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        return np.array([0.0, 2.0 if step == 400 else 0.0])

    found = measured(error)
    assert found["cosine_min"] < 0.6
    assert found["cosine_median"] == pytest.approx(1, abs=1e-12)
    assert found["max_abs"] > 1


def test_latents_that_are_no_numbers_are_not_hidden() -> None:
    def error(step: int, age: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        return np.array([np.nan if step == 5 else 0.0, 0.0])

    with pytest.raises(VPTGymError, match="Latents in other or float32 are not finite at step 5"):
        measured(error, steps=20)


def test_the_first_row_never_resets_and_the_second_does() -> None:
    reference, other = Planted(none), Planted(none)
    found = compare(reference, {"other": other}, PICTURES, 1000)["other"]
    first = np.array(reference.seen)
    assert np.array_equal(first, np.array(other.seen))
    assert first[0].all()
    assert not first[1:, 0].any()
    assert 10 <= first[1:, 1].sum() <= 40
    assert found["resets"] == first.sum()


def test_an_encoder_is_exactly_like_itself() -> None:
    """Two streams of one encoder, resets among the steps: cosine 1 and difference 0."""
    encoder = encoder_of(random_net())
    found = compare(encoder.stream(ROWS), {"same": encoder.stream(ROWS)}, noise(), 60)["same"]
    assert found["max_abs"] == 0
    assert found["cosine_min"] == pytest.approx(1, abs=1e-12)
    assert found["growth_over_time"] is found["growth_since_reset"] is None, "there is no error that could grow"


def test_other_weights_are_told_apart() -> None:
    one, other = encoder_of(random_net()), encoder_of(random_net(seed=1))
    found = compare(one.stream(ROWS), {"other": other.stream(ROWS)}, noise(), 8)["other"]
    assert found["cosine_median"] < 0.9


def noise() -> Pictures:
    drawn = np.random.default_rng(0).integers(0, 256, (2, 10, 128, 128, 3), dtype=np.uint8)
    return Pictures(tuple(drawn), "noise")
