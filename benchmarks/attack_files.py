"""What attack.py damages: a small network in every kind of file, and how a seed has it damaged."""

from __future__ import annotations

import json
import pickle
import random
import shutil
from pathlib import Path

import torch
from attack_damage import OF_BYTES, of_structure
from safetensors.torch import save_file

from vpt_gym.config import VPTConfig
from vpt_gym.weights import table
from vpt_gym.weights.saving import policy_options

CONFIG = VPTConfig(hidden_size=16, heads=2, impala_width=1, blocks=1, memory=4, dense_size=8, mlp_ratio=2, frame_size=8)
"""As small as networks get, so that most damage hits what describes the numbers and not the numbers."""

CONTAINERS = ("weights zip", "weights row", "model", "safetensors", "sharded", "config", "ckpt")


def tensors() -> dict[str, torch.Tensor]:
    """The network and its heads, by VPT's names."""
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {spec.vpt_name: spec.shape for spec in table(CONFIG)}
    shapes |= {"pi_head.linear_layer.weight": (5, 16), "pi_head.linear_layer.bias": (5,)}
    shapes |= {"value_head.linear.weight": (1, 16), "value_head.linear.bias": (1,)}
    shapes |= {f"value_head.normalizer.{name}": (1,) for name in ("running_mean", "running_mean_sq")}
    shapes |= {"value_head.normalizer.debiasing_term": ()}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def write(folder: Path) -> None:
    """Every container, whole, each in a folder of its name."""
    whole = tensors()
    for name in CONTAINERS:
        (folder / name).mkdir(parents=True)
    torch.save(whole, folder / "weights zip" / "x.weights")
    torch.save(whole, folder / "weights row" / "x.weights", _use_new_zipfile_serialization=False)
    torch.save(whole, folder / "model" / "x.weights")
    described = {"model": {"args": {"net": {"args": policy_options(CONFIG)}, "pi_head_opts": {"temperature": "2.0"}}}}
    (folder / "model" / "x.model").write_bytes(pickle.dumps(described))
    save_file(whole, folder / "safetensors" / "x.safetensors")
    names = list(whole)
    parts = {"model-00001-of-00002.safetensors": names[:30], "model-00002-of-00002.safetensors": names[30:]}
    for part, inside in parts.items():
        save_file({name: whole[name] for name in inside}, folder / "sharded" / part)
    places = {name: part for part, inside in parts.items() for name in inside}
    index = {"metadata": {"total_size": sum(tensor.nbytes for tensor in whole.values())}, "weight_map": places}
    (folder / "sharded" / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file(whole, folder / "config" / "model.safetensors")
    config = {"policy_kwargs": policy_options(CONFIG), "temperature": 2.0}
    (folder / "config" / "config.json").write_text(json.dumps(config))
    lightning = {
        "epoch": 1,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {f"mine_policy.{name}": tensor for name, tensor in whole.items()},
        "optimizer_states": [{"state": {0: {"step": torch.ones(()), "exp_avg": torch.zeros(4)}}}],
    }
    torch.save(lightning, folder / "ckpt" / "x.ckpt")


def source_of(folder: Path, container: str) -> str:
    """What the container is loaded by."""
    files = {"weights zip": "x.weights", "weights row": "x.weights", "model": "x.weights", "ckpt": "x.ckpt"}
    files["safetensors"] = "x.safetensors"
    return str(folder / files[container]) if container in files else str(folder)


def damage(whole: Path, container: str, target: Path, rng: random.Random) -> str:
    """Copy a container into a new folder with one or two of its files' parts damaged; say how."""
    shutil.copytree(whole / container, target)
    victims = {
        "model": ["x.model"],
        "config": ["config.json"],
        "sharded": sorted(entry.name for entry in target.iterdir()),
    }.get(container, [Path(source_of(target, container)).name])
    victim = target / rng.choice(victims)
    told = []
    for _ in range(1 if rng.random() < 0.8 else 2):
        kinds = OF_BYTES if rng.random() < 0.4 else of_structure(victim, victim.read_bytes())
        mutation = rng.choice(kinds)
        content = victim.read_bytes()
        victim.write_bytes(mutation(content, rng) if content else content)
        told.append(mutation.__name__)
    return f"{victim.name}: {', '.join(told)}"
