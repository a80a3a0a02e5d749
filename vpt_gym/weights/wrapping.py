"""Names of tensors without what other software puts around a policy: DDP, torch.compile, Lightning, trainers' own dicts."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from vpt_gym.errors import WeightsError
from vpt_gym.weights.names import NETWORK_PREFIX
from vpt_gym.weights.tensors import Take, TensorFile, TensorInfo

__all__ = ["unwrapped"]

_ANYWHERE = frozenset({"module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Modules that stand around another one, the policy or a part of it: DDP, torch.compile, Fabric and DeepSpeed, FSDP."""
_BEFORE = frozenset({"policy", "model", "mine_policy", "state_dict", "model_state_dict"})
"""What a training calls the policy, or the entry of a checkpoint that holds its state."""
_NETWORK = re.compile(r"(?P<prefix>(?:.*\.)?)net\.(?:img_process|recurrent_layer|lastlayer|final_ln)\.")
_OURS = ("net.", "pi_head.", "value_head.")


def unwrapped(path: Path, file: TensorFile) -> TensorFile:
    """The same tensors under VPT's own names, `net.` and the heads', wherever the names that are there lead to them.

    Raises:
        WeightsError: the file holds more than one network, or two tensors for one name; or something under a name of the
            network is no tensor.
    """
    bare = {name: _without_wrappers(name) for name in [*file.infos(), *file.others]}
    prefix = _prefix(path, bare)
    theirs: dict[str, str] = {}
    for name, inner in bare.items():
        ours = inner.removeprefix(prefix) if prefix else inner
        if name in file.others:
            if ours.startswith(NETWORK_PREFIX):
                raise WeightsError(
                    f"{path}: {ours} is no plain tensor but {file.others[name]}: save the policy's state_dict as it is."
                )
        elif ours not in theirs:
            theirs[ours] = name
        elif ours.startswith(_OURS):
            raise WeightsError(
                f"{path} holds two tensors for {ours}, {theirs[ours]!r} and {name!r}, and it cannot be known which of them "
                "is meant: save one policy's state_dict alone."
            )
        else:
            theirs[name] = name
    return _Renamed(file, theirs)


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _ANYWHERE)


def _prefix(path: Path, bare: Mapping[str, str]) -> str:
    """What stands before `net.`, the empty string where nothing does or where it is nothing that we know."""
    found: dict[str, str] = {}
    for name, inner in bare.items():
        if match := _NETWORK.match(inner):
            found.setdefault(match["prefix"], name)
    if len(found) > 1:
        names = _listed([f"{prefix or 'no prefix'!r}" for prefix in found])
        raise WeightsError(
            f"{path} holds {len(found)} networks, under {names}, and it cannot be known which of them is meant (examples: "
            f"{_listed(list(found.values()))}): save one policy's state_dict alone."
        )
    prefix = next(iter(found), "")
    return prefix if set(prefix.split(".")[:-1]) <= _BEFORE else ""


def _listed(items: Collection[str]) -> str:
    return ", ".join(list(items)[:5])


class _Renamed:
    """A file whose tensors go by other names."""

    def __init__(self, file: TensorFile, theirs: Mapping[str, str]) -> None:
        self._file = file
        self._theirs = theirs
        infos = file.infos()
        self._infos = {ours: infos[name] for ours, name in theirs.items()}
        self.others: Mapping[str, str] = file.others

    def infos(self) -> Mapping[str, TensorInfo]:
        return self._infos

    def visit(self, names: Sequence[str], take: Take) -> None:
        ours = {self._theirs[name]: name for name in names}
        self._file.visit(list(ours), lambda name, tensor: take(ours[name], tensor))
