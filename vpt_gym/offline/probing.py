"""`probe`: what a linear layer can read out of latents, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from vpt_gym.errors import RecordingError
from vpt_gym.offline.batches import Frames, split_episodes
from vpt_gym.offline.dataset import LatentDataset
from vpt_gym.offline.plan import ProbingConfig
from vpt_gym.offline.recordings import Array

__all__ = ["Probe", "fit", "probe", "scaled"]

PENALTIES: Final = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""On the squared weights, for latents of variance 1; the best on episodes that are held out inside the training is taken."""

MOST_CLASSES: Final = 64
"""A label of whole numbers with more different values than this is taken as an amount, not as a choice."""

FRAMES_PER_READ: Final = 4096


@dataclass(frozen=True)
class Probe:
    """What a linear probe of one layer reads of one label.

    Attributes:
        label: name in the dataset; with a place where it is a vector, such as `position.1`.
        layer: of the encoder; `all` of those in the dataset side by side.
        kind: `ridge` for amounts, `logistic` for choices.
        score: on held-out episodes: R^2 for amounts, the share of right answers for choices.
        baseline: what answering the same always scores there: 0 for amounts, the most frequent class for choices.
        frames: that it was fitted on.
    """

    label: str
    layer: str
    kind: str
    score: float
    baseline: float
    frames: int


def probe(
    dataset: LatentDataset | Path | str, labels: Sequence[str], config: ProbingConfig | None = None
) -> list[Probe]:
    """Fits linear probes of labels on each layer that a dataset holds, and on all of them.

    Ridge regression for amounts, logistic regression for choices (whole numbers and truth values, of at most 64 kinds), on
    latents that are scaled to mean 0 and variance 1. Episodes are held out for the score, others to choose the penalty. A label
    of several numbers is probed number by number.

    Args:
        dataset: of latents, or its folder; encoded with `layer="all"` it compares the layers.
        labels: names of what is known of every frame: labels, `actions` or `rewards`.
        config: how; None for the defaults.

    Raises:
        RecordingError: the dataset has no such label, the label is no number, or there are fewer than three episodes.
    """
    config = config or ProbingConfig()
    if isinstance(dataset, (str, Path)):
        with LatentDataset(dataset) as opened:
            return probe(opened, labels, config)
    if len(dataset) < 3:
        raise RecordingError(
            f"{dataset.path} has {len(dataset)} episodes, but probing takes three: to fit, to choose the penalty, and to score."
        )
    train, held = split_episodes(dataset, config.validation, config.seed)
    fitted, choose = _split(train, config)
    sets = [_read(dataset, episodes, labels, config) for episodes in (fitted, choose, held)]
    found = []
    for name, column in _columns(sets[0][1], labels):
        targets = [column(rows) for _, rows in sets]
        for layer, part in _layers(dataset):
            latents = [scaled(each[:, part], sets[0][0][:, part]) for each, _ in sets]
            kind, score, baseline = fit(latents, targets, name)
            found.append(Probe(name, layer, kind, score, baseline, len(targets[0]) + len(targets[1])))
    return found


def _split(episodes: list[int], config: ProbingConfig) -> tuple[list[int], list[int]]:
    order = np.random.default_rng(config.seed + 1).permutation(episodes)
    count = min(max(1, round(config.validation * len(order))), len(order) - 1)
    return [int(each) for each in order[count:]], [int(each) for each in order[:count]]


def _read(
    dataset: LatentDataset, episodes: Sequence[int], labels: Sequence[str], config: ProbingConfig
) -> tuple[npt.NDArray[np.float32], dict[str, Array]]:
    """Latents [N, D] and labels of at most `config.frames` frames of these episodes, spread evenly."""
    acted = any(label in ("actions", "rewards", "terminations", "truncations") for label in labels)
    frames = Frames(dataset, episodes, labels, acted=acted)
    step = -(-frames.count // config.frames)
    # Copies: a view would keep the whole batch in memory.
    parts = [
        {key: values[::step].copy() for key, values in batch.items()}
        for batch in frames.batches(FRAMES_PER_READ * step)
    ]
    if not parts:
        raise RecordingError(f"{dataset.path} has no frames in episodes {list(episodes)} to probe.")
    rows = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return rows.pop("latents").astype(np.float32), rows


def _columns(rows: dict[str, Array], labels: Sequence[str]) -> list[tuple[str, Any]]:
    """A name and a function from rows to values [N] for each number of each label."""
    found: list[tuple[str, Any]] = []
    for label in labels:
        values = rows[label]
        if values.dtype.kind not in "biuf":
            raise RecordingError(f"The label {label!r} is {values.dtype}, but a probe reads numbers.")
        if values.ndim == 1:
            found.append((label, lambda rows, label=label: rows[label]))
            continue
        for place in range(int(np.prod(values.shape[1:]))):
            found.append(
                (
                    f"{label}.{place}",
                    lambda rows, label=label, place=place: rows[label].reshape(len(rows[label]), -1)[:, place],
                )
            )
    return found


def _layers(dataset: LatentDataset) -> list[tuple[str, slice]]:
    names = dataset.layers
    size = dataset.latent_size // len(names)
    parts = [(name, slice(place * size, (place + 1) * size)) for place, name in enumerate(names)]
    return parts if len(names) == 1 else [*parts, ("all", slice(None))]


def scaled(latents_nd: Array, reference_nd: Array) -> npt.NDArray[np.float32]:
    """Latents [N, D] less the mean of reference latents [M, D], over their deviation."""
    mean_d = reference_nd.mean(axis=0, dtype=np.float64)
    scale_d = np.maximum(reference_nd.std(axis=0, dtype=np.float64), 1e-6)
    scaled_nd: npt.NDArray[np.float32] = ((latents_nd - mean_d) / scale_d).astype(np.float32)
    return scaled_nd


def fit(latents: list[Array], targets: list[Array], name: str) -> tuple[str, float, float]:
    """Fits a probe on the first of three parts, chooses its penalty on the second.

    Args:
        latents: float32 [n, D] of each part, `scaled` alike.
        targets: [n] of each part.
        name: of the label, for messages.

    Returns:
        The kind, the score on the third part, and what answering the same always scores there.

    Raises:
        RecordingError: a target is not finite.
    """
    if not all(np.isfinite(values).all() for values in targets):
        raise RecordingError(
            f"The label {name!r} is not finite in every frame: leave those recordings out, or mend it."
        )
    classes = np.unique(targets[0])
    if targets[0].dtype.kind in "biu" and len(classes) <= MOST_CLASSES:
        numbers = [np.searchsorted(classes, values).clip(max=len(classes) - 1) for values in targets]
        known = [classes[number] == values for number, values in zip(numbers, targets, strict=True)]
        answers = max(
            (_logistic(latents, numbers[0], len(classes), penalty) for penalty in PENALTIES),
            key=lambda answer: float(((answer[0] == numbers[1]) & known[1]).mean()),
        )
        frequent = np.bincount(numbers[0]).argmax()
        return (
            "logistic",
            float(((answers[1] == numbers[2]) & known[2]).mean()),
            float(((numbers[2] == frequent) & known[2]).mean()),
        )
    answers = max(_ridge(latents, targets[0].astype(np.float64)), key=lambda answer: _r2(answer[0], targets[1]))
    return "ridge", _r2(answers[1], targets[2]), 0.0


def _ridge(latents: list[Array], values_n: Array) -> list[tuple[Array, Array]]:
    """For each penalty, predictions on the second and third part."""
    x_nd = torch.from_numpy(latents[0]).double()
    mean = values_n.mean()
    gram_dd = x_nd.T @ x_nd / len(x_nd)
    product_d = x_nd.T @ torch.from_numpy(values_n - mean) / len(x_nd)
    scales_d, axes_dd = torch.linalg.eigh(gram_dd)
    turned_d = axes_dd.T @ product_d
    found = []
    for penalty in PENALTIES:
        weights_d = (axes_dd @ (turned_d / (scales_d.clamp(min=0) + penalty))).numpy()
        found.append((latents[1] @ weights_d + mean, latents[2] @ weights_d + mean))
    return found


def _logistic(latents: list[Array], numbers_n: Array, classes: int, penalty: float) -> tuple[Array, Array]:
    """Answers on the second and third part."""
    x_nd = torch.from_numpy(latents[0])
    y_n = torch.from_numpy(numbers_n)
    weights_dc = torch.zeros(x_nd.shape[1], classes, requires_grad=True)
    bias_c = torch.zeros(classes, requires_grad=True)
    search = torch.optim.LBFGS([weights_dc, bias_c], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        search.zero_grad()
        fit = torch.nn.functional.cross_entropy(x_nd @ weights_dc + bias_c, y_n) + penalty * weights_dc.square().sum()
        fit.backward()  # type: ignore[no-untyped-call]
        return fit

    search.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        one, two = ((torch.from_numpy(each) @ weights_dc + bias_c).argmax(dim=1).numpy() for each in latents[1:])
    return one, two


def _r2(predicted_n: Array, values_n: Array) -> float:
    spread = float(np.square(values_n - values_n.mean()).mean())
    if not spread:
        return 0.0  # a label that does not change tells nothing of a layer
    return 1 - float(np.square(predicted_n - values_n).mean()) / spread
